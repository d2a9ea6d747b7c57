"""Integers in a graph by onnxruntime, and what makes it break: mask constants, and tensors with outliers."""

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from olivine import lazy
from olivine.errors import ModelError
from olivine.exporting.graph_files import Saving, open_graph, save_graph
from olivine.exporting.mask_constants import replace_masks

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    import onnxruntime
else:
    np, ir, onnxruntime = lazy.module("numpy"), lazy.module("onnx_ir"), lazy.module("onnxruntime")

Row = Mapping[str, Any]
MASKED = -10000.0  # what stands for minus infinity before a softmax: exp of it is 0 in any type
_INFINITE = 1e30
_FLOAT = 1  # TensorProto.FLOAT
_LARGE = 2**31 - 2**24  # bytes of weights above which nothing fits into one message
_WITH_WEIGHTS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Gather", "Attention", "EmbedLayerNormalization", "LSTM")


@dataclass(frozen=True)
class Recipe:
    """How a graph is quantized; names are those of onnxruntime.quantization.

    excluded: nodes that stay as they are. options: its extra_options.
    """

    mode: Literal["static", "dynamic"]
    weight_type: str = "QInt8"
    activation_type: str = "QInt8"
    quant_format: str = "QDQ"
    calibrate_method: str = "MinMax"
    per_channel: bool = False
    reduce_range: bool = False
    op_types: Sequence[str] | None = None
    included: Sequence[str] | None = None
    excluded: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def prepared(model: "ir.Model", folder: Path, *, preprocess: bool, optimize: bool = True) -> tuple[Path, int]:
    """The graph in a file that can be quantized, every node named, and how many mask constants were mended.

    optimize: onnxruntime's own rules come first, which join nodes under other names.
    """
    n_mended = replace_masks(model, -_INFINITE, MASKED)
    for number, node in enumerate(model.graph.all_nodes()):
        node.name = node.name or f"{node.op_type}_{number}"
    path = folder / "float" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_graph(model, path, Saving())
    if not preprocess:
        return path, n_mended
    ready = folder / "ready" / "model.onnx"
    ready.parent.mkdir(parents=True, exist_ok=True)
    return (ready if _preprocess(path, ready, optimize=optimize) else path), n_mended


def _preprocess(path: Path, ready: Path, *, optimize: bool) -> bool:
    """Fold constants and infer shapes, as onnxruntime wants it before; False where it cannot."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    for skips_symbols in (False, True):
        try:
            with contextlib.chdir(ready.parent):  # its symbolic part leaves files in the current folder where it fails
                quant_pre_process(
                    str(path.absolute()),
                    str(ready.absolute()),
                    skip_optimization=not optimize,
                    skip_symbolic_shape=skips_symbols,
                )
        except Exception:  # noqa: BLE001, S112 - the symbolic part raises bare exceptions for unknown operators
            continue
        return True
    return False


def quantized(path: Path, target: Path, recipe: Recipe, rows: Sequence[Row]) -> None:
    """Write the graph quantized; rows calibrate a static one. ModelError with what onnxruntime says."""
    from onnxruntime import quantization

    given: dict[str, Any] = {
        "op_types_to_quantize": list(recipe.op_types) if recipe.op_types else None,
        "per_channel": recipe.per_channel,
        "reduce_range": recipe.reduce_range,
        "weight_type": quantization.QuantType[recipe.weight_type],
        "nodes_to_quantize": list(recipe.included) if recipe.included else None,
        "nodes_to_exclude": list(recipe.excluded),
        "use_external_data_format": _is_large(path),
        "extra_options": {"DefaultTensorType": _FLOAT, **_typed(recipe.options)},  # of what no shape is inferred
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if recipe.mode == "dynamic":
            quantization.quantize_dynamic(str(path), str(target), **given)
            return
        if "16" in recipe.activation_type:
            given["extra_options"] = {"UseQDQContribOps": True, **given["extra_options"]}
        quantization.quantize_static(
            str(path),
            str(target),
            _reader(rows),
            quant_format=quantization.QuantFormat[recipe.quant_format],
            activation_type=quantization.QuantType[recipe.activation_type],
            calibrate_method=quantization.CalibrationMethod[recipe.calibrate_method],
            **given,
        )
    except Exception as error:  # onnxruntime raises whatever an operator that it did not expect leads to
        told = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"onnxruntime cannot quantize the graph: {told}") from error


def _typed(value: Any) -> Any:
    """Options of JSON as onnxruntime takes them: a "quant_type", of whatever tensor, is one of its own types."""
    from onnxruntime.quantization import QuantType

    if isinstance(value, list | tuple):
        return [_typed(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: QuantType[plain_type(item)] if key == "quant_type" and isinstance(item, str) else _typed(item)
        for key, item in value.items()
    }


def plain_type(value: Any) -> Any:
    """The name of a type as onnxruntime.quantization has it: int8 is QInt8."""
    names = {
        "int8": "QInt8",
        "uint8": "QUInt8",
        "int16": "QInt16",
        "uint16": "QUInt16",
        "int4": "QInt4",
        "uint4": "QUInt4",
    }
    return names.get(value.lower(), value) if isinstance(value, str) else value


def _is_large(path: Path) -> bool:
    return sum(file.stat().st_size for file in path.parent.iterdir()) > _LARGE


def _reader(rows: Sequence[Row]) -> Any:
    """The rows as onnxruntime asks for them: one after the other, then None."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = iter(rows)

        def get_next(self) -> Any:
            row = next(self._rest, None)
            return None if row is None else dict(row)

    return Reader()


def without_weights(path: Path) -> list[str]:
    """Names of the nodes that hold no weights: cheap to compute in float, and where ranges are widest."""
    graph = open_graph(path).graph
    return [str(node.name) for node in graph.all_nodes() if not _holds_weights(node)]


def _holds_weights(node: "ir.Node") -> bool:
    constants = [value for value in node.inputs if value is not None and value.const_value is not None]
    return node.op_type in _WITH_WEIGHTS and any(value.const_value.size > 1 for value in constants)


def by_loss(path: Path, rows: Sequence[Row], bits: int = 8) -> list[str]:
    """Names of the nodes with weights, those first whose inputs lose most when they are rounded to `bits` bits.

    Loss: mean squared rounding error of a uniform grid over the range, relative to the variance.
    """
    model = open_graph(path)
    nodes = {
        str(node.inputs[0].name): str(node.name) for node in model.graph if _holds_weights(node) and node.inputs[0]
    }
    outputs = {str(value.name) for value in model.graph.outputs}
    inputs = {str(value.name) for value in model.graph.inputs}
    for node in model.graph:
        for value in node.outputs:
            if value.name in nodes and value.name not in outputs | inputs:
                model.graph.outputs.append(value)
                value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
    probed = path.parent / "probed" / path.name
    probed.parent.mkdir(exist_ok=True)
    save_graph(model, probed, Saving())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(probed), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs() if one.name in nodes]
    if not names:
        return []
    losses = dict.fromkeys(names, 0.0)
    for row in rows[:8]:
        for name, array in zip(names, session.run(names, dict(row)), strict=True):
            losses[name] = max(losses[name], _loss(array, bits))
    return [nodes[name] for name in sorted(names, key=lambda name: -losses[name])]


def _loss(array: Any, bits: int) -> float:
    if array.dtype.kind != "f" or not array.size:
        return 0.0
    numbers = array.astype(np.float64)
    step = (numbers.max() - numbers.min()) / (2**bits - 1)
    return float(step**2 / 12 / max(float(numbers.var()), 1e-12))


@dataclass(frozen=True)
class Rung:
    """A recipe that was tried. cosine: of its outputs to those of the float graph, on the rows."""

    name: str
    recipe: Recipe
    path: Path
    cosine: float
    n_bytes: int


def climb(
    path: Path,
    folder: Path,
    asked: Recipe,
    rows: Sequence[Row],
    least: float,
    score: Callable[[Path], float],
    mends: Collection[str],
) -> list[Rung]:
    """Quantize as asked; while the outputs are further away than `least`, mend in turn, what is cheapest to run first.

    mends: names of those that are allowed. Each goes on from the best before it.
    """
    rungs: list[Rung] = []
    recipe, name = asked, "as asked"
    steps = iter([step for step in _STEPS if step in mends])
    while True:
        target = folder / f"rung{len(rungs)}" / "model.onnx"
        quantized(path, target, recipe, rows)
        n_bytes = sum(file.stat().st_size for file in target.parent.iterdir())
        rungs.append(Rung(name, recipe, target, score(target), n_bytes))
        if rungs[-1].cosine >= least:
            return rungs
        recipe = max(reversed(rungs), key=lambda rung: rung.cosine).recipe  # a mend that did harm is taken back
        for name in steps:
            other = _STEPS[name](recipe, path, rows)
            if other != recipe:
                recipe = other
                break
        else:
            return rungs


def _only_weights(recipe: Recipe, path: Path, rows: Sequence[Row]) -> Recipe:  # noqa: ARG001
    return replace(recipe, excluded=tuple(dict.fromkeys([*recipe.excluded, *without_weights(path)])))


def _per_channel(recipe: Recipe, path: Path, rows: Sequence[Row]) -> Recipe:  # noqa: ARG001
    return replace(recipe, per_channel=True)


def _reduced(recipe: Recipe, path: Path, rows: Sequence[Row]) -> Recipe:  # noqa: ARG001
    return replace(recipe, reduce_range=True) if "8" in recipe.weight_type else recipe


def _without_worst(recipe: Recipe, path: Path, rows: Sequence[Row]) -> Recipe:
    """A quarter of the nodes, those that lose most, stay in float."""
    left = [name for name in by_loss(path, rows) if name not in recipe.excluded]
    return replace(recipe, excluded=(*recipe.excluded, *left[: max(1, len(left) // 4)]))


def _wide(recipe: Recipe, path: Path, rows: Sequence[Row]) -> Recipe:  # noqa: ARG001
    is_narrow = recipe.mode == "static" and recipe.quant_format == "QDQ" and "16" not in recipe.activation_type
    return replace(recipe, activation_type="QUInt16") if is_narrow else recipe


_STEPS: Mapping[str, Callable[[Recipe, Path, Sequence[Row]], Recipe]] = {
    "only nodes with weights": _only_weights,
    "a scale per channel": _per_channel,
    "weights in 7 bits": _reduced,
    "the worst quarter in float": _without_worst,
    "activations in 16 bits": _wide,
}
MENDS = tuple(_STEPS)
"""What is done where a quantized graph is too far from the float one, in this order."""

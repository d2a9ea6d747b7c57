"""A module of transformers to an ONNX graph: traced once, run beside torch at two sizes of every open dimension.

Two exporters are tried in turn. The older one traces in a second and writes the nodes that onnxruntime's fusions know;
the newer one (torch.export) takes what the older one cannot, such as Whisper, and opsets above 20. A model of OpenVINO
comes from the traced module, or from the ONNX graph of one of the two.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from olivine import lazy
from olivine.errors import ModelError
from olivine.exporting import openvino_ir as ir
from olivine.models.sample_inputs import made_up
from olivine.models.signature import Signature, TensorSpec
from olivine.runtimes.module import call
from olivine.runtimes.openvino import OpenvinoSession
from olivine.runtimes.session import OnnxSession

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np, torch = lazy.module("numpy"), lazy.module("torch")

Exporter = Literal["torchscript", "dynamo", "openvino", "openvino_by_torchscript", "openvino_by_dynamo"]
OPSETS: Mapping[Exporter, range] = {"torchscript": range(9, 21), "dynamo": range(18, 24)}
OPENVINO: tuple[Exporter, ...] = ("openvino", "openvino_by_torchscript", "openvino_by_dynamo")
_BETWEEN: Mapping[Exporter, tuple[Exporter, int]] = {  # exporter and opset of the graph on the way to OpenVINO
    "openvino_by_torchscript": ("torchscript", 17),
    "openvino_by_dynamo": ("dynamo", 18),
}
_TOLERANCE = {"float32": 1e-3, "float16": 5e-2, "bfloat16": 2e-1}  # of the largest output
_SIZES = {  # else small primes
    "height": (64, 96),
    "width": (64, 96),
    "samples": (4000, 5200),
    "frames": (96, 160),
    "latent_height": (8, 16),
    "latent_width": (16, 8),  # attention over latents takes the square of their product
}


@dataclass(frozen=True)
class Exported:
    """A graph in a file. exporter: that wrote it. difference: the largest to torch, of the largest output."""

    path: Path
    exporter: Exporter
    difference: float


@dataclass(frozen=True)
class Request:
    """What is to be exported.

    module: takes the inputs of `signature` by their names. outputs: their names in the order of the module's, None for
    its own. is_dynamic: sizes that have a name stay open. dtype: of the weights. sizes: of an example, by name;
    beside it, the model is run with one more along the first dimension. output_axes: open dimensions of outputs.
    """

    module: Any
    signature: Signature
    outputs: Sequence[str] | None
    opset: int
    is_dynamic: bool = True
    dtype: str = "float32"
    sizes: Mapping[str, int] = field(default_factory=dict)
    output_axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


def export(request: Request, folder: Path, exporters: Sequence[Exporter], note: Callable[[str], None]) -> Exported:
    """Export with the first exporter whose graph gives what the module gives. ModelError when none does."""
    samples = list(_samples(request))
    expected = [_expected(request, sample) for sample in samples]
    failures: list[str] = []
    for exporter in exporters:
        path = folder / exporter / ("model.xml" if exporter in OPENVINO else "model.onnx")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _export(request, samples, expected, path, exporter)
            difference = _compare(path, samples, expected, _TOLERANCE[request.dtype])
        except ModelError as error:
            failures.append(f"{exporter}: {error}")
            if exporter != exporters[-1]:
                note(f"the exporter '{exporter}' does not serve this model ({error}); another one is tried")
            continue
        return Exported(path, exporter, difference)
    target = "OpenVINO" if set(exporters) <= set(OPENVINO) else f"opset {request.opset}"
    raise ModelError(f"the model cannot be exported to {target}: {'; '.join(failures)}")


def _samples(request: Request) -> Iterator[Mapping[str, Any]]:
    """Inputs of one size and, where sizes stay open, of another."""
    names = _open_sizes(request.signature) if request.is_dynamic else []
    for place in range(2 if names else 1):
        sizes = {name: _size(name, index, place) for index, name in enumerate(names)}
        first = {spec.shape[0] for spec in request.signature.inputs if spec.shape}
        sizes |= {name: size + (place if name in first else 0) for name, size in request.sizes.items()}
        (row,) = made_up(request.signature, 1, 0, sizes)
        dtype = getattr(torch, request.dtype)
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in row.items()}
        yield {name: one.to(dtype) if one.is_floating_point() else one for name, one in tensors.items()}


def _open_sizes(signature: Signature) -> list[str]:
    sizes = (size for spec in signature.inputs for size in spec.shape or () if isinstance(size, str))
    return list(dict.fromkeys(sizes))


def _size(name: str, index: int, place: int) -> int:
    """Of the dimension in the first or second sample; no two dimensions have the same two sizes."""
    return _SIZES.get(name, ((2, 5, 7, 9, 11, 13, 17, 19)[index % 8], (3, 7, 5, 11, 9, 17, 13, 23)[index % 8]))[place]


def _expected(request: Request, sample: Mapping[str, Any]) -> dict[str, Any]:
    try:
        outputs = call(request.module, sample)
    except Exception as error:  # a model's own code raises whatever it likes
        shapes = ", ".join(f"{name} {list(one.shape)}" for name, one in sample.items())
        raise ModelError(f"the model does not run on {shapes}: {_last_line(error)}") from error
    names = list(request.outputs or outputs)
    if len(names) > len(outputs):
        raise ModelError(f"the model has {len(outputs)} outputs ({', '.join(outputs)}), and {len(names)} are named")
    chosen = names if set(names) <= set(outputs) else list(outputs)[: len(names)]
    return {name: outputs[own] for name, own in zip(names, chosen, strict=True)}


def _export(
    request: Request,
    samples: Sequence[Mapping[str, Any]],
    expected: Sequence[Mapping[str, Any]],
    path: Path,
    exporter: Exporter,
) -> None:
    names, outputs = list(samples[0]), list(expected[0])
    if exporter in _BETWEEN:
        graph, (own, opset) = path.with_suffix(".onnx"), _BETWEEN[exporter]
        _export(replace(request, opset=opset), samples, expected, graph, own)
        ir.save(ir.from_onnx(graph), path, half=False)
        return
    module = _positional(request, names, outputs)
    axes = _axes(request.signature) if len(samples) > 1 else {}
    given: dict[str, Any] = {"dynamo": exporter == "dynamo"}
    if exporter == "dynamo":
        given |= {"dynamic_shapes": (tuple(axes.get(name) for name in names),) if axes else None, "verbose": False}
    else:
        told = {name: dict(open_axes) for name, open_axes in request.output_axes.items() if name in outputs and axes}
        given |= {"dynamic_axes": axes | _output_axes(request.signature, samples, expected) | told}
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # of tracing: what it froze is seen in the second sample
            if exporter == "openvino":
                is_open = len(samples) > 1
                shapes = [_shape(spec, samples[0][spec.name], is_dynamic=is_open) for spec in request.signature.inputs]
                ir.save(ir.from_torch(module, samples[0], outputs, shapes), path, half=False)
                return
            torch.onnx.export(
                module,
                tuple(samples[0].values()),
                str(path),
                input_names=names,
                output_names=outputs,
                opset_version=request.opset,
                **given,
            )
    except (MemoryError, ModelError):
        raise
    except Exception as error:  # exporters raise whatever the code that they trace does
        raise ModelError(_last_line(error)) from error


def _shape(spec: TensorSpec, sample: Any, *, is_dynamic: bool) -> list[int]:
    """The sizes of an input in the result, -1 where it is open."""
    sizes = spec.shape if spec.shape is not None and is_dynamic else tuple(sample.shape)
    return [size if isinstance(size, int) else -1 for size in sizes]


def _positional(request: Request, names: Sequence[str], outputs: Sequence[str]) -> Any:
    """The module as a function of its inputs in order, which gives its outputs in order: what exporters take."""
    chosen = list(outputs) if request.outputs is None else None

    class Positional(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = request.module

        def forward(self, *inputs: Any) -> Any:
            given = self.inner(**dict(zip(names, inputs, strict=True)), return_dict=True)
            tensors = {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}
            own = chosen or (list(outputs) if set(outputs) <= set(tensors) else list(tensors)[: len(outputs)])
            return tuple(tensors[name] for name in own)

    return Positional().eval()


def _axes(signature: Signature) -> dict[str, dict[int, str]]:
    """The open dimensions of every input by their place."""
    return {spec.name: _open(spec) for spec in signature.inputs if _open(spec)}


def _open(spec: TensorSpec) -> dict[int, str]:
    return {axis: size for axis, size in enumerate(spec.shape or ()) if isinstance(size, str)}


def _output_axes(
    signature: Signature, samples: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]
) -> dict[str, dict[int, str]]:
    """The dimensions of outputs that differ between samples, by the name of the size of an input that is the same."""
    if len(samples) < 2:
        return {}
    known: dict[tuple[int, int], str] = {}
    for spec in signature.inputs:
        for axis, name in _open(spec).items():
            first, second = (sample[spec.name].shape[axis] for sample in samples)
            known.setdefault((first, second), name)
    axes: dict[str, dict[int, str]] = {}
    for name, value in expected[0].items():
        pairs = enumerate(zip(value.shape, expected[1][name].shape, strict=True))
        moving = {axis: known.get((a, b), f"{name}_{axis}") for axis, (a, b) in pairs if a != b}
        axes |= {name: moving} if moving else {}
    return axes


def _compare(
    path: Path, samples: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]], tolerance: float
) -> float:
    """The largest difference of the graph to the module; ModelError when it is no rounding."""
    session = OpenvinoSession(path, exact=True) if path.suffix == ".xml" else OnnxSession(path)
    taken = session.input_names
    worst = 0.0
    for sample, outputs in zip(samples, expected, strict=True):
        if any(value.dtype == torch.bfloat16 for value in (*sample.values(), *outputs.values())):
            continue  # numpy has no such type: the graph was loaded, and is scored as the result
        given = session.run({name: value.numpy() for name, value in sample.items() if name in taken})
        for name, value in outputs.items():
            worst = max(worst, _difference(name, value.numpy(), given[name]))
    if worst > tolerance:
        raise ModelError(
            f"the graph computes something else than the model: outputs differ by {worst:.2g} of the largest"
        )
    return worst


def _difference(name: str, expected: Any, given: Any) -> float:
    if expected.shape != given.shape:
        raise ModelError(
            f"the graph is bound to one size: '{name}' has the shape {list(given.shape)} where the model gives "
            f"{list(expected.shape)}"
        )
    if not expected.size:
        return 0.0
    one, other = expected.astype(np.float64), given.astype(np.float64)
    difference = float(np.abs(one - other).max() / max(float(np.abs(one).max()), 1e-3))
    if not np.isfinite(difference):
        raise ModelError(f"the output '{name}' holds NaN or infinity")
    return difference


def _last_line(error: BaseException) -> str:
    """The last useful line of what an exporter says: of the error that began it, without its report."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    told = next((line for line in lines if not line.startswith(("#", "|", "graph", "%", "While executing"))), "")
    return f"{type(root).__name__}: {told[:300]}" if told else type(root).__name__

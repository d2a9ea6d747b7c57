"""GPTQ over a model, layer by layer: each layer sees what the quantized layers before it give."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from olivine import lazy
from olivine.calibration.decoder import HEAD
from olivine.calibration.layer_stream import Layer, LayerStream
from olivine.calibration.statistics import Statistic
from olivine.errors import ModelError
from olivine.models.kept import is_whole, keep
from olivine.models.tensors import LazyTensor

if TYPE_CHECKING:
    import torch

    from olivine.kernels.blockwise import Blockwise, Format
else:
    torch = lazy.module("torch")

# by a weight's name: reads or computes it in blocks, when called
Quantized = Mapping[str, "Callable[[], Blockwise]"]


@dataclass(frozen=True)
class Sweep:
    """How GPTQ goes over a layer.

    damping: share of the mean diagonal added to a Hessian. act_order: visit columns by falling importance.
    true_sequential: within a layer, too, every input is that which quantized weights make. n_refinements: how often
    codes and scales are mended in turn after the sweep, see `kernels.refine`. led_back: share of what the layers before
    have moved its inputs that a layer makes up for, see `kernels.gptq.led_back`.
    """

    damping: float = 0.01
    act_order: bool = True
    true_sequential: bool = False
    n_refinements: int = 0
    led_back: float = 0.0


def gptq_layers(
    stream: LayerStream,
    formats: "Mapping[str, Format]",
    sweep: Sweep,
    folder: Path,
    beside: LayerStream | None = None,
) -> Quantized:
    """Quantize the weights that `formats` names; each is read again from `folder` when it is asked for.

    A layer's file is written whole or not at all. One that is there already is taken over: a run that was killed goes
    on from its last layer, and ends with the same codes. beside: the model as it was, for `led_back`. Raises ModelError
    that names a weight which is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    readers: dict[str, Callable[[], Blockwise]] = {}
    # strict: the model beside is run to its end, too
    both = ((layer, None) for layer in stream) if beside is None else zip(stream, beside, strict=True)
    for layer, other in both:
        file = folder / f"{layer.name}.safetensors"
        if not is_whole(file):
            _save(file, dict(_quantized(layer, stream, formats, sweep, other)))
        of_layer = load_layer(file)
        for name, read in of_layer.items():
            _replace(layer, name, read())
        layer.run()
        readers |= of_layer
    if HEAD in formats:
        file = folder / "head.safetensors"
        if not is_whole(file):
            _save(file, dict(_group(stream.head("full", beside), stream, formats, sweep)))
        readers |= load_layer(file)
    return readers


def quantized_matrix(
    name: str,
    tensor: LazyTensor,
    hessian: "Callable[[], torch.Tensor]",
    fmt: "Format",
    sweep: Sweep,
    folder: Path,
    device: str,
) -> Quantized:
    """One matrix of no layer, under `name`, by what `hessian` gives when it is not in `folder` already."""
    file = folder / f"{name}.safetensors"
    if not is_whole(file):
        values, weight = hessian(), tensor.read().to(device, torch.float32)
        try:
            _save(file, {name: _rounded(weight, values, fmt, sweep)})
        except ValueError as error:
            raise ModelError(f"'{tensor.name}' cannot be quantized: {error}") from error
    return load_layer(file)


def _rounded(weight: "torch.Tensor", hessian: "torch.Tensor", fmt: "Format", sweep: Sweep) -> "Blockwise":
    from olivine.kernels.gptq import factor, gptq

    shared = factor(hessian, damping=sweep.damping, act_order=sweep.act_order)
    return _refiner(hessian, sweep)(weight, gptq(weight, shared, fmt, half_scales=True))


def _quantized(
    layer: Layer, stream: LayerStream, formats: "Mapping[str, Format]", sweep: Sweep, beside: Layer | None
) -> "Iterator[tuple[str, Blockwise]]":
    """The weights of a layer, those that read one input together."""
    if not sweep.true_sequential:
        for statistic in layer.run("full", formats, beside):
            yield from _group(statistic, stream, formats, sweep)
        return
    inputs = [statistic.names for statistic in layer.run("diagonal", formats)]
    for names in inputs:
        for statistic in layer.run("full", names, beside):
            for name, blocks in _group(statistic, stream, formats, sweep):
                _replace(layer, name, blocks)
                yield name, blocks


def _group(
    statistic: Statistic, stream: LayerStream, formats: "Mapping[str, Format]", sweep: Sweep
) -> "Iterator[tuple[str, Blockwise]]":
    """The weights that read one input: one factor for all, one sweep for those of one format."""
    from olivine.kernels.gptq import factor, gptq, led_back

    names = [name for name in statistic.names if name in formats]
    try:
        shared = factor(statistic.values, damping=sweep.damping, act_order=sweep.act_order)
        refined = _refiner(statistic.values, sweep)
        for fmt in dict.fromkeys(formats[name] for name in names):
            together = [name for name in names if formats[name] == fmt]
            parts = [stream.source[name].read().to(stream.device, torch.float32) for name in together]
            weight = torch.cat(parts)
            if statistic.drift is not None and sweep.led_back:
                weight = led_back(weight, statistic.drift, shared, sweep.led_back)
            blocks = refined(weight, gptq(weight, shared, fmt, half_scales=True))
            yield from zip(together, _apart(blocks, map(len, parts)), strict=True)
    except ValueError as error:
        raise ModelError(f"{', '.join(names)} cannot be quantized: {error}") from error


def _refiner(hessian: "torch.Tensor", sweep: Sweep) -> "Callable[[torch.Tensor, Blockwise], Blockwise]":
    from olivine.kernels.refine import refine

    def refined(weight: "torch.Tensor", blocks: "Blockwise") -> "Blockwise":
        if not sweep.n_refinements:
            return blocks
        return refine(weight, hessian, blocks, n_rounds=sweep.n_refinements, damping=sweep.damping, half_scales=True)

    return refined


def _apart(blocks: "Blockwise", heights: "Iterable[int]") -> "Iterator[Blockwise]":
    """Weights that were quantized one above the other in one sweep (rows do not depend on each other), cut apart."""
    first = 0
    for height in heights:
        yield blocks.rows(first, first + height)
        first += height


def _replace(layer: Layer, name: str, blocks: "Blockwise") -> None:
    """Let the layer compute with the quantized weight from now on."""
    parameter = layer.parameter(name)
    parameter.data = blocks.dequantized().to(parameter.device, parameter.dtype)


def _save(file: Path, weights: "Mapping[str, Blockwise]") -> None:
    """The codes, scales and zero points of each weight; bits and group size as metadata, "4 32"."""
    tensors: dict[str, torch.Tensor] = {}
    for name, blocks in weights.items():
        tensors[f"{name}|codes"] = blocks.codes.contiguous()
        tensors[f"{name}|scales"] = blocks.scales.contiguous()
        if blocks.zero_points is not None:
            tensors[f"{name}|zero_points"] = blocks.zero_points.contiguous()
    formats = {name: f"{blocks.bits} {blocks.group}" for name, blocks in weights.items()}
    keep(file, tensors, formats)


def load_layer(file: Path) -> "dict[str, Callable[[], Blockwise]]":
    """What was kept in a file of `gptq_layers`, each weight read when it is asked for."""
    from safetensors import safe_open

    with safe_open(str(file), framework="pt") as handle:
        return {name: _reader(file, name, value) for name, value in (handle.metadata() or {}).items()}


def _reader(file: Path, name: str, bits_and_group: str) -> "Callable[[], Blockwise]":
    def read() -> "Blockwise":
        from safetensors import safe_open

        from olivine.kernels.blockwise import Blockwise

        bits, group = (int(number) for number in bits_and_group.split())
        with safe_open(str(file), framework="pt") as handle:
            key = f"{name}|zero_points"
            zero = handle.get_tensor(key) if key in handle.keys() else None  # noqa: SIM118 - it is no mapping
            return Blockwise(bits, group, handle.get_tensor(f"{name}|codes"), handle.get_tensor(f"{name}|scales"), zero)

    return read

"""Where AWQ's scales go: into the norm that makes an input, or into the rows of the weight that does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.models import Model
from olivine.models.weights import LazyTensor, Weights
from olivine.passes._base import Reporter
from olivine.passes.quantize._calibrate import Layer, LayerStream, Statistic

if TYPE_CHECKING:
    import torch

    from olivine.kernels.awq import Fold
    from olivine.kernels.blockwise import Format
else:
    torch = lazy.module("torch")

# How far a folded layer may be from itself before, as a share of its largest output.
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}


@dataclass(frozen=True)
class Folding:
    """A change of scales inside a model that leaves the model as it is.

    folds: by the tensor's name. importances: of every linear layer's input after it, by the weight's name.
    """

    folds: "Mapping[str, Fold]"
    importances: "Mapping[str, torch.Tensor]"

    def apply(self, source: Weights) -> Weights:
        """The tensors with the folds in them, computed when read; what is folded is float32."""
        return {name: self._folded(tensor) if name in self.folds else tensor for name, tensor in source.items()}

    def _folded(self, tensor: LazyTensor) -> LazyTensor:
        fold = self.folds[tensor.name]
        return LazyTensor(tensor.name, tensor.shape, "float32", lambda: fold.apply(tensor.read()))


def find_folds(
    model: Model,
    tokens: "torch.Tensor",
    fmt: "Format",
    *,
    device: str = "cpu",
    report: Reporter | None = None,
    source: Weights | None = None,
) -> Folding:
    """Choose a scale for every input channel whose source can take it, layer by layer over the calibration tokens.

    Sources are found by what is read, not by names: a norm whose output a linear layer reads, `up_proj` for
    `down_proj`, `v_proj` for `o_proj` (heads that share values share the scales), fused layers alike. Each folded layer
    is run again: one that gives something else is left as it was, with a warning.
    """
    stream = LayerStream(model, tokens, device=device, report=report, source=source)
    folds: dict[str, Fold] = {}
    importances: dict[str, torch.Tensor] = {}
    for layer in stream:
        statistics = layer.run("diagonal")
        made = _Folds(layer, stream.source, fmt, device)
        for statistic in statistics:
            made.add(statistic)
        if not made.hold():
            made.scales.clear()
            made.folds.clear()
            if report is not None:
                report.warn(f"{layer.name} gives something else when scales are folded into it; it is left as it is")
        folds |= made.folds
        for statistic in statistics:
            scales = made.scales.get(statistic.names[0])
            values = statistic.values if scales is None else statistic.values / scales.square()
            importances |= dict.fromkeys(statistic.names, values.cpu())
    head = stream.head()
    return Folding(folds, importances | {head.names[0]: head.values.cpu()})


class _Folds:
    """The folds of one layer. scales: by the first weight that reads the input."""

    def __init__(self, layer: Layer, source: Weights, fmt: "Format", device: str) -> None:
        self._layer, self._source, self._fmt, self._device = layer, source, fmt, device
        self.folds: dict[str, Fold] = {}
        self.scales: dict[str, torch.Tensor] = {}

    def add(self, statistic: Statistic) -> None:
        """Choose the scales of an input, if there is a place for them."""
        from olivine.kernels.awq import Fold, channel_scales

        if any(self._layer.linear(name).in_features % self._fmt.group for name in statistic.names):
            return
        place = self._norm(statistic.source) if statistic.source else self._rows(statistic.names)
        if place is None:
            return
        weight = torch.cat([self._source[name].read().to(self._device).float() for name in statistic.names])
        scales = channel_scales(weight, statistic.values, self._fmt, source=place.channels)
        self.scales[statistic.names[0]] = scales

        for name in statistic.names:
            self._join(name, Fold(columns=scales.cpu()))
        for name in place.names:
            offset = 0.0 if name.endswith(".bias") else place.offset
            self._join(name, Fold(rows=place.rows(scales.cpu()), offset=offset))

    def hold(self) -> bool:
        """Whether the layer with its folds gives what it gave without them, on the first batch."""
        if not self.folds:
            return True
        before = self._layer.outputs()[0]
        for name, fold in self.folds.items():
            parameter = self._layer.parameter(name)
            parameter.data = fold.apply(parameter.data).to(parameter.dtype)
        with torch.inference_mode():
            after = self._layer.forward(0)
        allowed = TOLERANCE[str(before.dtype).removeprefix("torch.")] * float(before.abs().max())
        return float((after - before).abs().max()) <= allowed

    def _join(self, name: str, fold: "Fold") -> None:
        self.folds[name] = self.folds[name].then(fold) if name in self.folds else fold

    def _norm(self, name: str) -> "_Place":
        module = self._layer.linear(name)
        biases = (f"{name.removesuffix('weight')}bias",) if getattr(module, "bias", None) is not None else ()
        return _Place((name, *biases), offset=_offset(module))

    def _rows(self, readers: Sequence[str]) -> "_Place | None":
        """The weight whose rows make the input of `o_proj` or `down_proj`, with where they stand in it."""
        if len(readers) != 1:
            return None
        reader = readers[0].removesuffix(".weight")
        owner, _, leaf = reader.rpartition(".")
        width = self._layer.linear(readers[0]).in_features
        pairs = {"down_proj": ("up_proj", "gate_up_proj"), "o_proj": ("v_proj", "qkv_proj")}
        for maker in pairs.get(leaf, ()):
            name = f"{owner}.{maker}.weight"
            if name in self._source:
                return self._place(name, width, leaf)
        return None

    def _place(self, name: str, width: int, leaf: str) -> "_Place | None":
        module = self._layer.linear(name)
        n_rows = module.out_features
        biases = (f"{name.removesuffix('weight')}bias",) if module.bias is not None else ()
        if leaf == "down_proj":  # a fused layer holds the gate first
            return _Place((name, *biases), n_rows, n_rows - width) if n_rows in (width, 2 * width) else None
        n_values = n_rows if name.endswith("v_proj.weight") and "qkv" not in name else (n_rows - width) // 2
        head = int(getattr(self._layer.module.self_attn, "head_dim", 0) or 0)
        if not head or n_values <= 0 or n_values % head or width % n_values:
            return None
        channels = torch.arange(n_values).view(-1, 1, head).expand(-1, width // n_values, head).reshape(-1)
        return _Place((name, *biases), n_rows, n_rows - n_values, channels=channels)


@dataclass(frozen=True)
class _Place:
    """What takes 1 / s: the rows from `first` on of tensors with `n_rows` of them (0: a norm's vector, all of it).

    channels: for each input channel its row, counted from `first`, where several share one. offset: see Fold.
    """

    names: tuple[str, ...]
    n_rows: int = 0
    first: int = 0
    offset: float = 0.0
    channels: "torch.Tensor | None" = None

    def rows(self, scales: "torch.Tensor") -> "torch.Tensor":
        """The divisor of every row."""
        if not self.n_rows:
            return scales
        own = scales
        if self.channels is not None:  # channels of one row have equal scales: the last written is any of them
            own = torch.ones(self.n_rows - self.first).index_copy_(0, self.channels, scales)
        return torch.cat([torch.ones(self.first), own])


def _offset(norm: Any) -> float:
    """What the norm adds to its weight: found by running it with a weight of zero."""
    weight, bias = norm.weight, getattr(norm, "bias", None)
    probe = torch.linspace(-1.0, 1.0, len(weight), dtype=weight.dtype, device=weight.device)
    with torch.inference_mode():
        try:
            norm.weight = torch.nn.Parameter(torch.zeros_like(weight), requires_grad=False)
            given = norm(probe[None])
        finally:
            norm.weight = weight
        moved = given if bias is None else given - bias
    return 1.0 if float(moved.abs().max()) > 0 else 0.0

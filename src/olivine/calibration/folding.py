"""Where AWQ's scales go: into the norm that makes an input, or into the rows of the weight that does.

A linear layer y = W x keeps its result when column k of W is multiplied by s[k] and whatever makes x[k] divides by it
(Lin et al. 2023, arXiv:2306.00978). `kernels.awq` chooses s; this module finds what makes x.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from olivine import lazy
from olivine.calibration.decoder import norm_offset
from olivine.calibration.layer_stream import Layer, LayerStream
from olivine.calibration.statistics import Statistic
from olivine.models import Model
from olivine.models.tensors import LazyTensor, Weights
from olivine.work import Reporter

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

    folds: by the tensor's name. importances: of every linear layer's input after it, float32 [n_inputs], by the
    weight's name.
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
    tolerance: float | None = None,
) -> Folding:
    """Choose a scale for every input channel whose source can take it, layer by layer over tokens [n_rows, length].

    Sources are found by what is read, not by names: a norm whose output a linear layer reads, `up_proj` for
    `down_proj`, `v_proj` for `o_proj` (heads that share values share the scales), fused layers alike. Each folded layer
    is run again: one that gives something else is left as it was, with a warning. tolerance: what counts as something
    else, as a share of the layer's largest output; None for what the type of the activations allows.
    """
    stream = LayerStream(model, tokens, device=device, report=report, source=source)
    folds: dict[str, Fold] = {}
    importances: dict[str, torch.Tensor] = {}
    for layer in stream:
        of_layer, measured = _folded(layer, stream.source, fmt, tolerance, report)
        folds |= of_layer
        importances |= measured
    head = stream.head()
    return Folding(folds, importances | {head.names[0]: head.values.cpu()})


def _folded(
    layer: Layer, source: Weights, fmt: "Format", tolerance: float | None, report: Reporter | None
) -> "tuple[dict[str, Fold], dict[str, torch.Tensor]]":
    """The folds of one layer, and the importances after them; nothing else of the layer outlives this."""
    statistics = layer.run("diagonal")
    of_layer = _LayerFolds(layer, source, fmt)
    for statistic in statistics:
        of_layer.add(statistic)
    if not of_layer.hold(tolerance):
        of_layer.scales.clear()
        of_layer.folds.clear()
        if report is not None:
            report.warn(f"{layer.name} gives something else when scales are folded into it; it is left as it is")
    importances: dict[str, torch.Tensor] = {}
    for statistic in statistics:
        scales = of_layer.scales.get(statistic.names[0])
        # the input is x / s now, and its mean square that of x by s^2
        values = statistic.values if scales is None else statistic.values / scales.square()
        importances |= dict.fromkeys(statistic.names, values.cpu())
    return of_layer.folds, importances


class _LayerFolds:
    """The folds of one layer. scales: float32 [n_inputs], by the first weight that reads the input."""

    def __init__(self, layer: Layer, source: Weights, fmt: "Format") -> None:
        self._layer, self._source, self._fmt = layer, source, fmt
        self.folds: dict[str, Fold] = {}
        self.scales: dict[str, torch.Tensor] = {}

    def add(self, statistic: Statistic) -> None:
        """Choose the scales of an input, if what makes it can take their inverse."""
        from olivine.kernels.awq import ROWS, Fold, channel_scales

        width = self._layer.linear(statistic.names[0]).in_features  # of all that read this input
        fmt = self._fmt.fitted(width)
        if width % fmt.group:
            return
        maker = self._norm(statistic.source) if statistic.source else self._weight_before(statistic.names)
        if maker is None:
            return
        weights = [self._layer.parameter(name).data for name in statistic.names]
        every = -(-sum(len(weight) for weight in weights) // ROWS)  # a few rows say it as well as all of them
        weight = torch.cat([weight[::every].float() for weight in weights])
        scales = channel_scales(weight, statistic.values, fmt, source=maker.channels)
        self.scales[statistic.names[0]] = scales

        for name in statistic.names:
            self._join(name, Fold(columns=scales.cpu()))
        for name in maker.names:
            offset = 0.0 if name.endswith(".bias") else maker.offset
            self._join(name, Fold(rows=maker.divisors(scales.cpu()), offset=offset))

    def hold(self, tolerance: float | None = None) -> bool:
        """Whether the layer with its folds gives what it gave without them, on the first batch."""
        if not self.folds:
            return True
        before = self._layer.outputs()[0]
        for name, fold in self.folds.items():
            parameter = self._layer.parameter(name)
            parameter.data = fold.apply(parameter.data).to(parameter.dtype)
        with torch.inference_mode():
            after = self._layer.forward(0)
        share = TOLERANCE[str(before.dtype).removeprefix("torch.")] if tolerance is None else tolerance
        return float((after - before).abs().max()) <= share * float(before.abs().max())

    def _join(self, name: str, fold: "Fold") -> None:
        self.folds[name] = self.folds[name].then(fold) if name in self.folds else fold

    def _norm(self, name: str) -> "_Maker":
        module = self._layer.linear(name)
        biases = (f"{name.removesuffix('weight')}bias",) if getattr(module, "bias", None) is not None else ()
        return _Maker((name, *biases), offset=norm_offset(module))

    def _weight_before(self, readers: Sequence[str]) -> "_Maker | None":
        """The weight whose rows make the input of `o_proj` or `down_proj`; None for any other reader."""
        if len(readers) != 1:
            return None
        reader = readers[0].removesuffix(".weight")
        owner, _, leaf = reader.rpartition(".")
        width = self._layer.linear(readers[0]).in_features
        pairs = {"down_proj": ("up_proj", "gate_up_proj"), "o_proj": ("v_proj", "qkv_proj")}
        for before in pairs.get(leaf, ()):
            name = f"{owner}.{before}.weight"
            if name in self._source:
                return self._rows_of(name, width, leaf)
        return None

    def _rows_of(self, name: str, width: int, leaf: str) -> "_Maker | None":
        """Which rows of the weight `name` make the `width` inputs of `leaf`; None when its shape does not say so."""
        module = self._layer.linear(name)
        n_rows = module.out_features
        biases = (f"{name.removesuffix('weight')}bias",) if module.bias is not None else ()
        if leaf == "down_proj":  # a fused layer holds the gate first
            return _Maker((name, *biases), n_rows, n_rows - width) if n_rows in (width, 2 * width) else None
        # a fused layer holds `width` rows of queries, then as many of keys as of values
        n_values = n_rows if name.endswith("v_proj.weight") and "qkv" not in name else (n_rows - width) // 2
        head = int(getattr(self._layer.module.self_attn, "head_dim", 0) or 0)
        if not head or n_values <= 0 or n_values % head or width % n_values:
            return None
        # Grouped queries: each head of values feeds width / n_values heads of `o_proj`'s input, one after another.
        channels = torch.arange(n_values).view(-1, 1, head).expand(-1, width // n_values, head).reshape(-1)
        return _Maker((name, *biases), n_rows, n_rows - n_values, channels=channels)


@dataclass(frozen=True)
class _Maker:
    """What makes an input and takes 1 / s: the rows from `first` on of tensors with `n_rows` rows.

    n_rows: 0 for a norm, whose vector takes it whole. channels: int64 [n_inputs], for each input its row counted from
    `first`, where several share one. offset: see Fold.
    """

    names: tuple[str, ...]
    n_rows: int = 0
    first: int = 0
    offset: float = 0.0
    channels: "torch.Tensor | None" = None

    def divisors(self, scales: "torch.Tensor") -> "torch.Tensor":
        """What every row is divided by, float32 [n_rows], for the scales [n_inputs]; 1 above `first`."""
        if not self.n_rows:
            return scales
        own = scales
        if self.channels is not None:  # channels of one row have equal scales: the last written is any of them
            own = torch.ones(self.n_rows - self.first).index_copy_(0, self.channels, scales)
        return torch.cat([torch.ones(self.first), own])

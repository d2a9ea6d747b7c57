"""Where an adapter starts when it does not start at zero: PiSSA and LoftQ.

PiSSA (Meng et al. 2024, arXiv:2404.02948) trains a weight's largest singular directions and freezes the rest of it.
LoftQ (Li et al. 2023, arXiv:2310.08659) starts at what the 4 bits of the base have lost. In both the adapter adds
s B0 A0 before its first step, and the frozen weight is another one than the base's:

    PiSSA           W - s B0 A0
    PiSSA, 4 bits   round(W - s B0 A0)
    LoftQ           round(W - shift); shift is 0, or with more iterations the start of the one before

What was learned is s (B A - B0 A0). A PiSSA adapter of a base that is not rounded is saved as just that, a LoRA of
twice the rank, which fits the base as it lies on disk. With a rounded base the start stands beside the adapter.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.models.adapter_files import START_FILE
from olivine.models.kept import keep, kept
from olivine.models.nf4 import Rounding, rounded

if TYPE_CHECKING:
    import safetensors.torch as safetensors_torch
    import torch
else:
    safetensors_torch = lazy.module("safetensors.torch")
    torch = lazy.module("torch")

NAMES = ("gaussian", "orthogonal", "pissa", "pissa_niter_16", "loftq")
_PISSA = re.compile(r"pissa(?:_niter_([1-9]\d*))?")
# keys of a PEFT adapter that hold a rank, and which of their dimensions it is
_RANKS = ((r"lora_A\.weight$", 0), (r"lora_B\.weight$", 1), (r"lora_embedding_A$", 0), (r"lora_embedding_B$", 1))


def is_known(name: bool | str) -> bool:
    """Whether `init_lora_weights` may have this value."""
    return isinstance(name, bool) or name in NAMES or _PISSA.fullmatch(name) is not None


def changes_base(name: bool | str) -> bool:
    """Whether the adapter starts at something that the base has to give or has lost."""
    return name == "loftq" or (isinstance(name, str) and _PISSA.fullmatch(name) is not None)


@dataclass(frozen=True)
class Factors:
    """A matrix b a of low rank, float32: a [rank, inputs], b [outputs, rank]."""

    a: "torch.Tensor"
    b: "torch.Tensor"

    def product(self) -> "torch.Tensor":
        """The product b a, float32 [outputs, inputs]."""
        return self.b @ self.a


def nearest(matrix: "torch.Tensor", rank: int, n_iterations: int | None = None) -> Factors:
    """The product of that rank that is nearest to a matrix: its largest singular directions, their size shared evenly.

    n_iterations: of the randomised decomposition (Halko et al. 2011, arXiv:0909.4061), many times as fast on a large
    matrix; None for the exact one. A rank above the matrix's own is filled with zeros.
    """
    if n_iterations is None:
        left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        left, sizes, columns = torch.svd_lowrank(matrix, min(rank, *matrix.shape), niter=n_iterations)
        right = columns.T
    roots = sizes[:rank].sqrt()
    a, b = roots[:, None] * right[:rank], left[:, :rank] * roots
    missing = rank - len(roots)
    pad = torch.nn.functional.pad
    return Factors(pad(a, (0, 0, 0, missing)).contiguous(), pad(b, (0, missing)).contiguous())


def loftq(weight: "torch.Tensor", rank: int, rounding: Rounding, n_iterations: int) -> tuple[Factors, Factors | None]:
    """Algorithm 1 of the paper: by turns round W - b a and decompose what that leaves of W; the start and the shift."""
    shift: Factors | None = None
    start = _left(weight, rank, rounding, None)
    for _ in range(n_iterations - 1):
        shift, start = start, _left(weight, rank, rounding, start)
    return start, shift


def _left(weight: "torch.Tensor", rank: int, rounding: Rounding, shift: Factors | None) -> Factors:
    frozen = rounded(weight if shift is None else weight - shift.product(), rounding)
    return nearest(weight - frozen, rank)


@dataclass
class Starts:
    """The starts of one training: found while the base is loaded, put into the adapter, kept beside it.

    name: of `init_lora_weights`. scaling: s. rounding: how the base is stored, None for as it is. is_trained: whether
    the layer of that full name gets an adapter. kept: a file that a killed training left and the next one reads, so
    that it goes on from the same numbers; written by `keep`.
    """

    name: str
    rank: int
    scaling: float
    rounding: Rounding | None
    n_iterations: int
    is_trained: Callable[[str], bool]
    kept: Path
    _starts: dict[str, Factors] = field(default_factory=dict)
    _shifts: dict[str, Factors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if tensors := kept(self.kept):
            self._starts, self._shifts = (_factors(tensors, which) for which in ("start", "shift"))

    def take(self, name: str, layer: Any) -> Mapping[str, "torch.Tensor"]:
        """What to subtract from the weights of a decoder layer, by their names in it; finds the starts on the way."""
        shifts = {}
        for inner, module in layer.named_modules():
            full = f"{name}.{inner}"
            if type(module) is not torch.nn.Linear or not self.is_trained(full):
                continue
            weight = module.weight.detach().float()
            if full not in self._starts:
                self._find(full, weight)
            if full in self._shifts:
                shifts[inner] = _on(self._shifts[full], weight.device).product()
        return shifts

    def _find(self, name: str, weight: "torch.Tensor") -> None:
        if self.name == "loftq" and self.rounding is not None:
            start, shift = loftq(weight, self.rank, self.rounding, self.n_iterations)
        else:
            pissa = _PISSA.fullmatch(self.name)
            turns = pissa[1] if pissa else None
            start = shift = nearest(weight, self.rank, int(turns) if turns else None)
        self._starts[name] = _on(start, "cpu")
        if shift is not None:
            self._shifts[name] = _on(shift, "cpu")

    def put(self, adapted: Any) -> None:
        """Let the adapter begin there; the magnitudes of DoRA are those of the whole weight then."""
        base = adapted.get_base_model()
        for name, start in self._starts.items():
            layer = base.get_submodule(name)
            (adapter,) = layer.lora_A
            a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            share = math.sqrt(self.scaling)  # so that both factors keep the same size
            with torch.no_grad():
                a.copy_(start.a / share)
                b.copy_(start.b / share)
            if adapter in layer.lora_magnitude_vector:
                layer.lora_magnitude_vector[adapter].update_layer(
                    base_layer=layer.get_base_layer(), lora_A=a.data, lora_B=b.data, scaling=self.scaling
                )

    def keep(self, path: Path | None = None) -> None:
        """Write the starts and shifts, whole or not at all."""
        path = path or self.kept
        tensors: dict[str, torch.Tensor] = {}
        for which, some in (("start", self._starts), ("shift", self._shifts)):
            for name, factors in some.items():
                tensors |= {f"{name}.{which}_a": factors.a, f"{name}.{which}_b": factors.b}
        keep(path, tensors)

    def finish(self, folder: Path) -> None:
        """Make a saved adapter one of the base as it lies on disk, or lay the start beside it."""
        if self.rounding is not None:
            self.keep(folder / START_FILE)
        else:
            _subtract(folder, self._starts, self.scaling)


def _subtract(folder: Path, starts: Mapping[str, Factors], scaling: float) -> None:
    """Rewrite a saved adapter as what it has learned: [A; A0] and [B, -B0], a LoRA of twice the rank.

    Every layer gets twice the rank, those without a start through zeros; alpha grows so that the scaling stays.
    """
    path = folder / "adapter_model.safetensors"
    tensors = {
        name: _doubled(name, tensor, starts, scaling) for name, tensor in safetensors_torch.load_file(path).items()
    }
    safetensors_torch.save_file(tensors, path, {"format": "pt"})
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["lora_alpha"] *= math.sqrt(2) if config["use_rslora"] else 2
    config |= {"r": 2 * config["r"], "init_lora_weights": True}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _doubled(name: str, tensor: "torch.Tensor", starts: Mapping[str, Factors], scaling: float) -> "torch.Tensor":
    for pattern, dim in _RANKS:
        module, n_replaced = re.subn(rf"\.{pattern}", "", name.removeprefix("base_model.model."))
        if not n_replaced:
            continue
        other = torch.zeros_like(tensor)
        if module in starts:
            share = math.sqrt(scaling)
            other = (starts[module].a if dim == 0 else -starts[module].b) / share
        return torch.cat([tensor, other.to(tensor.dtype)], dim=dim).contiguous()
    return tensor


def _factors(tensors: Mapping[str, "torch.Tensor"], which: str) -> dict[str, Factors]:
    end = f".{which}_a"
    names = [name.removesuffix(end) for name in tensors if name.endswith(end)]
    return {name: Factors(tensors[f"{name}.{which}_a"], tensors[f"{name}.{which}_b"]) for name in names}


def _on(factors: Factors, device: Any) -> Factors:
    return Factors(factors.a.to(device), factors.b.to(device))

"""What rounding a weight in some form does to the model, in nats a token, and the forms of a whole model under a goal.

    1/2 sum_nk dW[n, k]^2 G[n] A[k]        of a layer or head;  and of a weight that is the embedding too
    1/2 mean_n sum_k dW[n, k]^2 E[k]       as a word's row is looked up as often as any other

with G, A and E of `calibration.sensitivity`. Damages add up, so that a knapsack (`kernels.allocation`) chooses.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from olivine import lazy
from olivine.calibration.decoder import HEAD
from olivine.calibration.eight_bits import units
from olivine.calibration.sensitivity import Sensitivity
from olivine.calibration.sizes import GROUPS_4, GROUPS_8, SCALE_BYTES
from olivine.models.blockwise import Format
from olivine.models.tensors import LazyTensor, Weights

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

# Rows that a form is tried on, in stretches that lie together so that they are read together.
N_STRETCHES, STRETCH = 16, 64


def formats(width: int, *, symmetric: bool) -> list[Format]:
    """Every form that a weight of that width may have."""
    return [
        Format(bits, group, symmetric)
        for bits, groups in ((4, GROUPS_4), (8, GROUPS_8))
        for group in groups
        if width % group == 0
    ]


def n_bytes(shape: tuple[int, ...], fmt: Format) -> int:
    """What a weight takes in a file: codes, scales of 16 bits as CPUs and GPUs have them, and zero points."""
    n_rows, width = shape
    blocks = -(-width // fmt.group)
    zeros = 0 if fmt.symmetric else (blocks * fmt.bits + 7) // 8
    return n_rows * (blocks * fmt.group * fmt.bits // 8 + blocks * SCALE_BYTES + zeros)


def damage(
    read: "Callable[[int, int], torch.Tensor]",
    fmt: Format,
    importance: "torch.Tensor",
    outputs: "torch.Tensor",
    embedding: "torch.Tensor | None" = None,
    *,
    searched: bool = True,
    half_scales: bool = True,
) -> float:
    """Of a weight [n_rows, width] whose rows `read(start, stop)` gives; of some rows, scaled to all by their G.

    importance: A [width]. outputs: G [n_rows]. embedding: E [width], of a weight that is the embedding too. searched:
    whether its scales are.
    """
    from olivine.kernels.blockwise import quantize

    rows = _some_rows(len(outputs))
    weight = torch.cat([read(int(part[0]), int(part[-1]) + 1) for part in rows]).float()
    rounded = quantize(weight, fmt, "search" if searched else "rtn", importance, half_scales=half_scales)
    squares = (rounded.dequantized() - weight).square()
    of_rows = outputs[torch.cat(rows)]
    share = float(outputs.sum() / of_rows.sum().clamp(min=1e-30))
    total = float(of_rows @ (squares @ importance.float())) * share
    if embedding is not None:
        total += float((squares @ embedding).mean())
    return total / 2


def _some_rows(n_rows: int) -> "list[torch.Tensor]":
    """The numbers of rows in stretches over the whole weight; all of them where they are few."""
    if n_rows <= N_STRETCHES * STRETCH:
        return [torch.arange(n_rows)]
    step = n_rows // N_STRETCHES
    return [torch.arange(first, first + STRETCH) for first in range(0, step * N_STRETCHES, step)]


def chosen_formats(
    names: Sequence[str], source: Weights, known: Sensitivity, bits: float, *, symmetric: bool
) -> dict[str, Format]:
    """A form for each weight, with the least damage on the whole in `bits` a weight.

    Weights that read one input (q, k and v; gate and up) get one form: graphs join them. names: with "lm_head.weight"
    for the head; where `source` has none, it is the embedding. Raises ValueError where no forms have so few bits.
    """
    from olivine.kernels.allocation import Form, least_damage

    stored = {name: source[name] if name in source else _embedding(source) for name in names}
    tied = [name for name in names if name == HEAD and HEAD not in source]
    together = units(names, known.inputs)
    forms: dict[str, list[Form]] = {}
    for first, unit in together.items():
        every = formats(stored[first].shape[1], symmetric=symmetric)
        forms[first] = [
            Form(
                sum(n_bytes(stored[name].shape, fmt) for name in unit),
                sum(_damage_of(name, stored[name], fmt, known, is_tied=name in tied) for name in unit),
            )
            for fmt in every
        ]
    n_weights = sum(math.prod(tensor.shape) for tensor in stored.values())
    numbers = least_damage(forms, int(bits * n_weights / 8))
    return {
        name: formats(stored[first].shape[1], symmetric=symmetric)[numbers[first]]
        for first, unit in together.items()
        for name in unit
    }


def _damage_of(name: str, tensor: LazyTensor, fmt: Format, known: Sensitivity, *, is_tied: bool) -> float:
    embedding = known.embedding if is_tied else None
    return damage(tensor.rows, fmt, known.inputs[name], known.outputs[name], embedding, searched=fmt.bits == 4)


def _embedding(source: Weights) -> LazyTensor:
    return next(tensor for name, tensor in source.items() if name.endswith("embed_tokens.weight"))


def shares(chosen: Mapping[str, Format], source: Weights) -> dict[str, float]:
    """The share of the weights in each form, such as "4 bits, 32"."""
    sizes = {name: math.prod((source[name] if name in source else _embedding(source)).shape) for name in chosen}
    totals: dict[str, float] = {}
    for name, fmt in chosen.items():
        form = f"{fmt.bits} bits, {fmt.group}"
        totals[form] = totals.get(form, 0.0) + sizes[name] / sum(sizes.values())
    return {form: round(share, 4) for form, share in sorted(totals.items())}

"""Which matrix gets how many bits in which groups: the forms whose predicted divergences add up to the least.

Every matrix is rounded in every form; what that does to the model is predicted (`calibration.forms`), and a knapsack
(`kernels.allocation`) chooses. No rule knows the name of a matrix.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from olivine.calibration.decoder import HEAD
from olivine.calibration.forms import damage, formats, n_bytes
from olivine.calibration.sensitivity import Sensitivity
from olivine.errors import Unsupported
from olivine.exporting.quantize_graph import Choice, Matrix
from olivine.kernels.allocation import Form, least_bytes, least_damage

EMBEDDING = "embed_tokens.weight"


@dataclass(frozen=True)
class Goal:
    """What the choice is held to.

    bits: a weight, scales and zero points included, that the matrices may have on the whole. divergence: nats a token
    that they may add on the whole, with as few bytes as possible; else the least divergence in those bits. sensitivity:
    of the model that is exported. told: gets what was chosen, as JSON values.
    """

    sensitivity: Sensitivity
    bits: float
    divergence: float | None = None
    told: Callable[[Mapping[str, Any]], None] = lambda _: None


def mixed(goal: Goal, matrices: Mapping[str, Matrix], chosen: Mapping[str, Choice]) -> dict[str, Choice]:
    """The choices in the forms that meet the goal; raises Unsupported when none do.

    chosen: how each matrix would be stored otherwise; its importance, and whether scales have 16 bits, stay. A matrix
    that is no linear layer of the decoder stays as it is.
    """
    chosen = {name: choice for name, choice in chosen.items() if _is_known(goal.sensitivity, matrices[name])}
    choices = {name: _choices(matrices[name], choice) for name, choice in chosen.items()}
    forms = {
        name: [Form(n_bytes(matrices[name].shape, one.fmt), _damage(goal, matrices[name], one)) for one in of_one]
        for name, of_one in choices.items()
    }
    n_weights = sum(matrices[name].n_rows * matrices[name].width for name in chosen)
    try:
        if goal.divergence is not None:
            numbers = least_bytes(forms, goal.divergence)
        else:
            numbers = least_damage(forms, int(goal.bits * n_weights / 8))
    except ValueError as error:
        raise Unsupported(_unmet(goal, forms, n_weights)) from error
    taken = {name: choices[name][number] for name, number in numbers.items()}
    goal.told(_facts(taken, matrices, forms, numbers))
    return taken


def _choices(matrix: Matrix, choice: Choice) -> list[Choice]:
    """Every form that a matrix may have; with 256 codes, rounding to nearest loses nothing that could be measured."""
    every = formats(matrix.width, symmetric=choice.fmt.symmetric)
    return [replace(choice, fmt=fmt, search=choice.search and fmt.bits == 4) for fmt in every] or [choice]


def _damage(goal: Goal, matrix: Matrix, choice: Choice) -> float:
    """Nats a token. A matrix that is the embedding too does its damage twice."""
    importance = choice.importance if choice.importance is not None else torch.ones(matrix.width)
    is_embedding = any(name.endswith(EMBEDDING) for name in matrix.rows.names)
    return damage(
        matrix.rows.read,
        choice.fmt,
        importance,
        _of_outputs(goal.sensitivity, matrix),
        goal.sensitivity.embedding if is_embedding else None,
        searched=choice.search,
        half_scales=choice.half_scales,
    )


def _is_known(known: Sensitivity, matrix: Matrix) -> bool:
    return all(_name(piece.source.name) in known.outputs for piece in matrix.rows.pieces)


def _name(name: str) -> str:
    """A head that is the embedding goes by its own name."""
    return HEAD if name.endswith(EMBEDDING) else name


def _of_outputs(known: Sensitivity, matrix: Matrix) -> torch.Tensor:
    """G of the matrix's rows: of its pieces, one below the other."""
    pieces = matrix.rows.pieces
    return torch.cat([known.outputs[_name(piece.source.name)][piece.start : piece.stop] for piece in pieces])


def _unmet(goal: Goal, forms: Mapping[str, list[Form]], n_weights: int) -> str:
    if goal.divergence is not None:
        least = sum(min(form.damage for form in of_one) for of_one in forms.values())
        return f"mixed_divergence {goal.divergence:g} cannot be met: the best forms are predicted to add {least:.2g}"
    least = 8 * sum(min(form.n_bytes for form in of_one) for of_one in forms.values()) / n_weights
    return f"mixed_bits {goal.bits:g} cannot be met: the smallest forms have {least:.2f} bits a weight"


def _facts(
    taken: Mapping[str, Choice],
    matrices: Mapping[str, Matrix],
    forms: Mapping[str, list[Form]],
    numbers: Mapping[str, int],
) -> dict[str, Any]:
    """Predicted divergence, bits a weight, and the share of the weights in each form, such as "4 bits, 32"."""
    sizes = {name: matrices[name].n_rows * matrices[name].width for name in taken}
    shares: dict[str, float] = {}
    for name, choice in taken.items():
        form = f"{choice.fmt.bits} bits, {choice.fmt.group}"
        shares[form] = shares.get(form, 0.0) + sizes[name] / sum(sizes.values())
    return {
        "predicted_divergence": sum(forms[name][number].damage for name, number in numbers.items()),
        "bits_per_weight": 8 * sum(forms[name][n].n_bytes for name, n in numbers.items()) / sum(sizes.values()),
        "shares": {form: round(share, 4) for form, share in sorted(shares.items())},
    }

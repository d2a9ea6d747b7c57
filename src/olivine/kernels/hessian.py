"""What an error in a weight does to the output of its layer, and which weights deserve more bits.

For y = W x with W [n_rows, n_columns], an error dW costs E|dW x|^2 = tr(dW H dW') with H = E[x x'] = X'X / n_tokens
[n_columns, n_columns] over calibration tokens X [n_tokens, n_columns]. The diagonal of H alone (the mean squares of the
inputs, the "importance") ignores that inputs are correlated, and is often enough.
"""

from collections.abc import Mapping

import torch


def output_error(delta: torch.Tensor, hessian: torch.Tensor) -> float:
    """tr(dW H dW') of an error dW [n_rows, n_columns], for H [n_columns, n_columns] or its diagonal [n_columns]."""
    delta = delta.float()
    if hessian.dim() == 1:  # sum_nk dW_nk^2 H_kk
        return float((delta.square() * hessian).sum())
    # the trace alone: sum_nk (dW H)_nk dW_nk, without the product [n_rows, n_rows]
    return float(((delta @ hessian) * delta).sum())


def relative_error(weight: torch.Tensor, quantized: torch.Tensor, hessian: torch.Tensor) -> float:
    """tr(dW H dW') / tr(W H W'): the share of a layer's output power that becomes noise; 0 for W = 0.

    weight, quantized: [n_rows, n_columns]. hessian: as of `output_error`.
    """
    power = output_error(weight, hessian)
    return output_error(weight.float() - quantized, hessian) / power if power > 0 else 0.0


def promote(scores: Mapping[str, float], sizes: Mapping[str, int], budget: int) -> set[str]:
    """The names worth more bits: the highest scores first, each taken when its size still fits in the budget.

    scores: relative error of each tensor at few bits. sizes: the bytes that more bits would add, or anything that they
    are proportional to; the budget in the same unit. Equal scores are
    decided by name, so that the same input gives the same set. Raises ValueError for a score that is not a number.
    """
    if missing := sorted(set(scores) - set(sizes)):
        raise ValueError(f"no size is known of {', '.join(missing)}")
    if broken := sorted(name for name, score in scores.items() if score != score):  # noqa: PLR0124 - NaN alone differs
        raise ValueError(f"the error of {', '.join(broken)} is not a number")
    chosen: set[str] = set()
    left = budget
    for name in sorted(scores, key=lambda name: (-scores[name], name)):
        if sizes[name] <= left:
            chosen.add(name)
            left -= sizes[name]
    return chosen

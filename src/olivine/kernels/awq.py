"""AWQ: scale up the input channels that matter, and their source down (Lin et al. 2023, arXiv:2306.00978).

W x = (W diag(s)) (diag(1/s) x): exact before rounding. A channel with a large s loses less when it is rounded, at the
price of those that share its groups. What makes x (a norm, the rows of another weight) takes 1/s, so nothing is left to
do at run time.
"""

from dataclasses import dataclass

import torch

from olivine.kernels.blockwise import Format, rtn
from olivine.kernels.hessian import output_error

ALPHAS = tuple(step / 10 for step in range(10))  # exponents that are tried; 0 is no scaling
# An exponent is chosen on this many rows at most, evenly spread: all rows of a layer agree on it.
ROWS = 1024


@dataclass(frozen=True)
class Fold:
    """A change of one tensor that others undo: W'[n, k] = W[n, k] * columns[k] / rows[n], for a vector w'[n] alike.

    columns: float32 [n_columns], rows: float32 [n_rows]; None for ones. offset: what the module adds to the stored
    weight before it is used (Gemma's norms compute with 1 + w).
    """

    columns: torch.Tensor | None = None
    rows: torch.Tensor | None = None
    offset: float = 0.0

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        """The folded tensor, float32, of a weight [n_rows, n_columns] or a vector [n_rows]."""
        folded = tensor.float()
        if self.columns is not None:
            folded = folded * self.columns.to(folded.device)
        if self.rows is not None:
            rows = self.rows.to(folded.device)
            rows = rows if folded.dim() == 1 else rows.unsqueeze(-1)
            # the module computes with w + offset: that sum is divided, and w is what is stored
            folded = (folded + self.offset) / rows - self.offset
        return folded

    def then(self, other: "Fold") -> "Fold":
        """Both changes of one tensor; at most one of them has an offset."""
        columns = [fold.columns for fold in (self, other) if fold.columns is not None]
        rows = [fold.rows for fold in (self, other) if fold.rows is not None]
        return Fold(
            columns[0] * columns[1] if len(columns) == 2 else next(iter(columns), None),
            rows[0] * rows[1] if len(rows) == 2 else next(iter(rows), None),
            self.offset or other.offset,
        )


def channel_scales(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    fmt: Format,
    *,
    source: torch.Tensor | None = None,
    alphas: tuple[float, ...] = ALPHAS,
) -> torch.Tensor:
    """A scale for every input channel of a weight, float32 [n_columns]: the best importance ** (alpha / 2) of a grid.

    weight: [n_rows, n_columns], all weights that read the input, one above the other. hessian: X'X / n_tokens
    [n_columns, n_columns], or its diagonal [n_columns]; the scales minimise the output error with it. source: int64
    [n_columns], the number of what makes each channel, where one source makes several and they must share a scale
    (attention heads that share their values). alpha = 0 is no scaling, so the error never exceeds that of rounding.
    """
    importance = hessian if hessian.dim() == 1 else hessian.diagonal()
    weight = weight[:: -(-len(weight) // ROWS)].float()  # every so many-th row, [at most ROWS, n_columns]
    best, least = torch.ones_like(importance), float("inf")
    for alpha in alphas:
        scales = _scales(_together(importance, source), alpha)
        # |(Q(W diag(s)) diag(1/s) - W) X|^2, the paper's objective, through H = X'X / n_tokens
        rounded = rtn(weight * scales, fmt).dequantized().to(weight.device) / scales
        error = output_error(weight - rounded, hessian)
        if error < least:
            best, least = scales, error
    return best


def _scales(importance: torch.Tensor, alpha: float) -> torch.Tensor:
    """Importance ** (alpha / 2), geometric mean 1; channels that nothing reaches count as the least that do."""
    seen = importance[importance > 0]
    if alpha == 0 or not len(seen):
        return torch.ones_like(importance)
    # the paper's s = magnitude ** alpha, with the root of the mean square for an input's mean magnitude
    logs = importance.clamp(min=float(seen.min())).log() * (alpha / 2)
    return (logs - logs.mean()).exp()


def _together(importance: torch.Tensor, source: torch.Tensor | None) -> torch.Tensor:
    """The mean importance of all channels that one source makes, at each of them: [n_columns]."""
    if source is None:
        return importance
    of_channel = source.to(importance.device)
    n_sources = int(of_channel.max()) + 1
    sums = torch.zeros(n_sources, device=importance.device).index_add_(0, of_channel, importance.float())
    return (sums / torch.bincount(of_channel, minlength=n_sources).clamp(min=1))[of_channel]

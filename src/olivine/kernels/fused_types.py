"""What the parts of a decoder layer between its products (`fused_ops`) and their kernels (`_fused`) are handed."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from olivine.models.nf4 import FLOAT8_LARGEST

__all__ = ["FLOAT8_LARGEST", "Eight", "Rotation", "Update"]


Eight = tuple[torch.Tensor, torch.Tensor]  # codes float8_e4m3fn [n_rows, n_columns], scales float32 [n_rows, 1]


@dataclass(frozen=True)
class Update:
    """The update u B' of a product's result whose columns come in parts, one of each layer that was put together.

    u: [n_rows, sum of ranks]. b: [n_columns, rank], each row of the part that its column is in. columns: of each part.
    offsets: the first rank in u of each; all layers have one rank.
    """

    u: torch.Tensor
    b: torch.Tensor
    columns: tuple[int, ...]
    offsets: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Of each part."""
        return int(self.b.shape[1])

    def parts(self) -> Iterator[tuple[slice, slice]]:
        """The columns and the ranks of each part."""
        start = 0
        for n_columns, offset in zip(self.columns, self.offsets, strict=True):
            yield slice(start, start + n_columns), slice(offset, offset + self.rank)
            start += n_columns


@dataclass(frozen=True)
class Rotation:
    """How queries and keys turn with their positions. cos, sin: [n_rows, half of the features that turn].

    q_weight, k_weight: float32 [width], of the norm of each head before it turns; None where there is none.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    n_queries: int
    n_keys: int
    width: int
    q_weight: torch.Tensor | None = None
    k_weight: torch.Tensor | None = None
    eps: float = 0.0

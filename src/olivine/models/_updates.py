"""The update that an adapter adds to one weight, by its method; read in float32, checked by shapes alone before.

LoRA: Hu et al. 2021, arXiv:2106.09685. LoHa: Hyeon-Woo et al. 2021 (FedPara), arXiv:2108.06098. LoKr: Yeh et al. 2023
(LyCORIS), arXiv:2309.14859.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from olivine import lazy
from olivine.models.tensors import LazyTensor

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")


class Update(Protocol):
    """What is added to a weight [outputs, inputs] (for an embedding [hidden, vocabulary])."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix; nothing is read."""

    def ranks(self) -> list[tuple[int, int]]:
        """Pairs of sizes that must be the same for the product to exist."""

    def read(self) -> "torch.Tensor":
        """The matrix that is added, float32, computed from its factors."""

    def is_zero(self) -> bool:
        """Whether it certainly adds nothing."""


@dataclass(frozen=True)
class LowRank:
    """LoRA: scale * b a, with a [rank, inputs] and b [outputs, rank]."""

    a: LazyTensor
    b: LazyTensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """[outputs, inputs], of the factors' headers."""
        return self.b.shape[0], self.a.shape[1]

    def ranks(self) -> list[tuple[int, int]]:
        """The rank as each of the two factors has it."""
        return [(self.a.shape[0], self.b.shape[1])]

    def read(self) -> "torch.Tensor":
        """The product scale * b a, float32 [outputs, inputs]."""
        return self.scale * (self.b.read().float() @ self.a.read().float())

    def is_zero(self) -> bool:
        """Whether one of the factors is zero."""
        return not (self.a.read().any() and self.b.read().any())


@dataclass(frozen=True)
class Hadamard:
    """LoHa: scale * (b1 a1) o (b2 a2), elementwise, with each a [rank, inputs] and each b [outputs, rank]."""

    first: LowRank
    second: LowRank
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """[outputs, inputs], which both factors have."""
        return self.first.shape

    def ranks(self) -> list[tuple[int, int]]:
        """Both ranks, and both sides of the elementwise product."""
        sides = list(zip(self.first.shape, self.second.shape, strict=True))
        return [*self.first.ranks(), *self.second.ranks(), *sides]

    def read(self) -> "torch.Tensor":
        """The product scale * (b1 a1) o (b2 a2), float32; the second product is held beside the first."""
        return self.first.read().mul_(self.second.read()).mul_(self.scale)

    def is_zero(self) -> bool:
        """Whether one of the factors is zero."""
        return self.first.is_zero() or self.second.is_zero()


@dataclass(frozen=True)
class Kronecker:
    """LoKr: scale * (left (x) right); each side one matrix, or two whose product it is."""

    left: Sequence[LazyTensor]
    right: Sequence[LazyTensor]
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """[outputs, inputs]: the products of the sides' sizes."""
        rows = self.left[0].shape[0] * self.right[0].shape[0]
        return rows, self.left[-1].shape[1] * self.right[-1].shape[1]

    def ranks(self) -> list[tuple[int, int]]:
        """The rank of each side that is a product."""
        return [(side[0].shape[1], side[1].shape[0]) for side in (self.left, self.right) if len(side) > 1]

    def read(self) -> "torch.Tensor":
        """The product scale * (left (x) right), float32 [outputs, inputs]."""
        return torch.kron(_product(self.left), _product(self.right)).mul_(self.scale)

    def is_zero(self) -> bool:
        """Whether one of the factors is zero."""
        return not all(bool(tensor.read().any()) for tensor in (*self.left, *self.right))


def _product(factors: Sequence[LazyTensor]) -> "torch.Tensor":
    first, *rest = [factor.read().float() for factor in factors]
    return first @ rest[0] if rest else first


@dataclass(frozen=True)
class Sum:
    """Several updates of the same weight."""

    terms: Sequence[Update]

    @property
    def shape(self) -> tuple[int, ...]:
        """[outputs, inputs] of the first term; `ranks` says where another has another."""
        return self.terms[0].shape

    def ranks(self) -> list[tuple[int, int]]:
        """Those of all, and the shapes of all."""
        sides = [pair for term in self.terms[1:] for pair in zip(self.shape, term.shape, strict=True)]
        return [*(pair for term in self.terms for pair in term.ranks()), *sides]

    def read(self) -> "torch.Tensor":
        """The sum, float32; one term is in memory beside it."""
        total = self.terms[0].read()
        for term in self.terms[1:]:
            total += term.read()
        return total

    def is_zero(self) -> bool:
        """Whether every term certainly adds nothing."""
        return all(term.is_zero() for term in self.terms)

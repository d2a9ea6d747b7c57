"""Orthogonal matrices that spread outliers over all channels, as products of small ones.

A Kronecker product of factors turns a vector of d numbers in d * (sum of their sizes) steps instead of d^2:
(F1 x F2)^T applied to x is F1^T X F2 with X the vector as a matrix. Hadamard matrices, whose entries are all +-1, make
every channel an even mixture of all others (Ashkboos et al. 2024, "QuaRot", arXiv:2404.00456).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch

LARGEST_FACTOR = 64


@dataclass(frozen=True)
class Rotation:
    """Q = diag(signs) (F1 x F2 x ...), orthogonal [d, d]. signs: float32 [d]. factors: float32 [n_i, n_i]."""

    signs: torch.Tensor
    factors: tuple[torch.Tensor, ...]

    @property
    def size(self) -> int:
        """D"""
        return len(self.signs)

    def turn(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows @ Q for rows [n, d], in float32."""
        turned = rows.float() * self.signs
        sizes = [len(factor) for factor in self.factors]
        turned = turned.reshape(len(rows), *sizes)
        for axis, factor in enumerate(self.factors, start=1):
            turned = torch.tensordot(turned, factor, dims=([axis], [0])).movedim(-1, axis)
        return turned.reshape(len(rows), self.size)

    def matrix(self) -> torch.Tensor:
        """Q itself, [d, d]."""
        return self.turn(torch.eye(self.size))


def hadamard_rotation(size: int, seed: int = 0) -> Rotation:
    """A Hadamard matrix with random signs where one of that order is known; its odd part is random where none is."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (size,), generator=generator).float() * 2 - 1
    twos = (size & -size).bit_length() - 1  # size = 2^twos * odd
    odd, base = size >> twos, None
    for used in range(twos + 1):
        if (base := hadamard(odd << used)) is not None:
            twos -= used
            break
    first = _unit(base) if base is not None else random_rotation(odd, seed).factors[0]
    factors = [first] if len(first) > 1 or not twos else []
    while twos:
        step = min(twos, LARGEST_FACTOR.bit_length() - 1)
        twos -= step
        sylvester = hadamard(1 << step)
        factors.append(_unit(sylvester) if sylvester is not None else torch.eye(1))
    return Rotation(signs, tuple(factors))


def random_rotation(size: int, seed: int = 0) -> Rotation:
    """A random orthogonal matrix [d, d], as one factor."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return Rotation(torch.ones(size), ((q * torch.diagonal(r).sign()).float(),))


def _unit(matrix: torch.Tensor) -> torch.Tensor:
    return matrix / len(matrix) ** 0.5


def hadamard(order: int) -> torch.Tensor | None:
    """A matrix H of +-1 with H H^T = order I, by Sylvester's and Paley's constructions; None where these have none."""
    if order & (order - 1) == 0:
        two = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        return reduce(torch.kron, [two] * (order.bit_length() - 1), torch.ones(1, 1))
    if order % 4:
        return None
    if _is_prime(order - 1):  # = 3 mod 4
        return torch.eye(order) + _bordered(order - 1, corner=-1.0)
    half = order // 2 - 1
    if _is_prime(half) and half % 4 == 1:
        twist, plain = torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
        return torch.kron(_bordered(half, corner=1.0), twist) + torch.kron(torch.eye(half + 1), plain)
    return None


def _bordered(prime: int, corner: float) -> torch.Tensor:
    """Quadratic characters of differences mod p, with a border of ones, `corner` times that below: [p + 1, p + 1]."""
    squares = {i * i % prime for i in range(1, prime)}
    characters = torch.tensor([0.0] + [1.0 if i in squares else -1.0 for i in range(1, prime)])
    places = torch.arange(prime)
    matrix = torch.zeros(prime + 1, prime + 1)
    matrix[0, 1:], matrix[1:, 0] = 1.0, corner
    matrix[1:, 1:] = characters[(places[:, None] - places[None]) % prime]
    return matrix


def _is_prime(number: int) -> bool:
    return number > 2 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def turned_heads(rows: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Rows [n, heads * d] with every head turned: the same Q for each run of d columns."""
    n_rows, width = rows.shape
    return rotation.turn(rows.reshape(-1, rotation.size)).reshape(n_rows, width)


def rotations(size: int, head: int, mode: str, seed: int) -> Sequence[Rotation]:
    """Q of the residual stream and Q of every head's values; mode: "hadamard" or "random"."""
    make = hadamard_rotation if mode == "hadamard" else random_rotation
    return make(size, seed), make(head, seed + 1)

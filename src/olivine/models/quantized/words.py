"""Codes of 4 or 8 bits in words of 32, as the files of quantized checkpoints hold them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from olivine import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")


def unpack_words(words: "torch.Tensor", bits: int, order: Sequence[int] | None = None) -> "torch.Tensor":
    """int32 [n, m] -> uint8 [n, m * 32 / bits]; code j of a word lies at bit `bits * order[j]`, or `bits * j`."""
    n_codes = 32 // bits
    pieces = words.contiguous().view(torch.uint8)  # the lowest bits of a word come first, as in every file read here
    if bits == 4:
        pieces = torch.stack([pieces & 15, pieces >> 4], dim=-1)
    codes = pieces.view(*words.shape, n_codes)
    if order is not None:
        codes = torch.stack([codes[..., position] for position in order], dim=-1)
    return codes.view(words.shape[0], -1)


def pack_words(codes: "torch.Tensor", bits: int) -> "torch.Tensor":
    """uint8 [n, k] -> int32 [n, ceil(k * bits / 32)], the inverse of `unpack_words`; the rest of the last word is 0."""
    n_codes = 32 // bits
    n_words = -(-codes.shape[1] // n_codes)
    padded = torch.nn.functional.pad(codes, (0, n_words * n_codes - codes.shape[1]))
    if bits == 4:
        padded = padded[:, ::2] | (padded[:, 1::2] << 4)
    # flat: a single row that was transposed keeps its stride of 1, which cannot be viewed as words
    return padded.reshape(-1).view(torch.int32).view(codes.shape[0], n_words)

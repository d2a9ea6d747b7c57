"""Tensors by name that are computed when read, and the readers of safetensors files that give them.

What wraps a mapping of them (a merge, a cast) wraps its tensors: the peak memory of whoever walks through it is a few
tensors, whatever the size of the model.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from olivine import lazy
from olivine.absent import absent, address_of
from olivine.errors import ModelError
from olivine.models.blockwise import Blockwise
from olivine.models.safetensors_header import DTYPES, data_start, read_safetensors_header
from olivine.models.weight_files import safetensors_files
from olivine.reading import tell_reading

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np, torch = lazy.module("numpy"), lazy.module("torch")


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is computed when read. dtype: torch's name of it, e.g. "bfloat16".

    read_rows: computes the rows [start, stop) alone, where that is cheaper than the whole. blockwise: computes the
    codes and scales of a tensor that is stored quantized in a form that operators know; `read` then dequantizes.
    announce: tells the system that the rows [start, stop) will be read soon, so that the disk is busy meanwhile.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], "torch.Tensor"]
    read_rows: Callable[[int, int], "torch.Tensor"] | None = None
    blockwise: Callable[[], Blockwise] | None = None
    announce: Callable[[int, int], None] | None = None

    def rows(self, start: int, stop: int) -> "torch.Tensor":
        """The rows [start, stop), read alone where the tensor can do that."""
        return self.read()[start:stop] if self.read_rows is None else self.read_rows(start, stop)


Weights = Mapping[str, LazyTensor]


def n_bytes(tensor: LazyTensor) -> int:
    """Bytes of a tensor when written."""
    return math.prod(tensor.shape) * int(getattr(torch, tensor.dtype).itemsize)


def one_by_one(tensors: Weights) -> Iterator[tuple[str, LazyTensor]]:
    """The tensors of a model for who reads them all in turn; how far that is becomes the progress of the job."""
    done, total = 0, sum(map(n_bytes, tensors.values()))
    for name, tensor in tensors.items():
        yield name, tensor
        done += n_bytes(tensor)
        tell_reading(done, total)


def safetensors_weights(folder: Path) -> Weights:
    """The tensors of a folder's safetensors files, through the index when there is one."""
    tensors: dict[str, LazyTensor] = {}
    for file in safetensors_files(folder):
        tensors |= file_weights(file)
    return tensors


def file_weights(file: Path) -> Weights:
    """The tensors of one safetensors file."""
    header, first = read_safetensors_header(file), data_start(file)
    tensors: dict[str, LazyTensor] = {}
    for name, entry in header.items():
        shape, dtype = tuple(entry["shape"]), DTYPES[entry["dtype"]]
        start, stop = entry["data_offsets"]
        stored = StoredTensor(file, name, shape, dtype, first + start, stop - start)
        rows = (stored.rows, stored.announce) if len(shape) > 1 else (None, None)
        tensors[name] = LazyTensor(name, shape, dtype, stored.read, rows[0], announce=rows[1])
    return tensors


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: n_bytes from offset. It is read, not mapped: a mapping's pages would count as resident."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    n_bytes: int

    def read(self) -> "torch.Tensor":
        """The whole tensor; ModelError when the file is shorter than its header said."""
        return self._read(0, self.n_bytes, self.shape)

    def rows(self, start: int, stop: int) -> "torch.Tensor":
        """The rows [start, stop), which lie in one stretch of the file."""
        row = self.n_bytes // self.shape[0]
        return self._read(start * row, (stop - start) * row, (stop - start, *self.shape[1:]))

    def announce(self, start: int, stop: int) -> None:
        """Let the system read the rows [start, stop) into its cache; returns at once."""
        row = self.n_bytes // self.shape[0]
        read_ahead(self.file, self.offset + start * row, (stop - start) * row)

    def _read(self, offset: int, n_bytes: int, shape: tuple[int, ...]) -> "torch.Tensor":
        if n_bytes == 0:
            return torch.empty(shape, dtype=getattr(torch, self.dtype))
        raw = np.fromfile(self.file, np.uint8, n_bytes, offset=self.offset + offset)
        if len(raw) != n_bytes and absent(self.file) is not None:
            place = address_of(self.file.parent)
            raise ModelError(f"the weights of '{place}' are read where they lie; here is only their header")
        if len(raw) != n_bytes:
            raise ModelError(f"{self.file} ended while '{self.name}' was read; was it replaced?")
        return torch.from_numpy(raw).view(getattr(torch, self.dtype)).view(shape)


def read_ahead(file: Path, offset: int, n_bytes: int) -> None:
    """Let the system read that stretch of a file into its cache; returns at once."""
    if not hasattr(os, "posix_fadvise"):  # Windows and macOS read ahead as they think fit
        return
    with file.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), offset, n_bytes, os.POSIX_FADV_WILLNEED)

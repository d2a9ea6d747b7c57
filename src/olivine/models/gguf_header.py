"""The header of a GGUF file: metadata and where each tensor lies, read in milliseconds and without numpy.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little endian. Long arrays (the
vocabulary) are skipped when the header is read and decoded only when asked for.
"""

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from olivine.errors import ModelError

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
# ggml type -> (name, weights a block, bytes a block)
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136),
    30: ("BF16", 1, 2),
}


@dataclass(frozen=True)
class GgufTensor:
    """Where one tensor lies. shape: as torch counts it, rows first. offset: bytes from the start of the file."""

    name: str
    type_number: int
    shape: tuple[int, ...]
    offset: int

    @property
    def n_bytes(self) -> int:
        """Bytes of its data."""
        _, block, size = TYPES[self.type_number]
        return math.prod(self.shape) // block * size


class _Cursor:
    """Reads one value after the other out of the mapped file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data, self._path, self.at = data, path, 0

    def scalar(self, form: str) -> Any:
        size = struct.calcsize(form)
        if self.at + size > len(self._data):
            raise ModelError(f"{self._path} is truncated: its header ends at byte {len(self._data)}")
        (value,) = struct.unpack_from(form, self._data, self.at)
        self.at += size
        return value

    def string(self) -> str:
        n_bytes = self.scalar("<Q")
        self.skip(n_bytes)
        return self._data[self.at - n_bytes : self.at].decode("utf-8", errors="replace")

    def skip(self, n_bytes: int) -> None:
        self.at += n_bytes
        if self.at > len(self._data):
            raise ModelError(f"{self._path} is truncated: its header ends at byte {len(self._data)}")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise ModelError(f"{self._path} is not a GGUF file that olivine reads: value type {kind}")
        return self.scalar(_SCALARS[kind])

    def _array(self) -> "_Array":
        kind, length, start = self.scalar("<I"), self.scalar("<Q"), 0
        start = self.at
        if kind in _SCALARS:
            self.skip(struct.calcsize(_SCALARS[kind]) * length)
        else:
            for _ in range(length):
                self.skip(self.scalar("<Q")) if kind == _STRING else self.value(kind)
        return _Array(kind, length, start)


@dataclass(frozen=True)
class _Array:
    kind: int
    length: int
    start: int


class GgufHeader:
    """Metadata and tensors of one GGUF file. Use `GgufHeader.read(path)`."""

    def __init__(self, path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, GgufTensor]) -> None:
        self.path, self._metadata, self.tensors = path, metadata, tensors

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the header; raises ModelError when the file is not GGUF or shorter than its header says."""
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(f"{path} is not a GGUF file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return cls._parse(path, data)

    @classmethod
    def _parse(cls, path: Path, data: mmap.mmap) -> Self:
        cursor = _Cursor(data, path)
        cursor.skip(4)
        version = cursor.scalar("<I")
        if version not in (2, 3):
            raise ModelError(f"{path} is GGUF version {version}; versions 2 and 3 are supported")
        n_tensors, n_values = cursor.scalar("<Q"), cursor.scalar("<Q")
        metadata = {cursor.string(): cursor.value(cursor.scalar("<I")) for _ in range(n_values)}
        infos = [_tensor_info(cursor) for _ in range(n_tensors)]
        alignment = metadata.get("general.alignment", 32)
        start = math.ceil(cursor.at / alignment) * alignment
        tensors = {name: GgufTensor(name, kind, shape, start + offset) for name, kind, shape, offset in infos}
        for tensor in tensors.values():
            if tensor.type_number not in TYPES:
                raise ModelError(
                    f"{path}: tensor '{tensor.name}' has ggml type {tensor.type_number}, which is not known"
                )
            if tensor.offset + tensor.n_bytes > len(data):
                raise ModelError(f"{path} is truncated: tensor '{tensor.name}' reaches past its end")
        return cls(path, metadata, tensors)

    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value; arrays are decoded here, each time."""
        value = self._metadata.get(key, default)
        return list(self._decode(value)) if isinstance(value, _Array) else value

    def length(self, key: str) -> int:
        """Elements of an array value, 0 when there is none."""
        value = self._metadata.get(key)
        return value.length if isinstance(value, _Array) else 0

    @property
    def architecture(self) -> str:
        """As llama.cpp calls it: "llama", "qwen2" ..."""
        return str(self._metadata.get("general.architecture", ""))

    def _decode(self, array: _Array) -> Iterator[Any]:
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            cursor = _Cursor(data, self.path)
            cursor.at = array.start
            for _ in range(array.length):
                yield cursor.value(array.kind)


def _tensor_info(cursor: _Cursor) -> tuple[str, int, tuple[int, ...], int]:
    name = cursor.string()
    shape = tuple(cursor.scalar("<Q") for _ in range(cursor.scalar("<I")))
    # ggml counts the fastest dimension first
    return name, cursor.scalar("<I"), tuple(reversed(shape)), cursor.scalar("<Q")

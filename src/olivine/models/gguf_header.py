"""The header of a GGUF file: metadata and where each tensor lies, read in milliseconds and without numpy.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little endian. Long arrays (the
vocabulary) are skipped when the header is read and decoded only when asked for. No number of the file is believed: what
it counts must fit into the bytes that are left, a name stands once, and the data of the tensors lies as llama.cpp asks
for it, one after another.
"""

import math
import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from olivine.errors import ModelError

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_ALIGNMENT = "general.alignment"
# The fewest bytes of a key with its value, and of what the header says of a tensor.
_KEY_BYTES, _TENSOR_BYTES = 13, 24
_MAX_DIMENSIONS = 4
# The largest vocabularies have 300,000 tokens and as many merges; arrays in arrays are not in use at all.
_MAX_ITEMS, _MAX_DEPTH = 2**22, 4
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
        """Bytes that its data takes in the file: whole blocks of its type."""
        _, block, size = TYPES[self.type_number]
        return math.prod(self.shape) // block * size


class _Cursor:
    """Reads one value after the other out of the mapped file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data, self._path, self.at, self._n_items = data, path, 0, 0

    def scalar(self, form: str) -> Any:
        size = struct.calcsize(form)
        if self.at + size > len(self._data):
            raise ModelError(f"{self._path} is truncated: its header ends at byte {len(self._data)}")
        (value,) = struct.unpack_from(form, self._data, self.at)
        self.at += size
        return value

    def count(self, what: str, least_bytes: int) -> int:
        """A number of things that follow, each of `least_bytes` or more."""
        n_items: int = self.scalar("<Q")
        if n_items * least_bytes > len(self._data) - self.at:
            raise ModelError(
                f"{self._path} is truncated or damaged: it cannot hold the {n_items} {what} that its header says"
            )
        return n_items

    def string(self) -> str:
        """A text that is read whatever it holds: tokens are bytes."""
        return self._bytes().decode("utf-8", errors="replace")

    def name(self) -> str:
        try:
            return self._bytes().decode("utf-8")
        except UnicodeDecodeError:
            raise ModelError(f"{self._path} is damaged: a name in its header is no text") from None

    def _bytes(self) -> bytes:
        n_bytes = self.scalar("<Q")
        self.skip(n_bytes)
        return self._data[self.at - n_bytes : self.at]

    def skip(self, n_bytes: int) -> None:
        self.at += n_bytes
        if self.at > len(self._data):
            raise ModelError(f"{self._path} is truncated: its header ends at byte {len(self._data)}")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array(depth + 1)
        if kind not in _SCALARS:
            raise ModelError(f"{self._path} is not a GGUF file that olivine reads: value type {kind}")
        return self.scalar(_SCALARS[kind])

    def _array(self, depth: int) -> "_Array":
        kind = self.scalar("<I")
        length = self.count("array items", struct.calcsize(_SCALARS[kind]) if kind in _SCALARS else 8)
        start = self.at
        if kind in _SCALARS:
            self.skip(struct.calcsize(_SCALARS[kind]) * length)
        else:
            self._spend(length, depth)
            for _ in range(length):
                self.skip(self.scalar("<Q")) if kind == _STRING else self.value(kind, depth)
        return _Array(kind, length, start)

    def _spend(self, n_items: int, depth: int) -> None:
        """Items that are walked over one by one: a bound keeps a small file from taking long."""
        self._n_items += n_items
        if self._n_items > _MAX_ITEMS or depth > _MAX_DEPTH:
            raise ModelError(f"{self._path} is damaged: its metadata holds more texts than any vocabulary")


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
        """Read the header; raises ModelError when the file is not GGUF or its header does not fit what follows."""
        try:
            with path.open("rb") as file:
                if file.read(4) != b"GGUF":
                    raise ModelError(f"{path} is not a GGUF file")
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    return cls._parse(path, data)
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}") from None

    @classmethod
    def _parse(cls, path: Path, data: mmap.mmap) -> Self:
        cursor = _Cursor(data, path)
        cursor.skip(4)
        version = cursor.scalar("<I")
        if version not in (2, 3):
            raise ModelError(f"{path} is GGUF version {version}; versions 2 and 3 are supported")
        n_tensors, n_values = cursor.count("tensors", _TENSOR_BYTES), cursor.count("keys", _KEY_BYTES)
        metadata = _once(path, (_key_value(path, cursor) for _ in range(n_values)))
        infos = _once(path, (_tensor_info(path, cursor) for _ in range(n_tensors)))
        alignment = metadata.get(_ALIGNMENT, 32)
        at = _padded(cursor.at, alignment)
        tensors = {}
        for name, (kind, shape, offset) in infos.items():
            tensor = GgufTensor(name, kind, shape, _padded(cursor.at, alignment) + offset)
            if tensor.offset != at:
                raise ModelError(f"{path} is damaged: tensor '{name}' does not lie where the one before it ends")
            if at + tensor.n_bytes > len(data):
                raise ModelError(f"{path} is truncated: tensor '{name}' reaches past its end")
            at = _padded(at + tensor.n_bytes, alignment)
            tensors[name] = tensor
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


def _once(path: Path, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs by name; ModelError, as soon as it is read, for a name that was there before."""
    by_name: dict[str, Any] = {}
    for name, value in pairs:
        if name in by_name:
            raise ModelError(f"{path} is damaged: '{name}' stands twice in its header")
        by_name[name] = value
    return by_name


def _key_value(path: Path, cursor: _Cursor) -> tuple[str, Any]:
    name, kind = cursor.name(), cursor.scalar("<I")
    value = cursor.value(kind)
    if name == _ALIGNMENT and (kind != _UINT32 or value.bit_count() != 1):
        raise ModelError(f"{path} is damaged: its alignment is no power of two")
    return name, value


def _tensor_info(path: Path, cursor: _Cursor) -> tuple[str, tuple[int, tuple[int, ...], int]]:
    """Name, and type number, shape and offset from the start of the data."""
    name, n_dimensions = cursor.name(), cursor.scalar("<I")
    if n_dimensions > _MAX_DIMENSIONS:
        raise ModelError(f"{path} is damaged: tensor '{name}' has {n_dimensions} dimensions; there are 4 at most")
    shape = tuple(cursor.scalar("<Q") for _ in range(n_dimensions))
    kind, offset = cursor.scalar("<I"), cursor.scalar("<Q")
    if kind not in TYPES:
        raise ModelError(f"{path}: tensor '{name}' has ggml type {kind}, which is not known")
    label, block, _ = TYPES[kind]
    if 0 in shape or (shape or (1,))[0] % block:
        raise ModelError(f"{path} is damaged: rows of tensor '{name}' of type {label} cannot have {shape[:1]} values")
    return name, (kind, tuple(reversed(shape)), offset)  # ggml counts the fastest dimension first


def _padded(n_bytes: int, alignment: int) -> int:
    return -(-n_bytes // alignment) * alignment

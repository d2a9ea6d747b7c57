"""The header of a safetensors file, read as the reference library reads it and refused where that refuses.

Format: https://github.com/huggingface/safetensors#format. Eight bytes of length (little endian), a JSON object of that
length, then the data: the tensors fill it from its first byte to its last in the order of their offsets, without a hole
and without an overlap, each as long as its type and shape say.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from olivine.absent import whole_size
from olivine.errors import ModelError

# safetensors' names of types -> torch's
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_MAX_HEADER_BYTES = 100_000_000
_MAX_SIZE = 2**64
_FIELDS = {"dtype", "shape", "data_offsets"}
_MAX_DIGITS, _N_OFFSETS = 20, 2

Header = dict[str, dict[str, Any]]


def read_safetensors_header(file: Path) -> Header:
    """Name -> {"dtype", "shape", "data_offsets"} of a safetensors file, in the order of the data.

    The data itself may lie elsewhere, see `olivine.absent`.
    Raises ModelError when the file is cut short, or its header is none that the reference library reads.
    """
    size = whole_size(file)
    with file.open("rb") as stream:
        n_header = int.from_bytes(stream.read(8), "little")
        if size < 8 or n_header > min(size - 8, _MAX_HEADER_BYTES):
            raise ModelError(f"{file} is truncated or not a safetensors file: {size} bytes")
        header = _parsed(file, stream.read(n_header))
    end = 8 + n_header + _checked(file, header)
    if size < end:
        raise ModelError(f"{file} is truncated: {size} bytes, but its tensors end at {end}")
    if size > end:
        raise ModelError(f"{file} is damaged: {size - end} bytes follow its last tensor")
    return header


def data_start(file: Path) -> int:
    """The byte at which the data begins."""
    with file.open("rb") as stream:
        return 8 + int.from_bytes(stream.read(8), "little")


def _parsed(file: Path, text: bytes) -> Header:
    """The header in the order of the data; of each tensor the three fields by their types."""
    try:
        header = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_once,
            parse_int=_natural,
            parse_float=_refuse,
            parse_constant=_refuse,
        )
        _check_metadata(header.pop("__metadata__", None))
        for name, entry in header.items():
            name.encode()  # half a surrogate pair is no text
            _check_fields(entry)
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise ModelError(f"{file} is not a safetensors file: its header is damaged") from None
    return dict(sorted(header.items(), key=lambda item: item[1]["data_offsets"]))


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand in it once."""
    pairs = list(pairs)
    by_name = dict(pairs)
    if len(by_name) != len(pairs):
        raise ValueError("a name stands twice")
    return by_name


def _natural(digits: str) -> int:
    if digits.startswith("-") or len(digits) > _MAX_DIGITS:
        raise ValueError(digits)
    return int(digits)


def _refuse(text: str) -> Any:
    raise ValueError(text)


def _check_metadata(metadata: Any) -> None:
    if metadata is not None and not all(isinstance(value, str) for value in metadata.values()):
        raise TypeError("__metadata__ holds texts")
    for text in (metadata or {}).items():
        "".join(text).encode()


def _check_fields(entry: Any) -> None:
    if entry.keys() != _FIELDS or not isinstance(entry["dtype"], str):
        raise TypeError("a tensor has a type, a shape and two offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != _N_OFFSETS:
        raise TypeError("a tensor has a type, a shape and two offsets")
    if not all(type(number) is int and number < _MAX_SIZE for number in [*shape, *offsets]):
        raise TypeError("sizes are whole numbers")


def _checked(file: Path, header: Mapping[str, Mapping[str, Any]]) -> int:
    """The length of the data; ModelError for a tensor that does not lie where the one before it ends."""
    at = 0
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ModelError(f"{file}: tensor '{name}' has type '{entry['dtype']}', which is not known")
        start, stop = entry["data_offsets"]
        if start != at:
            fault = "overlaps the tensor before it" if start < at else f"leaves a hole of {start - at} bytes before it"
            raise ModelError(f"{file} is damaged: tensor '{name}' {fault}")
        n_bytes = _n_bytes(entry)
        if stop - start != n_bytes:
            raise ModelError(
                f"{file} is damaged: tensor '{name}' of shape {entry['shape']} and type {entry['dtype']} takes "
                f"{n_bytes} bytes, but its header gives it {stop - start}"
            )
        at = stop
    return at


def _n_bytes(entry: Mapping[str, Any]) -> int:
    """Bytes of a tensor; past 64 bits as the product grows, which the reference library does not count either: -1."""
    size = 1
    for width in entry["shape"]:
        size *= width
        if size >= _MAX_SIZE:
            return -1
    n_bytes = size * _BYTES.get(entry["dtype"], 1)
    return n_bytes if n_bytes * 8 < _MAX_SIZE else -1

"""What the end of a Parquet file says of its rows: columns and count, read with the standard library alone.

The footer is a Thrift structure in the compact protocol (parquet-format, FileMetaData). Of it only the schema's names
and the number of rows are wanted; everything else is passed over.
"""

import struct
from pathlib import Path
from typing import Any, NamedTuple

from olivine.errors import DataError

_MAGIC = b"PAR1"
_N_BYTES_MOST = 64 * 2**20
_VARINT_BYTES, _LARGEST = 10, 2**62
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 12
# Field numbers of FileMetaData and of SchemaElement.
_SCHEMA, _N_ROWS, _NAME, _N_CHILDREN = 2, 3, 4, 5


class Footer(NamedTuple):
    """Names of the columns at the top, and how many rows the file has."""

    columns: list[str]
    n_rows: int


def read(path: Path) -> Footer:
    """The columns and the number of rows. Raises DataError when the file is no whole Parquet file."""
    with path.open("rb") as file:
        n_bytes = file.seek(0, 2)
        file.seek(max(0, n_bytes - 8))
        tail = file.read(8)
        size = struct.unpack("<I", tail[:4])[0] if len(tail) == 8 else 0
        if tail[4:] != _MAGIC or not 0 < size <= min(n_bytes - 12, _N_BYTES_MOST):
            raise DataError("not a Parquet file that can be read: it does not end in a Parquet footer")
        file.seek(n_bytes - 8 - size)
        footer = file.read(size)
    try:
        fields = _Thrift(footer).struct()
        return Footer(_top_columns(fields[_SCHEMA]), _n_rows(fields[_N_ROWS]))
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise DataError("not a Parquet file that can be read: its footer is damaged") from error


def _n_rows(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise ValueError(value)
    return value


def _top_columns(schema: list[dict[int, Any]]) -> list[str]:
    """The children of the root; the schema is a tree written depth first, each node with the number of its children."""
    names, at = [], 1
    for _ in range(schema[0][_N_CHILDREN]):
        names.append(schema[at][_NAME].decode())
        at = _after(schema, at)
    return names


def _after(schema: list[dict[int, Any]], at: int) -> int:
    remaining = 1
    while remaining:
        remaining += schema[at].get(_N_CHILDREN, 0) - 1
        at += 1
    return at


class _Thrift:
    """A reader of the compact protocol: structs as {field number: value}, lists as lists."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while True:
            head = self._byte()
            if head == _STOP:
                return fields
            step, kind = head >> 4, head & 15
            number = number + step if step else self._zigzag()
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind)

    def _value(self, kind: int) -> Any:
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in (_LIST, _SET):
            return self._list()
        if kind == _STRUCT:
            return self.struct()
        if kind in (4, 5, 6):
            return self._zigzag()
        raise ValueError(f"no Thrift type has the number {kind}")

    def _list(self) -> list[Any]:
        head = self._byte()
        n_items = head >> 4 if head >> 4 != 15 else self._varint()
        if n_items > len(self._data) - self._at:  # each takes a byte at least
            raise IndexError
        return [self._value(head & 15) for _ in range(n_items)]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 7 * _VARINT_BYTES, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number of more than 64 bits")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, n_bytes: int) -> bytes:
        self._at += n_bytes
        if self._at > len(self._data):
            raise IndexError
        return self._data[self._at - n_bytes : self._at]

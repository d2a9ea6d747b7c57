"""The header of an ONNX file: everything but the weights, read in milliseconds and without a framework.

Format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3, a protobuf message. Its wire form is read here, field
by field; the bytes of tensors are skipped, wherever they lie in the file. No number of the file is believed: what it
counts must fit into the bytes that are left, a tensor has the bytes that its shape takes, and external data lies in the
model's own folder, is there, and is long enough.
"""

import math
import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from olivine import paths
from olivine.errors import ModelError
from olivine.models.signature import Signature, Size, TensorSpec

# TensorProto.DataType -> (numpy's name, bits of an element)
TYPES: Mapping[int, tuple[str, int]] = {
    1: ("float32", 32),
    2: ("uint8", 8),
    3: ("int8", 8),
    4: ("uint16", 16),
    5: ("int16", 16),
    6: ("int32", 32),
    7: ("int64", 64),
    8: ("string", 0),
    9: ("bool", 8),
    10: ("float16", 16),
    11: ("float64", 64),
    12: ("uint32", 32),
    13: ("uint64", 64),
    14: ("complex64", 64),
    15: ("complex128", 128),
    16: ("bfloat16", 16),
    17: ("float8_e4m3fn", 8),
    18: ("float8_e4m3fnuz", 8),
    19: ("float8_e5m2", 8),
    20: ("float8_e5m2fnuz", 8),
    21: ("uint4", 4),
    22: ("int4", 4),
    23: ("float4_e2m1fn", 4),
    24: ("float8_e8m0fnu", 8),
    25: ("uint2", 2),
    26: ("int2", 2),
    27: ("float6_e2m3fn", 6),
    28: ("float6_e3m2fn", 6),
}
_FLOATS = frozenset(name for name, _ in TYPES.values() if "float" in name)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PLACE = ("location", "offset", "length", "checksum")  # keys of external data that onnxruntime takes
_DIGITS = re.compile(r"[0-9]{1,20}")  # what onnxruntime takes for an offset or a length
_EXTERNAL = 1  # TensorProto.DataLocation
_MAX_VARINT_BYTES = 10
_MAX_DEPTH = 32  # of graphs in graphs, each three messages in the other, of which protobuf takes 100
_MAX_DIMENSIONS, _MAX_ELEMENTS = 64, 2**62
_NOT_TENSORS = {4: "sequence", 5: "map", 8: "sparse", 9: "optional"}  # TypeProto
_SAME_VALUES = ("Cast", "Identity")


@dataclass(frozen=True)
class StoredTensor:
    """A weight of the file. location: the name of the file of its bytes; None for the ONNX file itself."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int
    location: str | None = None
    offset: int = 0

    @property
    def is_float(self) -> bool:
        """Whether it holds numbers that are learnt."""
        return self.dtype in _FLOATS


@dataclass(frozen=True)
class OnnxHeader:
    """What an ONNX file says of itself.

    opsets: version by domain, "" for ONNX's own operators. tensors: of the graph and of those in it, constants
    included. operators: (domain, type) of every node, those of functions in the file included. functions: (domain,
    name) of these.
    """

    path: Path
    name: str
    ir_version: int
    opsets: Mapping[str, int]
    signature: Signature
    tensors: tuple[StoredTensor, ...]
    operators: frozenset[tuple[str, str]]
    functions: frozenset[tuple[str, str]]

    @classmethod
    def read(cls, path: Path) -> "OnnxHeader":
        """Read the header; raises ModelError when the file is cut short or no ONNX graph."""
        try:
            with path.open("rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    raise ModelError(f"{path} is empty")
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    return _read(path, data)
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}") from None

    @property
    def n_parameters(self) -> int:
        """Elements of all tensors of floats."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors if tensor.is_float)

    @property
    def external_files(self) -> list[str]:
        """Names of the files beside it that hold weights."""
        return sorted({tensor.location for tensor in self.tensors if tensor.location is not None})

    def check_external(self) -> None:
        """Raise ModelError unless all external data is there, whole, and in the model's own folder."""
        folder, sizes = self.path.parent, dict[str, int]()
        for name in self.external_files:
            sizes[name] = _size_of(self.path, folder, name)
        for tensor in self.tensors:
            if tensor.location is not None and tensor.offset + tensor.n_bytes > sizes[tensor.location]:
                raise ModelError(
                    f"{folder / tensor.location} is truncated: {sizes[tensor.location]} bytes, but the tensor "
                    f"'{tensor.name:.80}' ends at {tensor.offset + tensor.n_bytes}"
                )


def _size_of(path: Path, folder: Path, name: str) -> int:
    """Bytes of a file of weights; ModelError when it lies elsewhere or nowhere."""
    place = Path(os.path.normpath(folder / name))
    is_below = paths.could_be(name) and "\\" not in name and place != folder and place.is_relative_to(folder)
    if not is_below or not paths.real(place).is_relative_to(_home(folder)):
        raise ModelError(f"{path} reads weights outside of its folder ({name[:80]!r}): save it with its data beside it")
    if not paths.is_file(place) or name.endswith(("/", ".")):  # no system takes these for the file's own name
        raise ModelError(f"{folder} lacks the weights {name[:80]!r} of '{path.name}'")
    return place.stat().st_size


def _home(folder: Path) -> Path:
    """The folder that files of a model may lie in, links followed; in the hub's cache they are links into blobs."""
    snapshot = next((one for one in (folder, *folder.parents) if one.parent.name == "snapshots"), None)
    return paths.real(folder if snapshot is None else snapshot.parent.parent)


class _Reader:
    """Reads protobuf's wire form; a message is a range of bytes, or several of them that are one after merging."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data = path, data

    def fields(self, message: Sequence[tuple[int, int]]) -> Iterator[tuple[int, Any]]:
        """Number and value of every field: a number, or the range of bytes; fixed sizes are skipped."""
        for at, stop in message:
            while at < stop:
                tag, at = self._varint(at, stop)  # noqa: PLW2901 - a cursor
                number, kind = tag >> 3, tag & 7
                if kind == _VARINT:
                    value, at = self._varint(at, stop)  # noqa: PLW2901
                    yield number, value
                elif kind == _BYTES:
                    length, at = self._varint(at, stop)  # noqa: PLW2901
                    if length > stop - at:
                        raise self.damaged(f"{length} bytes are announced at byte {at}, and {stop - at} are left")
                    yield number, (at, at + length)
                    at += length  # noqa: PLW2901
                elif kind in (_FIXED32, _FIXED64):
                    at += 4 if kind == _FIXED32 else 8  # noqa: PLW2901
                else:
                    raise self.damaged(f"no field begins at byte {at}")
            if at > stop:
                raise self.damaged(f"it ends at byte {stop}, within a number")

    def record(self, message: Sequence[tuple[int, int]]) -> dict[int, list[Any]]:
        """All values of every field by its number."""
        found: dict[int, list[Any]] = {}
        for number, value in self.fields(message):
            found.setdefault(number, []).append(value)
        return found

    def text(self, values: Sequence[Any]) -> str:
        """The last of some texts; empty when there is none."""
        return self.texts(values[-1:])[0] if values else ""

    def texts(self, values: Sequence[Any]) -> list[str]:
        """Texts, which are UTF-8."""
        try:
            return [self._data[start:stop].decode("utf-8") for start, stop in self.messages(values)]
        except UnicodeDecodeError:
            raise self.damaged("a name in it is no text") from None

    def messages(self, values: Sequence[Any]) -> list[tuple[int, int]]:
        """Ranges of bytes; damaged when one of them is a number."""
        if not all(isinstance(value, tuple) for value in values):
            raise self.damaged("a number stands where a message belongs")
        return list(values)

    def number(self, values: Sequence[Any], default: int = 0) -> int:
        """The last of some numbers, signed as int64."""
        if not values:
            return default
        if not isinstance(values[-1], int):
            raise self.damaged("a message stands where a number belongs")
        return _signed(values[-1])

    def numbers(self, values: Sequence[Any], n_most: int) -> list[int]:
        """Numbers that are written one by one or packed."""
        found: list[int] = []
        for value in values:
            if isinstance(value, int):
                found.append(_signed(value))
                continue
            at, stop = value
            while at < stop and len(found) <= n_most:
                number, at = self._varint(at, stop)
                found.append(_signed(number))
        if len(found) > n_most:
            raise self.damaged(f"a tensor has more than {n_most} dimensions")
        return found

    def damaged(self, why: str) -> ModelError:
        """The error that says so; names of the file are cut, and stay in the line."""
        return ModelError(f"{self._path} is truncated or no ONNX file: {' '.join(why.split()):.400}")

    def circular(self, value: str) -> ModelError:
        """The error that a value is computed of itself."""
        return ModelError(f"{self._path} has a cycle: '{' '.join(value.split()):.80}' is computed of itself")

    def _varint(self, at: int, stop: int) -> tuple[int, int]:
        value = 0
        for place in range(_MAX_VARINT_BYTES):
            if at >= stop:
                raise self.damaged(f"it ends at byte {stop}, within a number")
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                return value & (2**64 - 1), at
        raise self.damaged(f"no number ends at byte {at}")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


@dataclass
class _Contents:
    """What the graphs of a file hold, gathered while they are walked."""

    tensors: list[StoredTensor] = field(default_factory=list)
    operators: set[tuple[str, str]] = field(default_factory=set)


def _read(path: Path, data: mmap.mmap) -> OnnxHeader:
    reader = _Reader(path, data)
    model = reader.record([(0, len(data))])
    graph = reader.record(reader.messages(model.get(7, [])))
    if not graph:
        raise ModelError(f"{path} is no ONNX file: it holds no graph")
    contents = _Contents()
    choices = _walk(reader, graph, contents, 0)
    functions = set()
    for value in model.get(25, []):
        function = reader.record(reader.messages([value]))
        functions.add((reader.text(function.get(10, [])), reader.text(function.get(1, []))))
        for node in function.get(7, []):
            _node(reader, node, contents, 1)
    return OnnxHeader(
        path=path,
        name=reader.text(graph.get(2, [])),
        ir_version=reader.number(model.get(1, [])),
        opsets=_opsets(reader, model.get(8, [])),
        signature=_signature(reader, graph, choices),
        tensors=tuple(contents.tensors),
        operators=frozenset(contents.operators),
        functions=frozenset(functions),
    )


def _opsets(reader: _Reader, values: Sequence[Any]) -> dict[str, int]:
    records = [reader.record(reader.messages([value])) for value in values]
    named = {reader.text(one.get(1, [])): reader.number(one.get(2, [])) for one in records}
    return {"" if domain == "ai.onnx" else domain: version for domain, version in named.items()}


def _walk(reader: _Reader, graph: Mapping[int, list[Any]], contents: _Contents, depth: int) -> dict[str, int]:
    """Gather what a graph and those in it hold; gives how many rows each value picks from that picks rows."""
    if depth > _MAX_DEPTH:
        raise reader.damaged(f"graphs lie in each other {depth} deep")
    stored = [_tensor(reader, value) for value in graph.get(5, [])]
    contents.tensors += stored
    for value in graph.get(15, []):  # sparse: its numbers, without a name of their own
        contents.tensors += [_tensor(reader, one) for one in reader.record(reader.messages([value])).get(1, [])]
    shapes = {tensor.name: tensor.shape for tensor in stored}
    choices: dict[str, int] = {}
    source: dict[str, str] = {}
    reads: list[tuple[list[str], list[str]]] = []
    for value in graph.get(1, []):
        node = _node(reader, value, contents, depth)
        inputs = reader.texts(node.get(1, []))
        reads.append((inputs, reader.texts(node.get(2, []))))
        kind = reader.text(node.get(4, []))
        if kind in _SAME_VALUES and inputs and node.get(2):
            source[reader.texts(node[2])[0]] = inputs[0]
        elif kind == "Gather" and len(inputs) == 2 and shapes.get(inputs[0]) and _axis(reader, node) == 0:
            picked = source.get(inputs[1], inputs[1])
            choices[picked] = min(shapes[inputs[0]][0], choices.get(picked, 2**63))
    if (circle := _in_a_circle(reads)) is not None:
        raise reader.circular(circle)
    return choices


def _in_a_circle(nodes: Sequence[tuple[list[str], list[str]]]) -> str | None:
    """A value that is computed of itself, where one is. nodes: what each reads and gives, in any order."""
    makers = {name: place for place, (_, outputs) in enumerate(nodes) for name in outputs if name}
    sources = [{makers[name] for name in inputs if name in makers} for inputs, _ in nodes]
    if all(source < place for place, before in enumerate(sources) for source in before):
        return None
    readers: dict[int, list[int]] = {}
    for place, before in enumerate(sources):
        for source in before:
            readers.setdefault(source, []).append(place)
    n_waiting = [len(before) for before in sources]
    ready = [place for place, count in enumerate(n_waiting) if not count]
    while ready:
        for place in readers.get(ready.pop(), ()):
            n_waiting[place] -= 1
            if not n_waiting[place]:
                ready.append(place)
    left = [place for place, count in enumerate(n_waiting) if count]
    if not left:
        return None
    place, seen = left[0], set[int]()
    while place not in seen:  # each that is left reads another one that is: back along these, a circle closes
        seen.add(place)
        place = min(source for source in sources[place] if n_waiting[source])
    return next(name for name in nodes[place][1] if name)


def _node(reader: _Reader, value: Any, contents: _Contents, depth: int) -> dict[int, list[Any]]:
    node = reader.record(reader.messages([value]))
    domain = reader.text(node.get(7, []))
    contents.operators.add(("" if domain == "ai.onnx" else domain, reader.text(node.get(4, []))))
    for one in node.get(5, []):
        attribute = reader.record(reader.messages([one]))
        contents.tensors += [_tensor(reader, tensor) for tensor in [*attribute.get(5, []), *attribute.get(10, [])]]
        if inner := attribute.get(6):
            _walk(reader, reader.record(reader.messages(inner)), contents, depth + 1)
        for graph in attribute.get(11, []):
            _walk(reader, reader.record(reader.messages([graph])), contents, depth + 1)
    return node


def _axis(reader: _Reader, node: Mapping[int, list[Any]]) -> int:
    for one in node.get(5, []):
        attribute = reader.record(reader.messages([one]))
        if reader.text(attribute.get(1, [])) == "axis":
            return reader.number(attribute.get(3, []))
    return 0


def _tensor(reader: _Reader, value: Any) -> StoredTensor:
    record = reader.record(reader.messages([value]))
    name = reader.text(record.get(8, []))
    shape = tuple(reader.numbers(record.get(1, []), _MAX_DIMENSIONS))
    number = reader.number(record.get(2, []))
    if number not in TYPES:
        raise reader.damaged(f"the tensor '{name}' has the type {number}, which is not known")
    dtype, bits = TYPES[number]
    n_elements = math.prod(shape)
    if any(size < 0 for size in shape) or n_elements > _MAX_ELEMENTS:
        raise reader.damaged(f"the tensor '{name}' has the shape {list(shape)}")
    n_bytes = (n_elements * bits + 7) // 8
    if reader.number(record.get(14, [])) == _EXTERNAL:
        return _external(reader, record, StoredTensor(name, dtype, shape, n_bytes))
    if raw := record.get(9):
        start, stop = reader.messages(raw)[-1]
        if stop - start != n_bytes and bits:
            raise reader.damaged(
                f"the tensor '{name}' of shape {list(shape)} takes {n_bytes} bytes, and {stop - start} are there"
            )
    return StoredTensor(name, dtype, shape, n_bytes)


def _external(reader: _Reader, record: Mapping[int, list[Any]], tensor: StoredTensor) -> StoredTensor:
    entries = [reader.record(reader.messages([value])) for value in record.get(13, [])]
    told = {reader.text(entry.get(1, [])): reader.text(entry.get(2, [])) for entry in entries}
    unknown = [key for key in told if key not in _PLACE and not key.startswith("prepacked")]
    empty = [key for key, value in told.items() if not value and key != "location"]
    if unknown or empty or len(told) < len(entries):
        what = f"a {unknown[0][:40]!r}" if unknown else f"an empty {empty[0]}" if empty else "something twice"
        raise reader.damaged(f"the place of the tensor '{tensor.name}' has {what}")
    numbers = told.get("offset", "0"), told.get("length", str(tensor.n_bytes))
    if not all(_DIGITS.fullmatch(number) for number in numbers):
        raise reader.damaged(f"the place of the tensor '{tensor.name}' is no number")
    offset, length = map(int, numbers)
    if length != tensor.n_bytes:
        raise reader.damaged(
            f"the tensor '{tensor.name}' of shape {list(tensor.shape)} takes {tensor.n_bytes} bytes, and {length} from "
            f"{offset} are given to it"
        )
    return StoredTensor(tensor.name, tensor.dtype, tensor.shape, tensor.n_bytes, told.get("location", ""), offset)


def _signature(reader: _Reader, graph: Mapping[int, list[Any]], choices: Mapping[str, int]) -> Signature:
    """Inputs and outputs; a weight that may also be given is no input."""
    stored = {reader.text(reader.record(reader.messages([one])).get(8, [])) for one in graph.get(5, [])}
    inputs = [_spec(reader, value, choices) for value in graph.get(11, [])]
    outputs = [_spec(reader, value, {}) for value in graph.get(12, [])]
    return Signature(tuple(spec for spec in inputs if spec.name not in stored), tuple(outputs))


def _spec(reader: _Reader, value: Any, choices: Mapping[str, int]) -> TensorSpec:
    record = reader.record(reader.messages([value]))
    name, kind = reader.text(record.get(1, [])), reader.record(reader.messages(record.get(2, [])))
    if 1 not in kind:
        return TensorSpec(name, next((_NOT_TENSORS[key] for key in kind if key in _NOT_TENSORS), "unknown"), None)
    tensor = reader.record(reader.messages(kind[1]))
    dtype, _ = TYPES.get(reader.number(tensor.get(1, [])), ("unknown", 0))
    shape = None
    if 2 in tensor:
        sizes = reader.record(reader.messages(tensor[2])).get(1, [])
        shape = tuple(_dimension(reader, size) for size in sizes)
    return TensorSpec(name, dtype, shape, choices.get(name))


def _dimension(reader: _Reader, value: Any) -> Size:
    """A size, the name of one, or None: the last of the two that is written counts."""
    size: Size = None
    for number, content in reader.fields(reader.messages([value])):
        if number == 1:
            size = reader.number([content])
        elif number == 2:
            size = reader.text([content]) or None
    return None if isinstance(size, int) and size < 0 else size

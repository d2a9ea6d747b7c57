"""The tokens of every row in one flat array, which may lie on the disk: in memory is then what is read of it."""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from olivine import lazy
from olivine.data._encoder import Tokens

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]
else:
    np = lazy.module("numpy")

META = "meta.json"
_FILES = {"ids": "i4", "trained": "u1", "stops": "i8", "numbers": "i8", "files": "u4", "texts": "u8"}
_CHUNK = 2**20  # tokens looked at together: sums over them take 8 bytes each for a moment


@dataclass(frozen=True)
class TokenStore:
    """Tokens of rows.

    ids: int32 [tokens] of all rows, one after the other. trained: 1 where a token is trained on, uint8 [tokens]; None
    where all are. stops: where each row ends, int64 [rows]. numbers, files: where each row stands, see Placed.
    texts: a hash of each row's text, uint64 [rows]. folder: where all of it lies; None in memory. n_left_out: how many
    rows of the data set are not among them, and left_out where the first of those stands, see Placed.
    """

    ids: "npt.NDArray[np.int32]"
    trained: "npt.NDArray[np.uint8] | None"
    stops: "Integers"
    numbers: "Integers"
    files: "npt.NDArray[np.uint32]"
    texts: "npt.NDArray[np.uint64]"
    folder: Path | None = None
    n_left_out: int = 0
    left_out: tuple[int, int] = (0, 0)

    @classmethod
    def open(cls, folder: Path) -> "TokenStore":
        """A store that a `Writer` finished in that folder."""
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        arrays: dict[str, Any] = {
            name: _mapped(folder / f"{name}.bin", kind) if name != "trained" or meta["is_marked"] else None
            for name, kind in _FILES.items()
        }
        file, number = meta["left_out"]
        return cls(**arrays, folder=folder, n_left_out=meta["n_left_out"], left_out=(file, number))

    def __reduce__(self) -> Any:
        """To another process, the place is enough."""
        if self.folder is not None:
            return (TokenStore.open, (self.folder,))
        arrays = (self.ids, self.trained, self.stops, self.numbers, self.files, self.texts)
        return (TokenStore, (*arrays, None, self.n_left_out, self.left_out))

    def __len__(self) -> int:
        return len(self.stops)

    def starts(self, rows: "Integers") -> "Integers":
        """Where the rows begin among the ids."""
        starts: Integers = np.where(rows > 0, self.stops[np.maximum(rows, 1) - 1], 0)
        return starts

    def lengths(self, rows: "Integers") -> "Integers":
        """Tokens of the rows."""
        lengths: Integers = self.stops[rows] - self.starts(rows)
        return lengths

    def count_trained(self, starts: "Integers", stops: "Integers") -> "Integers":
        """How many of the tokens ids[start:stop] of each range are trained on. The starts do not decrease."""
        if self.trained is None:
            widths: Integers = np.maximum(stops - starts, 0)
            return widths
        counts = np.zeros(len(starts), np.int64)
        for some, low, trained in self._chunks(starts, stops):
            sums = np.concatenate([[0], np.cumsum(trained, dtype=np.int64)])
            counts[some] = sums[np.maximum(stops[some], starts[some]) - low] - sums[starts[some] - low]
        return counts

    def first_trained(self, starts: "Integers", stops: "Integers") -> "Integers":
        """How many tokens of each range stand before its first trained one; all of them where none is trained."""
        if self.trained is None:
            return np.zeros(len(starts), np.int64)
        before = stops - starts
        for some, low, trained in self._chunks(starts, stops):
            places = np.append(np.flatnonzero(trained), len(trained))
            found = places[np.searchsorted(places, starts[some] - low)]
            before[some] = np.minimum(before[some], found - (starts[some] - low))
        return before

    def _chunks(self, starts: "Integers", stops: "Integers") -> Any:
        """Ranges that lie near to each other: which they are, from where on they lie, and the tokens' marks there."""
        at = 0
        while at < len(starts):
            after = max(at + 1, int(np.searchsorted(starts, starts[at] + _CHUNK)))
            some = slice(at, after)
            low, high = int(starts[at]), int(max(stops[some].max(), starts[after - 1]))
            yield some, low, self.trained[low:high] if self.trained is not None else None
            at = after


def _mapped(path: Path, kind: str) -> Any:
    if path.stat().st_size == 0:  # no file of that size can be mapped
        return np.zeros(0, kind)
    return np.memmap(path, dtype=kind, mode="r")


class Writer:
    """Makes a TokenStore row by row: in `folder`, which is complete when `finish` returns, or in memory."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._sinks: dict[str, IO[bytes]] = {
            name: (folder / f"{name}.bin").open("wb") if folder is not None else io.BytesIO() for name in _FILES
        }
        self._n_tokens, self._is_marked = 0, False
        self._left_out: dict[str, Any] = {"n_left_out": 0, "left_out": (0, 0)}

    def leave_out(self, file: int, number: int) -> None:
        """Count a row that is not added."""
        if not self._left_out["n_left_out"]:
            self._left_out["left_out"] = (file, number)
        self._left_out["n_left_out"] += 1

    def add(self, tokens: Sequence[Tokens], texts: Sequence[str], places: Sequence[tuple[int, int]]) -> None:
        """Rows with their texts, and for each the index of its file and its number there."""
        stops = []
        marks = bytearray()
        for row in tokens:
            self._n_tokens += len(row.ids)
            stops.append(self._n_tokens)
            marks += _marks(row)
            self._is_marked = self._is_marked or row.trained is not None
        self._sinks["ids"].write(b"".join(row.ids.tobytes() for row in tokens))
        self._sinks["trained"].write(marks)
        self._write("stops", stops)
        self._write("numbers", [number for _, number in places])
        self._write("files", [file for file, _ in places])
        hashed = [hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest() for text in texts]
        self._sinks["texts"].write(b"".join(hashed))

    def finish(self) -> TokenStore:
        """The store; what lies in a folder is on the disk before META says that it is whole."""
        if self._folder is None:
            arrays: dict[str, Any] = {
                name: np.frombuffer(sink.getvalue(), kind)  # type: ignore[attr-defined] # BytesIO, as there is no folder
                for (name, sink), kind in zip(self._sinks.items(), _FILES.values(), strict=True)
            }
            arrays["trained"] = arrays["trained"] if self._is_marked else None
            return TokenStore(**arrays, **self._left_out)
        for sink in self._sinks.values():
            sink.flush()
            os.fsync(sink.fileno())
        self.close()
        meta = {"is_marked": self._is_marked, "n_tokens": self._n_tokens, **self._left_out}
        (self._folder / META).write_text(json.dumps(meta), encoding="utf-8")
        return TokenStore.open(self._folder)

    def close(self) -> None:
        """Let go of the files."""
        for sink in self._sinks.values():
            sink.close()

    def _write(self, name: str, values: Any) -> None:
        self._sinks[name].write(np.asarray(values, _FILES[name]).tobytes())


def _marks(row: Tokens) -> bytes:
    if row.trained is None:
        return b"\1" * len(row.ids)
    marks = bytearray(len(row.ids))
    for start, stop in row.trained:
        marks[start:stop] = b"\1" * (stop - start)
    return bytes(marks)

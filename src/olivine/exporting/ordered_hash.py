"""The hash of a file whose pieces are written in any order, taken while they are written."""

import threading
from collections.abc import Callable

from blake3 import blake3

KEPT_BYTES = 1 << 26
Read = Callable[[int, int], bytes]  # (place in the file, at most so many bytes)


class OrderedHash:
    """blake3 of a file from its start. Threads add what they wrote; a piece that is not next waits for those before it.

    read: gives bytes of the file back; of pieces that would wait beyond `kept_bytes` in all, and of what nobody wrote.
    """

    def __init__(self, read: Read, kept_bytes: int = KEPT_BYTES) -> None:
        self._read, self._left_bytes = read, kept_bytes
        self._hasher, self._end = blake3(), 0
        self._waiting: dict[int, bytes | int] = {}  # by place; the length alone of what is to be read back
        self._lock, self._is_busy = threading.Lock(), False

    def add(self, place: int, piece: memoryview) -> None:
        """A piece was written at a place of the file; each byte is added once."""
        with self._lock:
            is_next = place == self._end and not self._is_busy
            if is_next:
                self._is_busy = True
            else:
                self._wait(place, piece)
        if is_next:
            self._take(piece)
            self._go_on()

    def hexdigest(self, n_bytes: int) -> str:
        """The hash, once all pieces of a file of that size were added."""
        while self._end < n_bytes:
            place = min((place for place in self._waiting if place > self._end), default=n_bytes)
            self._waiting.setdefault(self._end, place - self._end)  # zeros that nobody wrote
            self._go_on()
        return str(self._hasher.hexdigest())

    def _wait(self, place: int, piece: memoryview) -> None:
        if len(piece) <= self._left_bytes:
            self._left_bytes -= len(piece)
            self._waiting[place] = bytes(piece)
        else:
            self._waiting[place] = len(piece)

    def _go_on(self) -> None:
        """Take what has waited for the end to come; who adds meanwhile leaves it to this thread."""
        while (piece := self._next()) is not None:
            if isinstance(piece, bytes):
                self._take(memoryview(piece))
                with self._lock:
                    self._left_bytes += len(piece)
            else:
                self._take_back(piece)

    def _next(self) -> bytes | int | None:
        with self._lock:
            piece = self._waiting.pop(self._end, None)
            self._is_busy = piece is not None
            return piece

    def _take(self, piece: memoryview) -> None:
        self._hasher.update(piece)
        self._end += len(piece)

    def _take_back(self, n_bytes: int) -> None:
        stop = self._end + n_bytes
        while self._end < stop:
            piece = self._read(self._end, min(stop - self._end, 1 << 22))
            if not piece:
                raise OSError(f"the file ends at {self._end} bytes, before it was written")
            self._take(memoryview(piece))

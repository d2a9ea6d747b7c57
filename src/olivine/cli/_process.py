"""How the program behaves as a process.

Signals that end it do so in order, a reader that went away is no error, and a terminal that lacks a character is none.
"""

import codecs
import errno
import gc
import io
import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from olivine.errors import Stopped

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # the last is of Windows, SIGHUP is not
IN_PLAIN = "olivine.plain"  # how streams write a character that their encoding lacks, by codecs' names
# what stands for our own signs; any other character is written as its number, \\u9867
_PLAIN = {"✓": "+", "✗": "x", "→": "->", "·": ".", "…": "...", "«": "<<", "»": ">>", "±": "+-", "≥": ">=", "≤": "<="}
_PATIENCE_SECONDS = 3.0  # for tidying up after the first signal; one that comes later is heard again


def end_in_order() -> None:
    """Let the signals that end a process raise what Ctrl-C raises, once; one that is ignored (nohup) stays ignored."""
    heard = -_PATIENCE_SECONDS

    def end(number: int, _: FrameType | None) -> None:
        nonlocal heard
        now = time.monotonic()
        if now - heard < _PATIENCE_SECONDS:  # what the first one began must not be cut in two
            return
        heard = now
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Stopped(signal.Signals(number).name, 128 + number)

    for name in ENDING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, end)


def answer_soon() -> None:
    """Do without what start-up does not need.

    Modules and classes, which are most of what it makes, stay: garbage is looked for after 200,000 new objects, and not
    after 700. Plugins of pydantic are told what a program validates, for services that collect it; to know that there
    are none, the metadata of every installed package would be read. Who wants them sets the variable otherwise;
    processes that are started from here inherit it.
    """
    gc.set_threshold(200_000)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def write_to_nobody() -> None:
    """Let output that nobody reads any more (`| head`, a closed terminal) go nowhere: the exit code still counts."""
    if os.name != "posix":
        return
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError, ValueError):
                stream.flush()
                setattr(sys, name, _rewrapped(stream, descriptor))


def write_anything() -> None:
    """Let output in an encoding that lacks a character say it in plain ones, and input be read that is not in it.

    A pipe on Windows has one of 256 characters, a file of rows any. ASCII is taken at its word: click would send it
    UTF-8 instead.
    """
    codecs.register_error(IN_PLAIN, _in_plain)
    if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.errors == "strict":
        sys.stdin.reconfigure(errors="surrogateescape")  # as the words of the command line come
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if codecs.lookup(stream.encoding).name == "ascii":
            lines = stream.line_buffering
            stream.flush()
            setattr(sys, name, _Ascii(stream.detach(), "latin-1", IN_PLAIN, line_buffering=lines))
        else:
            stream.reconfigure(errors=IN_PLAIN)


def writes_all(stream: Any) -> bool:
    """Whether a stream has every character."""
    return str(getattr(stream, "encoding", None) or "").lower().startswith("utf")


def _in_plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """The handler of characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode() for one in lacking), error.end


class _Ascii(io.TextIOWrapper):
    """Text in ASCII alone, under a name that click does not take for a mistake."""

    def write(self, text: str, /) -> int:
        return super().write(text.encode("ascii", IN_PLAIN).decode("ascii"))


def _rewrapped(stream: io.TextIOWrapper, descriptor: int) -> io.TextIOWrapper:
    raw = _Patient(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or stream.isatty(),
        write_through=descriptor == 2,
    )


class _Patient(io.FileIO):
    """A file whose reader may go. Any other fault, such as a full disk, is told once: what stays in buffers is lost."""

    _is_told = False

    def write(self, data: "ReadableBuffer", /) -> Any:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO) and not self._is_told:
                self._is_told = True
                raise
            return memoryview(data).nbytes

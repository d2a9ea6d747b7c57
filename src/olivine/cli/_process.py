"""How the program behaves as a process: signals that end it do so in order, a reader that went away is no error."""

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

    Modules and classes, which are most of what it makes, stay: garbage is looked for after 50,000 new objects, and not
    after 700. Plugins of pydantic are told what a program validates, for services that collect it; to know that there
    are none, the metadata of every installed package would be read. Who wants them sets the variable otherwise;
    processes that are started from here inherit it.
    """
    gc.set_threshold(50_000)
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

"""Asks a Ray cluster, through a process of its own.

Ray ends a process whose cluster goes away; it imports much and prints where it likes. The process that plans and shows
a run has none of that, and starts the other one again when it has ended.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from olivine.errors import OlivineError
from olivine.systems._ray_line import BROKEN, Broken, answer, write

_COMMAND = [sys.executable, "-P", "-m", "olivine.systems._ray_driver"]
_LOOK_SECONDS = 0.2
_PAUSE_SECONDS = 1.0
_ENDED = {"error": {"kind": BROKEN, "message": "the connection to the Ray cluster has ended"}}

Answers = queue.SimpleQueue[dict[str, Any]]


class Bridge:
    """Asks a cluster; a connection that was there once is made again when it is lost.

    settings: see `Cluster`. patience_seconds: how long a cluster may be away that had been there.
    """

    def __init__(self, settings: Mapping[str, Any], patience_seconds: float = 120.0) -> None:
        self._settings, self._patience_seconds = settings, patience_seconds
        self._process: subprocess.Popen[str] | None = None
        self._starting, self._sending = threading.Lock(), threading.Lock()
        self._waiting: dict[int, Answers] = {}
        self._n_asked, self._was_there = 0, False

    def ask(self, what: str, **given: Any) -> Any:
        """What a method of `Cluster` answers. Raises Lost, RequestError, or OlivineError with one sentence."""
        until = time.monotonic() + self._patience_seconds
        while True:
            try:
                return self._asked(what, given)
            except Broken as error:
                if not self._was_there or time.monotonic() > until:
                    raise OlivineError(str(error)) from None
            time.sleep(_PAUSE_SECONDS)

    def close(self) -> None:
        """End the connection; what is at work there goes on."""
        with self._starting:
            process, self._process = self._process, None
        if process is not None:
            _end(process)

    def _asked(self, what: str, given: Mapping[str, Any]) -> Any:
        process, answers = self._connected(), Answers()
        with self._sending:
            self._n_asked += 1
            number = self._n_asked
            self._waiting[number] = answers
            with suppress(OSError, ValueError):  # it has ended: that is seen below
                _write(process, {"id": number, "ask": what, "with": given})
        try:
            return answer(_first(answers, process))
        finally:
            del self._waiting[number]

    def _connected(self) -> subprocess.Popen[str]:
        with self._starting:
            if self._process is None or self._process.poll() is not None:
                self._process = self._connect()
                self._was_there = True
            return self._process

    def _connect(self) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            _COMMAND,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=os.name == "posix",  # Ctrl-C reaches the parent only
        )
        if process.stdout is None or process.stderr is None:
            raise RuntimeError("the process has no output")
        said: deque[str] = deque(maxlen=20)
        threading.Thread(target=_keep, args=(process.stderr, said), daemon=True, name="said").start()
        hello = self._greeted(process)
        if "connected" not in hello:
            _end(process)
            process.stdout.close()
            last = next((line.strip() for line in reversed(said) if line.strip()), "no reason is given")
            answer(hello or {"error": {"kind": BROKEN, "message": f"the Ray cluster gives no answer: {last}"}})
        threading.Thread(target=self._read, args=(process.stdout,), daemon=True, name="answers").start()
        return process

    def _greeted(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """What it says first; nothing when it has ended."""
        hello: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            _write(process, self._settings)
            hello = json.loads(process.stdout.readline()) if process.stdout is not None else {}
        return hello

    def _read(self, stream: IO[str]) -> None:
        with suppress(OSError, ValueError), stream:
            for line in stream:
                record = json.loads(line)
                if (waiting := self._waiting.get(record["id"])) is not None:
                    waiting.put(record)


def _first(answers: Answers, process: subprocess.Popen[str]) -> dict[str, Any]:
    """The answer, as soon as it is there; one of our own when the process has ended."""
    has_ended = False
    while True:
        try:
            return answers.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            if has_ended:  # what it said last has had the time to come
                return _ENDED
            has_ended = process.poll() is not None


def _keep(stream: IO[str], lines: deque[str]) -> None:
    with stream:
        lines.extend(stream)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()


def _write(process: subprocess.Popen[str], record: Mapping[str, Any]) -> None:
    if process.stdin is not None:
        write(process.stdin, dict(record))

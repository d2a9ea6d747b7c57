"""The line between a worker elsewhere and the one that started it: a TCP connection of JSON lines, open to both only.

    parent -> worker   {"nonce": P}
    worker -> parent   {"nonce": W, "proof": HMAC(token, worker P W)}
    parent -> worker   {"proof": HMAC(token, parent P W), "after": how many events have come}    or {"refused": why}
    parent -> worker   {"id": 3, ...Job}, as often as the line is new, until its result has come; {"end": true}
    worker -> parent   the events after those

The token goes to the worker by its environment and never over the line. Neither side believes the other without it: a
job is something that is run.
"""

import hmac
import json
import os
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any

from olivine.errors import OlivineError
from olivine.systems._log import EventLog

TOKEN = "OLIVINE_WORKER_TOKEN"  # noqa: S105 - the name of a variable
_GREETING_SECONDS = 10.0
_AGAIN_SECONDS = 1.0


class Refused(OlivineError):  # noqa: N818 - names what is so
    """The other side has not the token."""


def new_token() -> str:
    """A token for one worker."""
    return secrets.token_hex(32)


def address_of(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; OlivineError when it is none."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise OlivineError(f"'{text}' is no HOST:PORT")
    return host.strip("[]"), int(port)


class Line:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):  # a cable that was pulled is noticed within two minutes, not hours
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        self.texts: IO[str] = connection.makefile("r", encoding="utf-8", newline="\n")
        self._sending = threading.Lock()

    def send(self, record: Mapping[str, Any]) -> None:
        """Send one JSON object."""
        self.write(json.dumps(record) + "\n")

    def write(self, text: str) -> None:
        """Send one line."""
        with self._sending:
            self._socket.sendall(text.encode())

    def read(self) -> dict[str, Any]:
        """The next JSON object; ConnectionError when the line has ended, or speaks otherwise."""
        try:
            record = json.loads(self.texts.readline())
        except ValueError:
            raise ConnectionError("the line has ended") from None
        if not isinstance(record, dict):
            raise ConnectionError("the other side speaks otherwise")
        return record

    def wait(self, seconds: float | None) -> None:
        """How long reading may take before the line counts as lost."""
        self._socket.settimeout(seconds)

    def close(self) -> None:
        """End the line, for a thread that reads from it as well."""
        with suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            self.texts.close()
        self._socket.close()


def greet_worker(line: Line, token: str, n_seen: Callable[[], int]) -> None:
    """Say hello to who calls in, and how many events of it have come; Refused when it has not the token."""
    line.wait(_GREETING_SECONDS)
    own = secrets.token_hex(16)
    line.send({"nonce": own})
    answer = line.read()
    theirs = str(answer.get("nonce"))
    if not hmac.compare_digest(str(answer.get("proof")), _proof(token, "worker", own, theirs)):
        line.send({"refused": "the token is not that of this run"})
        raise Refused("who called in has not the token of this run")
    line.send({"proof": _proof(token, "parent", own, theirs), "after": n_seen()})
    line.wait(None)


def greet_parent(line: Line, token: str) -> int:
    """Say hello to the parent; gives how many events it has. Refused when one side has not the token."""
    line.wait(_GREETING_SECONDS)
    theirs, own = str(line.read().get("nonce")), secrets.token_hex(16)
    line.send({"nonce": own, "proof": _proof(token, "worker", theirs, own)})
    answer = line.read()
    if "refused" in answer:
        raise Refused(str(answer["refused"]))
    if not hmac.compare_digest(str(answer.get("proof")), _proof(token, "parent", theirs, own)):
        raise Refused("the other side of the line has not the token of this worker")
    line.wait(None)
    return int(answer["after"])


def _proof(token: str, side: str, of_parent: str, of_worker: str) -> str:
    return hmac.new(token.encode(), f"{side} {of_parent} {of_worker}".encode(), "sha256").hexdigest()


class Caller:
    """The worker's side: calls the parent, and calls again when the line breaks; jobs come by `jobs`.

    patience_seconds: how long the parent may be silent before there is nobody left to work for.
    """

    def __init__(self, address: tuple[str, int], token: str, log: EventLog, patience_seconds: float) -> None:
        self._address, self._token, self._log, self._patience_seconds = address, token, log, patience_seconds
        self.jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._last_id = 0

    def keep(self) -> None:
        """Keep the line until the parent ends it; Refused, or ConnectionError when it is silent for too long."""
        heard = time.monotonic()
        while True:
            try:
                connection = socket.create_connection(self._address, timeout=_GREETING_SECONDS)
                line = Line(connection)
                number = greet_parent(line, self._token)
                try:
                    if self._talk(line, number):
                        return
                finally:
                    line.close()
                    heard = time.monotonic()
            except OSError as error:
                if time.monotonic() - heard > self._patience_seconds:
                    raise ConnectionError(f"{self._address[0]}:{self._address[1]} gives no answer: {error}") from None
            time.sleep(min(_AGAIN_SECONDS, self._patience_seconds))

    def _talk(self, line: Line, number: int) -> bool:
        """Send events and take jobs until the line ends; gives whether the parent has ended it."""
        is_over = threading.Event()

        def send() -> None:
            try:
                for texts in self._log.after(number, is_over.is_set):
                    line.write("".join(texts))
            except OSError:
                line.close()

        sender = threading.Thread(target=send, daemon=True, name="sender")
        sender.start()
        try:
            while True:
                record = line.read()
                if "end" in record:
                    return True
                self._take(record)
        finally:
            is_over.set()
            sender.join()

    def _take(self, record: dict[str, Any]) -> None:
        if (number := record.pop("id")) > self._last_id:  # else the parent was not sure that it had come
            self._last_id = number
            self.jobs.put(record)


def token_of_environment() -> str:
    """The token that this worker was given, which no process that it starts gets."""
    token = os.environ.pop(TOKEN, "")
    if not token:
        raise OlivineError(f"a worker that connects needs its token in {TOKEN}")
    return token


class Door:
    """The parent's side: where one worker calls in.

    n_seen: how many events have come; asked when a worker has shown the token. opened: gets every line that was
    greeted. Both are called in a thread.
    """

    def __init__(self, bind: str, token: str, n_seen: Callable[[], int], opened: Callable[[Line], None]) -> None:
        self._server = socket.create_server((bind, 0))
        self.port: int = self._server.getsockname()[1]
        self._token, self._n_seen, self._opened = token, n_seen, opened
        threading.Thread(target=self._accept, daemon=True, name="door").start()

    def close(self) -> None:
        """Let nobody in any more."""
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._greet, args=(Line(connection),), daemon=True, name="greeting").start()

    def _greet(self, line: Line) -> None:
        try:
            greet_worker(line, self._token, self._n_seen)
        except (OSError, Refused):
            line.close()
            return
        self._opened(line)

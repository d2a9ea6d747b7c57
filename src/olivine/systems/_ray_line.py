"""What goes between the process that runs a workflow and the one that is connected to a Ray cluster: lines of JSON.

-> {settings of `Cluster`}
<- {"connected": true}                     or {"error": {...}}
-> {"id": 3, "ask": "heard", "with": {...}}
<- {"id": 3, "answer": ...}                or {"id": 3, "error": {"kind", "message", ...}}
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from olivine.errors import OlivineError, RequestError
from olivine.messages import sentence

BROKEN, _LOST, _OTHER = "broken", "lost", "other"


class Broken(OlivineError):  # noqa: N818 - as the errors that it derives from
    """The process that is connected has ended, or could not be connected."""


class Lost(OlivineError):  # noqa: N818 - as above
    """A worker is gone. The message says how, in words that follow "its worker "; with_node: its node is gone, too."""

    def __init__(self, how: str, *, with_node: bool) -> None:
        super().__init__(how)
        self.with_node = with_node


@contextmanager
def of_team(node: int, n_nodes: int) -> Iterator[None]:
    """Say of a worker of several that is lost which of them it is: all of them begin again then."""
    try:
        yield
    except Lost:
        raise Lost(f"node {node + 1} of {n_nodes} is gone", with_node=True) from None


def write(stream: IO[str], record: Mapping[str, Any]) -> None:
    """Write one line."""
    stream.write(json.dumps(record) + "\n")
    stream.flush()


def described(error: Exception) -> dict[str, Any]:
    """An error as it is sent."""
    if isinstance(error, Lost):
        return {"kind": _LOST, "message": str(error), "with_node": error.with_node}
    kind = error.kind if isinstance(error, RequestError) else _OTHER
    return {"kind": kind, "message": sentence(error)}


def answer(record: Mapping[str, Any]) -> Any:
    """The answer, or the error that stands for it."""
    if (error := record.get("error")) is None:
        return record.get("answer")
    kind, message = error["kind"], error["message"]
    if kind == _LOST:
        raise Lost(message, with_node=error["with_node"])
    if kind == BROKEN:
        raise Broken(message)
    if kind == _OTHER:
        raise OlivineError(message)
    refusal = RequestError(message)
    refusal.kind = kind
    raise refusal

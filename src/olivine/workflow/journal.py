"""The journal of an output folder: append-only, one JSON event a line, for machines what the table is for people."""

import json
import math
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from olivine.paths import exists
from olivine.workflow.events import Event, RunStarted, event_of

HIDDEN = "(hidden)"
# Settings that hold a secret by their name; "pad_token" and "tokenizer" are none.
_SECRET_NAME = re.compile(
    r"(^|_)(secret|password|passwd|credentials?|connection_string|sas|api_key|account_key|access_key|private_key)$"
    r"|^(use_auth|hf|hub|access|auth|api|bearer|wandb|hugging_face_hub)?_?token$",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|ACCOUNT_?KEY|CREDENTIAL")
# What secrets of hubs and clouds look like wherever they stand, and the password part of an address.
_SECRET_TEXT = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[opsu]_[A-Za-z0-9]{20,}|(?<=[?&]sig=)[^&\s]+|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)


class Journal:
    """Appends events to `journal.jsonl` in the output folder, each with the time and the id of this run.

    An event is one write of one line, so that two runs with one output folder do not mix theirs, and it has left this
    process when `write` returns. Secrets are hidden.
    """

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / "journal.jsonl"
        self._run = uuid.uuid4().hex[:12]
        _end_last_line(self.path)

    def write(self, event: Event) -> None:
        """Append one event, unless it is of a kind that is not kept."""
        if not event.is_kept:
            return
        record = hide_secrets(replace(event, run=self._run, time=round(time.time(), 3)).to_json())
        line = json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(descriptor, line.encode("utf-8", errors="replace"))
        finally:
            os.close(descriptor)


def read_journal(output_dir: Path, *, last_run: bool = False) -> list[Event]:
    """The events of an output folder, oldest first; with `last_run` those of the run that started last.

    A line that a crash cut short is no event and is left out; one that this version does not know is `events.Other`.
    """
    read = [event_of(record) for record in _records(output_dir / "journal.jsonl")]
    starts = [event.run for event in read if isinstance(event, RunStarted)]
    return [event for event in read if not last_run or not starts or event.run == starts[-1]]


def hide_secrets(value: Any) -> Any:
    """The value as it may be written down: JSON values only, without what is secret by its name or looks.

    Values of this process's environment whose names say that they are secret are hidden wherever they stand.
    """
    return _plain(value, _secrets_of_environment())


def _plain(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            str(key): HIDDEN
            if isinstance(item, str) and item and _SECRET_NAME.search(str(key))
            else _plain(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, secrets) for item in value]
    if isinstance(value, float) and not math.isfinite(value):  # JSON has no word for it
        return None
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _without(str(value), secrets)


def _without(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return _SECRET_TEXT.sub(HIDDEN, text)


def _secrets_of_environment() -> list[str]:
    """Values of variables that are secret by their names, the longest first: one may be a part of another."""
    values = [
        value
        for name, value in os.environ.items()
        # a short value ("1", "true") is a switch, not a secret, and would blot out ordinary text; so would a path
        if _SECRET_VARIABLE.search(name.upper()) and len(value) >= 8 and not exists(value)
    ]
    return sorted(values, key=len, reverse=True)


def _end_last_line(path: Path) -> None:
    """Let new events begin on a line of their own, even after a run that was killed while it wrote."""
    try:
        with path.open("rb+") as file:
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) is not None and file.read(1) != b"\n":
                file.write(b"\n")
    except FileNotFoundError:
        return


def _records(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):  # cut short, or damaged: thousands of nested lists
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str) and isinstance(event.get("run"), str):
            yield event

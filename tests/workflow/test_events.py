"""docs/events.md names every event and every key of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest

from olivine.workflow.events import KINDS, Event, Scored, event_of

DOCS = Path(__file__).parents[2] / "docs" / "events.md"
FRAME = {"event", "run", "time"}


def documented() -> dict[str, set[str]]:
    """Kind -> keys, as the tables of the page have them."""
    sections = re.split(r"^### `(\w+)`$", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    kinds = {}
    for kind, text in zip(sections[::2], sections[1::2], strict=True):
        cells = re.findall(r"^\| (`[^|]*`) \|", text, flags=re.MULTILINE)
        kinds[kind] = {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}
    return kinds


VALUES = {str: "a", int: 2, float: 1.5, bool: True, Mapping: {}, Sequence: ()}


def value(hint: object) -> object:
    """Of a field of that type."""
    parts = [hint, get_origin(hint), *get_args(hint)]
    return next(VALUES[part] for part in parts if part in VALUES)


def example(kind: type[Event]) -> Event:
    """An event in which every field that must have one has a value."""
    needed = [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]
    given = {name: value(get_type_hints(kind)[name]) for name in needed}
    return kind(**given, **({"drop": 0.5} if kind is Scored else {}))


def test_page_names_every_kind():
    assert documented().keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_page_names_every_key_of_a_kind(kind):
    assert documented()[kind.kind] == example(kind).to_json().keys() - FRAME


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_event_is_read_as_it_was_written(kind):
    event = example(kind)
    assert event_of(event.to_json()) == event

"""docs/events.md names every event and every key of it."""

import re
from dataclasses import MISSING, fields
from pathlib import Path

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


def example(kind: type[Event]) -> Event:
    """An event in which every field has a value."""
    given = {one.name: 1.5 for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING}
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

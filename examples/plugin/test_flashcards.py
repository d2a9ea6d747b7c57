"""What olivine relies on in a plugin, and what is our own."""

from pathlib import Path

import pytest
from flashcards.brevity import Brevity
from flashcards.cards import Cards
from flashcards.clip import Clip
from flashcards.polite import Polite

from olivine.errors import DataError
from olivine.testing.metric import MetricContract
from olivine.testing.passes import PassContract


class TestClip(PassContract):
    """As every pass."""

    plugin = Clip


class TestBrevity(MetricContract):
    """As every metric."""

    metric = Brevity


def test_cards_are_read_with_their_lines(tmp_path: Path) -> None:
    """A line that is no card is told, and the next one read."""
    (tmp_path / "a.cards").write_text("# minerals\n\nolivine :: green\nquartz\nbasalt :: dark\n")
    read = list(Cards().read(tmp_path / "a.cards"))
    assert read[0] == (3, {"question": "olivine", "answer": "green"})
    assert (read[1][0], type(read[1][1])) == (4, DataError)
    assert read[2] == (5, {"question": "basalt", "answer": "dark"})


def test_clip_refuses_what_is_no_border() -> None:
    """A border of nothing would make nothing of the model."""
    with pytest.raises(ValueError, match="deviations"):
        Clip.Params(deviations=0)


def test_polite_system_has_what_this_machine_has() -> None:
    """It is this machine."""
    assert Polite(Polite.Params()).probe().n_cores > 0

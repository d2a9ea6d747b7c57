"""Errors of a transcript, in words and in characters."""

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from olivine import lazy
from olivine.evaluate._base import Metric, MetricParams, Number, OutputEvidence

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")


class WordErrors(Metric):
    """Words (wer) and characters (cer) that are wrong, too many or missing, of those that are said.

    All rows count together: the least edits from each text to its transcript, over the words of all texts. The distance
    is twelve lines (Wagner and Fischer 1974, doi:10.1145/321796.321811), which is why there is no package for it.
    """

    class Params(MetricParams):
        """What counts as the same."""

        normalize: bool = Field(True, description="whether case and punctuation are left out of both")

    params: Params
    reads = OutputEvidence
    types = ("accuracy",)
    aliases = ("wer",)
    numbers = {  # noqa: RUF012 - as of every metric
        "wer": Number("wer", higher_is_better=False, unit="share"),
        "cer": Number("cer", higher_is_better=False, unit="share"),
        "rtfx": Number("rtfx", higher_is_better=True),
    }
    needs_labels = True
    hears = True

    def compute(self, evidence: OutputEvidence) -> dict[str, float]:
        """`wer` and `cer`, 0 where all is right; `rtfx`, seconds of sound that a second transcribes.

        `label_accuracy`, to which quality.max_drop holds, is what `wer` leaves of 1.
        """
        if not evidence.transcripts or not evidence.is_heard:
            return {}
        pairs = [(self._normalized(expected), self._normalized(said)) for expected, said in evidence.transcripts]
        words = [(expected.split(), said.split()) for expected, said in pairs]
        numbers = {"wer": _rate(words), "cer": _rate(pairs)}
        numbers["label_accuracy"] = max(0.0, 1 - numbers["wer"])
        if evidence.seconds_taken > 0:
            numbers["rtfx"] = evidence.seconds_heard / evidence.seconds_taken
        return numbers

    def _normalized(self, text: str) -> str:
        return " ".join(bare_words(text) if self.params.normalize else text.split())


def bare_words(text: str) -> list[str]:
    """The words in lower case, without punctuation but for an apostrophe within a word."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")  # as typesetters write an apostrophe
    kept = "".join(letter if letter == "'" or _belongs_in_word(letter) else " " for letter in plain)
    return [word for one in kept.split() if (word := one.strip("'"))]


def _belongs_in_word(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "LMN"  # letters, marks on them, numbers


def _rate(pairs: Sequence[tuple[Sequence[Any], Sequence[Any]]]) -> float:
    """Edits over what is expected; of texts without a word, those that are written count one by one."""
    n_expected = sum(len(expected) for expected, _ in pairs)
    return sum(distance(expected, said) for expected, said in pairs) / max(1, n_expected)


def distance(expected: Sequence[Any], said: Sequence[Any]) -> int:
    """The least number of insertions, deletions and replacements from one sequence to the other."""
    numbers = {item: number for number, item in enumerate(dict.fromkeys([*expected, *said]))}
    other = np.array([numbers[item] for item in said], np.int64)
    places = np.arange(len(said) + 1)
    row = places  # edits from nothing to each beginning of `said`
    for n_read, item in enumerate(expected, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (other != numbers[item]))
        # an insertion comes from the left: the least so far, with one more for each place between
        row = np.minimum.accumulate(np.concatenate([[n_read], best]) - places) + places
    return int(row[-1])

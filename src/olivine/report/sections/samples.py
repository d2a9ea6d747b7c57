"""Samples: the same rows answered by every model, those that came out wrong first."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from olivine.report.html import rendered
from olivine.report.run import Run
from olivine.report.section import Section
from olivine.report.values import marked

N_OPEN = 6  # rows that are shown at once


class Samples(Section):
    """Prompt, what was expected, and what each model wrote."""

    title = "What the models answer"
    place = 30

    def draw(self, run: Run) -> Markup | None:
        """A card for each row."""
        if not run.samples:
            return None
        cards = [_card(row) for row in run.samples]
        wrong = sum(card["is_wrong"] for card in cards)
        return rendered("samples.html", cards=cards, n_open=N_OPEN, n_wrong=wrong)


def _card(row: Mapping[str, Any]) -> dict[str, Any]:
    answers = [_answer(model, one, row["expected"]) for model, one in row["answers"].items()]
    return {
        "prompt": row["prompt"],
        "expected": row["expected"],
        "answers": answers,
        "is_wrong": bool(answers) and answers[-1]["right"] is False,
    }


def _answer(model: str, one: Mapping[str, Any], expected: str) -> dict[str, Any]:
    """An answer with its differences from what was expected marked, where something was."""
    right = one.get("right")
    text = marked(one["text"], expected) if right is False else one["text"]
    return {"model": model, "text": text, "right": right, "is_empty": not str(one["text"]).strip()}

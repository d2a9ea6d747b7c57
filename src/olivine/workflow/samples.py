"""Answers of all models of a run to the same rows, beside each other: the rows that came out wrong first."""

from collections.abc import Mapping, Sequence
from typing import Any

N_SHOWN = 20

Answers = Sequence[Mapping[str, Any]]  # of a model, a row each: prompt, expected, text, right


def side_by_side(answers: Mapping[str, Answers], n_most: int = N_SHOWN) -> list[dict[str, Any]]:
    """Some rows with the answer of each model, by the names of the models in their order.

    First stand rows that every model answered, and of these those where the last model is wrong, those that another has
    right before the others: what was lost on the way. Then those where any is wrong, then the rest; otherwise they are
    in their order.
    """
    rows: dict[tuple[str, str, int], dict[str, Any]] = {}
    for model, given in answers.items():
        seen: dict[tuple[str, str], int] = {}
        for one in given:
            row = (one["prompt"], one["expected"])
            n_before = seen.get(row, 0)  # a row may stand twice in the data
            seen[row] = n_before + 1
            empty = {"prompt": row[0], "expected": row[1], "answers": {}}
            rows.setdefault((*row, n_before), empty)["answers"][model] = {"text": one["text"], "right": one["right"]}
    n_models = sum(bool(given) for given in answers.values())
    return sorted(rows.values(), key=lambda row: (len(row["answers"]) < n_models, _rank(row)))[:n_most]


def _rank(row: Mapping[str, Any]) -> int:
    rights = [answer["right"] for answer in row["answers"].values()]
    if rights[-1] is False:
        return 0 if True in rights else 1
    return 2 if False in rights else 3

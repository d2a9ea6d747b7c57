"""Tables for a notebook: plain HTML without a style of its own, so that it fits light and dark pages."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from olivine.evaluate import metrics
from olivine.workflow.units import in_unit


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table; the first column is the heading of each row."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(_row(row) for row in rows)
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(cells: Sequence[str]) -> str:
    first, *others = map(escape, cells)
    return f"<tr><th>{first}</th>{''.join(f'<td>{cell}</td>' for cell in others)}</tr>"


def paragraphs(sentences: Iterable[str]) -> str:
    """A paragraph for each sentence."""
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def score_table(scores: Sequence[Mapping[str, Any]], caption: str) -> str:
    """Models, a row each, and the numbers that metrics name, in their units; others are left to `to_pandas`."""
    units = {number.key: number.unit for metric in metrics.classes.values() for number in metric.numbers.values()}
    known = [key for key in dict.fromkeys(key for row in scores for key in row) if key in units]
    titles = ["model", *(key.removesuffix("_bytes").replace("_", " ") for key in known)]
    rows = [[str(row["model"]), *(_cell(row.get(key), units[key]) for key in known)] for row in scores]
    return table(titles, rows, caption)


def _cell(value: float | None, unit: str) -> str:
    return in_unit(value, unit) if value is not None else ""

"""The seams: what every model of the run scored on the same rows, as table and bars."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from olivine.report.html import rendered
from olivine.report.run import Run
from olivine.report.section import Section
from olivine.workflow.columns import COLUMNS, cell, note_on, table_notes, with_parts

_BARS = (
    ("accuracy", "label_accuracy", "higher is better"),
    ("loss", "loss", "lower is better"),
    ("KL to the model before", "kl", "lower is better"),
    ("size", "size_bytes", "lower is better"),
)
_UNUSUAL_KL = 1.0  # of a step that trains: its distance says nothing of its quality, and would flatten the others

_WIDE = 1000  # characters: a page has room for every column


class Scores(Section):
    """Base, adapter, merged, ONNX: a row each."""

    title = "Every model on the same rows"
    place = 20

    def draw(self, run: Run) -> Markup | None:
        """The table, its notes, and a bar for each number."""
        rows = run.scores
        if not rows:
            return None
        columns = [column for column in COLUMNS if any(cell(row, *column[1:]) for row in rows)]
        table = [[str(row["model"]), *(cell(row, *column[1:]) for column in columns)] for row in with_parts(rows)]
        notes = [*filter(None, [note_on(rows, _WIDE) if len(rows) > 1 else ""]), *table_notes(rows)]
        broken = [(row["model"], row["degenerate"]) for row in rows if row.get("degenerate")]
        return rendered(
            "scores.html",
            rows_in_words=run.rows_in_words,
            columns=[name for name, _, _ in columns],
            table=table,
            notes=notes,
            broken=broken,
            groups=list(_groups(rows)),
        )


def _groups(rows: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Bars of the numbers that at least two models have."""
    if len(rows) < 2:
        return
    forms = {key: form for _, key, form in COLUMNS}
    for name, key, sense in _BARS:
        known = [row for row in rows if _is_shown(row, key)]
        if len(known) < 2:
            continue
        most = 1.0 if key == "label_accuracy" else max(row[key] for row in known) or 1.0
        bars = [(row["model"], cell(row, key, forms[key]), round(100 * row[key] / most, 1)) for row in known]
        yield {"name": name, "sense": sense, "bars": bars}


def _is_shown(row: Mapping[str, Any], key: str) -> bool:
    return row.get(key) is not None and not (key == "kl" and row[key] > _UNUSUAL_KL)

"""Several runs beside each other: what each delivers, and what they were given differently."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from olivine.report.difference import differences
from olivine.report.html import rendered
from olivine.report.run import Run
from olivine.report.values import moment, number, size

# column, key, whether higher is better
_NUMBERS = (
    ("accuracy", "label_accuracy", True),
    ("loss", "loss", False),
    ("KL", "kl", False),
    ("same top", "top1_agreement", True),
    ("cosine", "cosine", True),
    ("size", "size_bytes", False),
)


def compared(runs: Sequence[Run]) -> Iterator[tuple[str, str, Markup]]:
    """Name, title and body of each section: all runs in a table, then each against the first."""
    names = names_of(runs)
    results = [run.scores[-1] if run.scores else {} for run in runs]
    columns = [column for column in _NUMBERS if any(one.get(column[1]) is not None for one in results)]
    rows = [_row(name, run, result, columns, results) for name, run, result in zip(names, runs, results, strict=True)]
    groups = [group for column in columns if (group := _group(column, names, results))]
    bases = {str(run.started.workflow.get("input_model", {}).get("model_path")) for run in runs}
    on = "" if len(bases) == 1 else "The runs have different input models."
    titles = [title for title, _, _ in columns]
    yield "runs", "Results", rendered("compare.html", rows=rows, columns=titles, groups=groups, on=on)
    for name, run in zip(names[1:], runs[1:], strict=True):
        told = differences(runs[0], run)
        body = rendered("differences.html", differences=told, names=[names[0], name])
        yield f"against-{run.started.run}", f"{name} against {names[0]}", body


def names_of(runs: Sequence[Run]) -> list[str]:
    """What the runs are called: by the parts of their folders that tell them apart."""
    paths = [run.output_dir.resolve().parts for run in runs]
    n_parts = 1
    while len({path[-n_parts:] for path in paths}) < len(set(paths)):
        n_parts += 1
    names = ["/".join(path[-n_parts:]) for path in paths]
    return [
        name if names.count(name) == 1 else f"{name} {run.started.run}" for name, run in zip(names, runs, strict=True)
    ]


def _row(
    name: str,
    run: Run,
    result: Mapping[str, Any],
    columns: Sequence[tuple[str, str, bool]],
    results: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    kind = {"done": "good", "goal missed": "bad", "failed": "bad"}.get(run.status, "warn")
    cells = [
        {
            "text": number(result.get(key), key),
            "is_best": _is_best(result.get(key), [one.get(key) for one in results], higher),
        }
        for _, key, higher in columns
    ]
    told = {"status": run.status, "time": run.time_in_words, "memory": size(run.peak_memory_bytes)}
    return {"name": name, "began": moment(run.started.time), "kind": kind, "cells": cells, **told}


def _is_best(value: float | None, values: Sequence[float | None], higher: bool) -> bool:
    known = [one for one in values if one is not None]
    return value is not None and len(set(known)) > 1 and value == (max(known) if higher else min(known))


def _group(
    column: tuple[str, str, bool], names: Sequence[str], results: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    title, key, higher = column
    known = [(name, one[key]) for name, one in zip(names, results, strict=True) if one.get(key) is not None]
    if len(known) < 2:
        return None
    most = max(1.0 if key == "label_accuracy" else 0.0, *(value for _, value in known)) or 1.0
    bars = [(name, number(value, key), round(100 * value / most, 1)) for name, value in known]
    return {"name": title, "sense": "higher is better" if higher else "lower is better", "bars": bars}

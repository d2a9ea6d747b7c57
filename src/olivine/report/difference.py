"""What two runs have differently."""

from collections.abc import Mapping
from typing import Any

from olivine.report.run import Run
from olivine.report.values import flat, number, plain, words

Rows = list[tuple[str, str, str]]  # what, in the first run, in the second

_SCORES = ("label_accuracy", "loss", "kl", "top1_agreement", "cosine", "size_bytes")
_PLACES = ("cache_dir", "output_dir", "folder")


def differences(before: Run, after: Run) -> dict[str, Rows]:
    """Tables of what differs, by their headings; a table without rows is there too."""
    return {
        "Scores": _scores(before, after),
        "Config": _changed(_config(before), _config(after)),
        "Versions": _changed(dict(before.started.versions), dict(after.started.versions)),
        "Time": _times(before, after),
    }


def _config(run: Run) -> dict[str, Any]:
    leaves = dict(flat(run.started.workflow))
    return {path: value for path, value in leaves.items() if path.rpartition(".")[2] not in _PLACES}


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Rows:
    names = [*before, *(name for name in after if name not in before)]
    return [
        (name, plain(before[name]) if name in before else "—", plain(after[name]) if name in after else "—")
        for name in names
        if before.get(name) != after.get(name)
    ]


def _scores(before: Run, after: Run) -> Rows:
    earlier, later = ({str(row["model"]): row for row in run.scores} for run in (before, after))
    rows = []
    for model in dict.fromkeys([*earlier, *later]):
        for key in _SCORES:
            was, is_now = (number(scores.get(model, {}).get(key), key) for scores in (earlier, later))
            if was != is_now:
                rows.append((f"{model}: {words(key)}", was, is_now))
    return rows


def _times(before: Run, after: Run) -> Rows:
    return [("whole run", before.time_in_words, after.time_in_words)]

"""The verdict: whether the run kept its promise, what it came to, and how to try the model."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from olivine.models.speech import hears
from olivine.report.html import rendered
from olivine.report.run import Run
from olivine.report.section import Section
from olivine.report.values import number, size
from olivine.workflow.columns import none_right
from olivine.workflow.events import Warned
from olivine.workflow.units import distance, in_unit

# status -> class of the style sheet, mark, and what it says
_STATUS = {
    "done": ("good", "✓", "The model is made, and it keeps its goals."),
    "goal missed": ("bad", "✗", "The model is made, but it misses a goal."),
    "failed": ("bad", "✗", "The run failed."),
    "interrupted": ("warn", "!", "The run was interrupted; the same command goes on from there."),
    "unfinished": ("warn", "…", "The run has not come to its end, or was killed."),
}


class Verdict(Section):
    """What one needs to know first."""

    title = "Verdict"
    place = 10

    def draw(self, run: Run) -> Markup:
        """Status, figures, what was missed or failed, goals, warnings, and the commands to try the model."""
        kind, mark, says = _STATUS.get(run.status, ("warn", "!", run.status))
        if run.status == "done" and not run.has_goals:
            says = "The model is made; the config sets no goal." if run.done and run.done.model else "The run is done."
        return rendered(
            "verdict.html",
            kind=kind,
            mark=mark,
            says=says,
            figures=list(_figures(run)),
            reasons=list(_reasons(run)),
            goals=[_goal(row) for row in (run.done.measured if run.done else ())],
            warnings=list(_warnings(run)),
            commands=list(_commands(run)),
        )


def _warnings(run: Run) -> Iterator[Warned]:
    """What was warned of, and what the numbers above cannot tell."""
    yield from run.warnings
    if told := none_right(run.scores):
        yield Warned(step="accuracy", message=told)


def _figures(run: Run) -> Iterator[Mapping[str, str]]:
    """The numbers in large type: of the result, with those of the input model below."""
    if len(run.scores) > 1:
        yield from _of_models(run.scores[0], run.scores[-1])
    yield {"name": "time", "value": run.time_in_words, "below": _cached(run)}
    if run.peak_memory_bytes:
        yield {"name": "peak memory", "value": size(run.peak_memory_bytes), "below": "of the largest step"}


def _of_models(base: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[Mapping[str, str]]:
    for name, key in (("accuracy", "label_accuracy"), ("loss", "loss"), ("KL", "kl"), ("same top", "top1_agreement")):
        if result.get(key) is None or (key in ("kl", "top1_agreement") and result.get("label_accuracy") is not None):
            continue
        below = f"input model {number(base[key], key)}" if base.get(key) is not None else "from the model before"
        yield {"name": name, "value": number(result[key], key), "below": below}
    if result.get("size_bytes"):
        yield {
            "name": "size",
            "value": size(result["size_bytes"]),
            "below": f"input model {size(base.get('size_bytes'))}",
        }


def _cached(run: Run) -> str:
    n_cached, trials = sum(map(run.is_earlier, run.steps)), f", {len(run.trials)} trials" if run.trials else ""
    steps = f"{n_cached} of {len(run.steps)} steps from the cache" if n_cached else f"{len(run.steps)} steps"
    return f"{steps}{trials}"


def _reasons(run: Run) -> Iterator[str]:
    """Why it is not done."""
    if run.done is not None:
        yield from run.done.missed
    elif run.failed is not None:
        yield f"{run.failed.step}: {run.failed.cause}"
        if run.failed.log:
            yield f"What the step printed stands in {run.failed.log}"
    else:
        for event in run.events:
            if text := getattr(event, "error", None) or getattr(event, "where", None):
                yield str(text)


def _goal(row: Mapping[str, Any]) -> Mapping[str, str]:
    """A number that the evaluator asks for."""
    unit = row["unit"]
    cells = {key: in_unit(row[key], unit) if row.get(key) is not None else "—" for key in ("baseline", "value")}
    if row.get("bound") is None or row.get("margin") is None:
        missed = "bad" if row.get("is_met") is False else ""
        return {**cells, "name": row["name"], "goal": "", "margin": "", "kind": missed}
    sign = "-" if row["margin"] < 0 else "+"
    goal = f"{'≥' if row['higher_is_better'] else '≤'} {in_unit(row['bound'], unit)}"
    kind = "good" if row.get("is_met") else "bad"
    return {
        **cells,
        "name": row["name"],
        "goal": goal,
        "margin": f"{sign}{distance(abs(row['margin']), unit)}",
        "kind": kind,
    }


def _commands(run: Run) -> Iterator[tuple[str, str]]:
    """What to type to try the model, and to make it once more."""
    folder = run.done.model if run.done else None
    if folder is not None and hears(Path(folder)):
        yield "Let it hear", f"python {shlex.quote(str(Path(folder).with_name('run.py')))} SOUND.wav"
    elif folder is not None and (Path(folder) / "genai_config.json").is_file():
        yield "Talk to it", f"olivine chat {shlex.quote(folder)}"
    if run.done is not None:
        yield "Make it again", f"olivine run --config {shlex.quote(str(Path(run.done.output_dir) / 'workflow.json'))}"

"""Lineage: which model was made of which, by what, and what came of it."""

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from olivine.report import svg
from olivine.report.html import rendered
from olivine.report.run import Run
from olivine.report.section import Section
from olivine.report.values import number, plain, size
from olivine.workflow.events import StepDone
from olivine.workflow.units import duration

INPUT = "input model"


class Lineage(Section):
    """A box for each model."""

    title = "Where the model comes from"
    place = 50

    def draw(self, run: Run) -> Markup | None:
        """The tree of models, and the params of each step below."""
        if not run.passes:
            return None
        drawing = svg.tree(list(_nodes(run)), "Models from left to right: " + _in_words(run))
        return rendered("lineage.html", drawing=drawing, steps=run.passes)


def _nodes(run: Run) -> Iterator[svg.Node]:
    scores = {str(row["model"]): row for row in run.scores}
    base = run.started.workflow.get("input_model", {})
    named = str(base.get("model_path", "")) if isinstance(base, Mapping) else ""
    yield svg.Node(INPUT, [named.rpartition("/")[2], *_numbers(scores.get("base", {}))], None, "input")
    # a check gives its model back, and is not scored again
    last = next((step.step for step in reversed(run.passes) if step.step in scores), run.passes[-1].step)
    for step in run.passes:
        state = "from the cache" if run.is_earlier(step) else duration(step.seconds)
        lines = [f"{step.pass_name}{_data(step)}", *_numbers(scores.get(step.step, {})), state]
        yield svg.Node(step.step, lines[:3], step.parent or INPUT, "result" if step.step == last else "")


def _numbers(row: Mapping[str, Any]) -> list[str]:
    """What of a model's scores fits into its box, in a line."""
    told = [f"{number(row[key], key)}{after}" for key, after in _TOLD if row.get(key) is not None]
    if row.get("size_bytes"):
        told.append(size(row["size_bytes"]))
    return [" · ".join(told)] if told else []


_TOLD = (("label_accuracy", " right"),)


def _data(step: StepDone) -> str:
    """The rows that a step reads."""
    names = [value for key, value in step.params.items() if key.endswith("data_config") and isinstance(value, str)]
    return f" on {plain(names[0])}" if names else ""


def _in_words(run: Run) -> str:
    return "; ".join(f"{step.step} ({step.pass_name}) from {step.parent or INPUT}" for step in run.passes)

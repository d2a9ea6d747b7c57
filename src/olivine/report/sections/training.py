"""Training: the loss on the rows that were trained on and on those that were held out, step by step."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from olivine.report.html import rendered
from olivine.report.run import Run
from olivine.report.section import Section

MAX_POINTS = 600  # of a curve: more cannot be told apart


class Training(Section):
    """Curves of each step that trains."""

    title = "Training"
    place = 60

    def draw(self, run: Run) -> Markup | None:
        """A plot for each step with a curve, and what it says in numbers."""
        curves = [_curve(step.step, step.facts) for step in run.passes if step.facts.get("loss_curve")]
        return rendered("training.html", curves=curves) if curves else None


def _curve(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The curves over common steps, as uPlot takes them: a list of steps, then values, None where there is none."""
    train = _thinned([point for point in facts["loss_curve"] if point[1] is not None])
    held_out = _thinned([point for point in facts.get("eval_curve") or () if point[1] is not None])
    steps = sorted({point[0] for point in (*train, *held_out)})
    told = [dict(map(tuple, points)) for points in (train, held_out) if points]
    return {
        "name": name,
        "data": {
            "x": steps,
            "names": ["loss on trained rows", *(["loss on held-out rows"] if held_out else [])],
            "series": [[points.get(step) for step in steps] for points in told],
        },
        "first": train[0][1] if train else None,
        "last": train[-1][1] if train else None,
        "n_steps": train[-1][0] if train else 0,
        "held_out": [held_out[0][1], held_out[-1][1]] if held_out else None,
        "points": _thinned(train, 20),
        "tokens_per_second": facts.get("tokens_per_second"),
        "n_trained_parameters": facts.get("n_trained_parameters"),
        "trained_share": facts.get("trained_share"),
    }


def _thinned(points: Sequence[Sequence[Any]], n_most: int = MAX_POINTS) -> list[Sequence[Any]]:
    """Some of many points, evenly spread, the ends among them."""
    if len(points) <= n_most:
        return list(points)
    return [points[round(n * (len(points) - 1) / (n_most - 1))] for n in range(n_most)]

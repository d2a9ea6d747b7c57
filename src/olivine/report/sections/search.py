"""The search: trials in the plane of the goals, on parallel axes, and as a table."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from olivine.report import svg
from olivine.report.html import rendered
from olivine.report.run import Run
from olivine.report.section import Section
from olivine.report.values import number, plain, words
from olivine.workflow.events import SearchDone, TrialDone
from olivine.workflow.units import duration

_NOT_DRAWN = {"drop", "broken"}  # what must hold, beside what is made better
_N_AXES = 9


class Search(Section):
    """What was tried, what it came to, and which trial was chosen."""

    title = "Search"
    place = 40

    def draw(self, run: Run) -> Markup | None:
        """Pareto plot, parallel coordinates and the table of all trials."""
        started, trials = run.search, run.trials
        if started is None or not trials:
            return None
        end = run.last(SearchDone)
        chosen, front = (end.chosen, set(end.front)) if end is not None else (None, set[int]())
        kinds = {trial.trial: _kind(trial, chosen, front) for trial in trials}
        names = [str(one["name"]) for one in started.objectives if one["name"] not in _NOT_DRAWN]
        return rendered(
            "search.html",
            started=started,
            end=end,
            trials=trials,
            kinds=kinds,
            front=sorted(front),
            values=_columns(trials, names),
            plot=_plot(trials, names, kinds),
            axes=_axes(run, trials, names, kinds),
            n_measured=sum(trial.outcome == "measured" for trial in trials),
        )


def _kind(trial: TrialDone, chosen: int | None, front: set[int]) -> str:
    return "chosen" if trial.trial == chosen else "best" if trial.trial in front else "other"


def _columns(trials: Sequence[TrialDone], objectives: Sequence[str]) -> list[str]:
    """Numbers that the table shows: the objectives, then others that trials have."""
    others = dict.fromkeys(name for trial in trials for name in trial.values)
    return [*objectives, *(name for name in others if name not in {*objectives, *_NOT_DRAWN})][:5]


def _plot(trials: Sequence[TrialDone], names: Sequence[str], kinds: dict[int, str]) -> Markup | None:
    """The first objective over the size, or over the second one."""
    if not names:
        return None
    others = [name for name in ("size_bytes", *names[1:], "loss") if name != names[0]]
    x, y = next((name for name in others if any(name in trial.values for trial in trials)), ""), names[0]
    shown = [trial for trial in trials if all(isinstance(trial.values.get(name), (int, float)) for name in (x, y))]
    if len(shown) < 2:
        return None
    dots = [
        svg.Dot(
            trial.values[x],
            trial.values[y],
            _label(trial),
            kinds[trial.trial],
            f"trial-{trial.trial}",
            kinds[trial.trial] != "other",
        )
        for trial in shown
    ]
    across, up = (svg.Axis(words(name), _writer(name)) for name in (x, y))
    return svg.scatter(dots, across, up, f"Trials: {words(y)} over {words(x)}; the table below holds the same numbers")


def _label(trial: TrialDone) -> str:
    point = ", ".join(f"{name} {plain(value)}" for name, value in trial.point.items())
    values = ", ".join(
        f"{words(name)} {number(value, name)}" for name, value in trial.values.items() if name not in _NOT_DRAWN
    )
    return f"trial {trial.trial}: {point}; {values}; {duration(trial.seconds)}"


def _axes(run: Run, trials: Sequence[TrialDone], names: Sequence[str], kinds: dict[int, str]) -> Markup | None:
    """Every dimension that has more than one value, and the objectives."""
    measured = [trial for trial in trials if trial.values]
    space = run.search.space if run.search is not None else {}
    dimensions = [name for name in space if len({plain(trial.point.get(name)) for trial in measured}) > 1]
    dimensions = dimensions[: max(1, _N_AXES - len(names))]
    if len(measured) < 2 or not dimensions:
        return None
    lines = [
        svg.Line(
            [
                *(_hashable(trial.point.get(name)) for name in dimensions),
                *(trial.values.get(name) for name in names),
            ],
            _label(trial),
            kinds[trial.trial],
        )
        for trial in measured
    ]
    write = [plain] * len(dimensions) + [_writer(name) for name in names]
    return svg.parallel(
        [*dimensions, *map(words, names)], lines, write, "Each trial as a line through its params and results"
    )


def _writer(name: str) -> Any:
    return lambda value: number(value, name)


def _hashable(value: Any) -> Any:
    return value if value is None or isinstance(value, (int, float, str)) else plain(value)

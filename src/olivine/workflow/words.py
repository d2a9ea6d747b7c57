"""A plan in words, for people and for programs."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from olivine.config.explain import shown
from olivine.models import Model
from olivine.workflow.keys import seams
from olivine.workflow.steps import Asked, Plan, Step
from olivine.workflow.units import distance, duration, in_unit

if TYPE_CHECKING:
    from olivine.search import Goal
    from olivine.workflow.choices import Search


def to_json(plan: Plan) -> dict[str, Any]:
    """What `olivine plan --json` prints."""
    return {
        "steps": [
            {
                "name": step.name,
                "host": step.host,
                "pass": step.pass_name,
                "params": step.params,
                "cached": step.name in plan.cached,
                "implicit": step.implicit,
                "estimate": vars(step.estimate),
            }
            for step in plan.steps
        ],
        "problems": [problem.to_json() for problem in plan.problems],
        "translated": list(plan.translated),
        **({"asked": [_asked_json(one) for one in plan.asked]} if plan.asked else {}),
        "estimate": vars(plan.estimate) | {"n_parameters": plan.n_parameters},
        **({"search": _search_json(plan.search)} if plan.search is not None else {}),
    }


def _asked_json(one: Asked) -> dict[str, Any]:
    """A number that the evaluator asks for."""
    goal = {"type": one.goal.kind, "value": one.goal.value} if one.goal is not None else None
    return {"name": one.name, "number": one.number, "priority": one.priority, "goal": goal}


def _asked_lines(plan: Plan) -> Iterator[str]:
    """What is measured of the input model and of the result because the evaluator asks for it, and their goals."""
    for one in plan.asked:
        yield f"measure {one.name}" + (f": {_goal_in_words(one, one.goal)}" if one.goal is not None else "")


def _goal_in_words(one: Asked, goal: "Goal") -> str:
    """What a number must be: "at most 100 MB", "at most 2.0 points less than the input model's"."""
    better, worse = ("more", "less") if one.higher_is_better else ("less", "more")
    far = f"{goal.value:g} %" if goal.kind.startswith("percent-") else distance(goal.value, one.unit)
    if goal.kind == "threshold":
        return f"at {'least' if one.higher_is_better else 'most'} {in_unit(goal.value, one.unit)}"
    if goal.kind.endswith("min-improvement"):
        return f"at least {far} {better} than the input model's"
    return f"at most {far} {worse} than the input model's"


def _search_json(search: "Search") -> dict[str, Any]:
    """A search that was planned: its space by the names of dimensions, and what was found out of its points."""
    space = search.choices.space
    names = ("n_trials", "n_looked_at", "n_valid", "refused", "n_steps", "n_own", "disk_bytes")
    return {
        "space": {name: [one.value(n) for n in range(one.size or 0)] for name, one in space.dimensions.items()},
        "size": space.size,
        "sampler": search.sampler.name,
        **{name: getattr(search, name) for name in names},
        "seconds": search.seconds,
        "seconds_unknown": list(search.unknown),
        **({"rungs": list(search.rungs)} if search.rungs else {}),
    }


def _search_lines(plan: Plan) -> Iterator[str]:
    """What is searched, how much of it can run, and what trials have in common; then follow steps of the first."""
    search = plan.search
    if search is None:
        return
    if search.rungs:
        yield from _rung_lines(search)
        yield from _time_lines(search)
        yield "the first of them:"
        return
    space = search.choices.space
    for name, one in space.dimensions.items():
        yield f"choose {name}: {', '.join(map(shown, (one.value(n) for n in range(one.size or 0))))}"
    n_trials = "as many trials as time allows" if search.n_trials is None else f"{search.n_trials:,} trials at most"
    yield f"search: {space.size:,} combinations, sampler {search.sampler.name}, {n_trials}"
    looked = "" if search.n_looked_at == space.size else f" of {search.n_looked_at:,} that were planned"
    n_refused = search.n_looked_at - search.n_valid
    if n_refused:
        yield f"{n_refused:,} combinations{looked} cannot run and are left out:"
        yield from (f"  {n:,}: {reason}" for reason, n in search.refused.items())
    if search.n_valid > 1:
        yield (
            f"{search.n_valid:,} trials{looked} have {search.n_steps:,} steps, of which {search.n_own:,} differ and "
            f"run once each; together they write {size(search.disk_bytes)} at most"
        )
    yield from _time_lines(search)
    asked = search.strategy.max_parallel
    if search.n_parallel > 1 or (asked or 1) > 1:
        yield f"{search.n_parallel} trials at once{f', of {asked} that are asked for' if asked is not None else ''}"
    yield "the first trial:"


def _time_lines(search: "Search") -> Iterator[str]:
    """What all of it takes, by what such steps took here before."""
    if search.seconds is None:
        yield "how long it takes is not known: none of its steps ran here before"
        return
    n_more = search.n_valid if search.n_trials is None else search.n_trials
    share = min(1.0, n_more / search.n_valid) if search.n_looked_at == search.choices.space.size else 1.0
    seconds = min(search.seconds * share, search.strategy.max_time or search.seconds)
    without = f", without {', '.join(search.unknown)}, which never ran here" if search.unknown else ""
    looked = "" if search.rungs or search.n_looked_at == search.choices.space.size else ", of those that were planned"
    yield f"takes about {duration(seconds)} at most by what such steps took here before{without}{looked}"


def _rung_lines(search: "Search") -> Iterator[str]:
    """The points that the config lists, in their order, and those that cannot run."""
    yield f"tries in this order: {', '.join(search.rungs)}"
    if search.n_valid < search.n_looked_at:
        yield f"{search.n_looked_at - search.n_valid} of {search.n_looked_at} cannot run and are left out:"
        yield from (f"  {n:,}: {reason}" for reason, n in search.refused.items())
    if search.strategy.stop_when_goals_met:
        yield "ends with the first that meets every goal"
    if search.strategy.max_time is not None:
        yield f"ends after {search.strategy.max_time:g} seconds"


def _in_words(n_parameters: int) -> str:
    if n_parameters < 1e6:
        return f"{n_parameters:,}"
    return f"{n_parameters / 1e6:,.0f} million"


def _place(model: Model) -> str:
    """Where a model lies, or each of its parts."""
    parts = [f"{name} ({part.path})" for name, part in model.parts.items()]
    return f"of {len(parts)} parts: {', '.join(parts)}" if parts else str(model.path)


def lines(plan: Plan) -> list[str]:
    """The plan for a person."""
    machine = plan.machine
    device = machine.device if machine.n_devices == 1 else f"{machine.n_devices} x {machine.device}"
    device = device if machine.n_nodes == 1 else f"{machine.n_nodes} nodes of {device}"
    host = plan.steps[0].host if len({step.host for step in plan.steps}) == 1 else None
    there = f" on the system '{host}'" if host is not None else ""
    text = [f"runs on {device}{there}, {machine.n_cores} cores; the result is for {machine.execution_provider}"]
    name = plan.model_address or (_place(plan.input_model) if plan.input_model else "that cannot be used")
    text.append(f"model {name}" + (f", {_in_words(plan.n_parameters)} parameters" if plan.n_parameters else ""))
    text += [*_search_lines(plan), *_step_lines(plan), *_scores_line(plan), *_asked_lines(plan), *_needs(plan)]
    return text + [note if note.startswith(DOUBT) else f"note: {note}" for note in notes(plan)]


DOUBT = "warning: "
"""How a note of a plan begins that warns."""


def notes(plan: Plan) -> list[str]:
    """What was made of the config and chosen where it is silent.

    Of a step that is in the cache, or comes after one that cannot be planned, nothing is said: it will not run, or
    otherwise.
    """
    silent = {*plan.cached, *_after_unplanned(plan)}
    return [note for note in plan.translated if not any(note.startswith(f"step {name}: ") for name in silent)]


def _needs(plan: Plan) -> Iterator[str]:
    needed = plan.estimate
    if is_all_cached(plan):
        yield "all of it is in the cache: a run only delivers the result"
        return
    if plan.n_parameters and not _unplanned(plan):  # else what it needs is not known
        yield f"needs about {size(needed.memory_bytes)} of memory and {size(needed.disk_bytes)} of disk at most"
    if needed.download_bytes:
        yield f"fetches about {size(needed.download_bytes)}"
    if needed.device_memory_bytes:
        which = "the GPU" if plan.machine.n_processes == 1 else "each GPU"
        yield f"needs about {size(needed.device_memory_bytes)} on {which}"


def is_all_cached(plan: Plan) -> bool:
    """Whether a run finds every result and every score."""
    names = {*(step.name for step in plan.steps), *(f"score:{seam.name}" for seam in seams(plan))}
    names |= {f"time:{seams(plan)[-1].name}"} if any(one.timed for one in plan.asked) and seams(plan) else set()
    return bool(plan.steps) and names <= plan.cached


def _unplanned(plan: Plan) -> list[str]:
    """Passes of the config that are no steps, as something about them is wrong."""
    planned = {step.name for step in plan.steps}
    return [name for name in plan.workflow.get("passes", {}) if name not in planned]


def _after_unplanned(plan: Plan) -> list[str]:
    """The steps after the first of those: what reaches them is not known."""
    names = list(plan.workflow.get("passes", {}))
    missing = _unplanned(plan)
    return names[names.index(missing[0]) :] if missing else []


def _step_lines(plan: Plan) -> Iterator[str]:
    """The steps in their order, those that cannot be planned among them."""
    steps = {step.name: step for step in plan.steps}
    passes = plan.workflow.get("passes", {})
    for name in [*(name for name in steps if name not in passes), *passes]:
        if name in steps:
            yield _step_line(plan, steps[name])
        else:
            yield f"step {name} ({passes[name]['type']}): cannot run, see below"


def _step_line(plan: Plan, step: Step) -> str:
    state = "cached" if step.name in plan.cached else "to run"
    asked = f"; memory {size(step.estimate.memory_bytes)}, disk {size(step.estimate.disk_bytes)}"
    is_known = state == "to run" and plan.n_parameters
    there = f" on '{step.host}'" if step.host is not None else ""
    return f"step {step.name} ({step.pass_name}){there}: {state}{asked if is_known else ''}"


def _scores_line(plan: Plan) -> Iterator[str]:
    """What scoring takes, which may be more than any step."""
    missing = [seam.name for seam in seams(plan) if f"score:{seam.name}" not in plan.cached]
    if missing and plan.scoring_bytes and plan.n_parameters and not _unplanned(plan):
        yield f"scores of {', '.join(missing)}: to run; memory {size(plan.scoring_bytes)}"


def size(n_bytes: float) -> str:
    """Bytes in the unit that a person would choose."""
    if n_bytes >= 1e8:
        return f"{n_bytes / 1e9:.1f} GB"
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.0f} kB"

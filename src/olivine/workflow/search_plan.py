"""The plan of a search: which of its points can run, what they share, and what is wrong with the search itself."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from pydantic import ValidationError

from olivine import lazy
from olivine.config import Loaded, explain_params
from olivine.config.schema import SearchStrategy
from olivine.errors import Problem, RequestError
from olivine.passes import UNCHANGED
from olivine.search import Categorical, Dimension, Point, Sampler, SamplerParams
from olivine.search.samplers import samplers
from olivine.search.space import key_of, shares
from olivine.work import Estimate
from olivine.workflow.choices import Choices, Search, without_values
from olivine.workflow.durations import Durations
from olivine.workflow.steps import Plan, Step, timing_params
from olivine.workflow.words import DOUBT

N_LOOKED_AT = 100  # points of a larger space that are planned before it is searched
TIMING_SECONDS = 60.0  # of requests at most, where the config does not say
_N_TRIES = 8  # points beside which a value is planned, until one can run
_SECTION = "search_strategy"

Planner = Callable[[Loaded], Plan]


def plan_search(loaded: Loaded, strategy: SearchStrategy, planner: Planner, n: int = N_LOOKED_AT) -> Plan:
    """The plan of the first point that can run, with the search in it and every problem.

    planner: makes the plan of a config without a search. n: how many points are planned at most. A value that runs in
    no combination is a problem; a combination that cannot run is only left out.
    """
    choices = Choices.of(loaded)
    notes = [
        f"{DOUBT}the pass '{name}' has no list of values for '{key}', so that nothing of it is searched: write one"
        for name, key in without_values(loaded.document)
    ]
    if not choices.space.dimensions:
        plan = _with(planner(choices.settled({})), list(loaded.problems))
        note = "'search_strategy' has nothing to choose: no pass has alternatives, and no param a list of values"
        return replace(plan, translated=(*plan.translated, *notes, note))
    told, sampler, settings = _sampler(loaded, strategy)
    problems = [*loaded.problems, *told]  # plans of points do not know of the search
    listed = sampler.listed(settings)
    look = _Look(choices, planner, listed)
    if (wrong := _not_in_space(loaded, strategy, choices, listed)) is not None:
        return _with(planner(choices.settled(choices.space.point_at(shares(0)))), [*problems, wrong])
    look.at(n)
    first = next((look.plans[key] for key in look.points if not look.plans[key].problems), None)
    if first is None:
        return _with(next(iter(look.plans.values())), problems)
    dead = [] if listed else look.dead_values()  # a rung that cannot run is left out
    problems += [*dead, *_stops(loaded, strategy, settings, first, choices)]
    first = replace(first, translated=(*first.translated, *notes))
    return _with(replace(first, search=look.outcome(strategy, sampler, settings)), problems)


def _with(plan: Plan, problems: list[Problem]) -> Plan:
    return replace(plan, problems=tuple(dict.fromkeys([*plan.problems, *problems])))


def _sampler(loaded: Loaded, strategy: SearchStrategy) -> tuple[list[Problem], type[Sampler], SamplerParams]:
    """What is wrong with the sampler and its settings; where something is, the plain one stands in for it."""
    plugin = samplers.find(strategy.sampler)
    if plugin is None:  # told when the config was read, unless it is there and does not load
        why = samplers.why_missing(strategy.sampler)
        where = loaded.document.where((_SECTION, "sampler"))
        told = [Problem("missing-extra", where, f"the sampler {why}.")] if why is not None else []
        return told, samplers["sequential"], SamplerParams()
    problems = [
        Problem(
            "missing-extra", loaded.document.where((_SECTION, "sampler")), f"{lazy.missing_sentence(module, extra)}."
        )
        for module, extra in plugin.modules.items()
        if not lazy.installed(module)
    ]
    try:
        return problems, plugin, plugin.Params.model_validate(strategy.sampler_config)
    except ValidationError as error:
        path = (_SECTION, "sampler_config")
        return (
            [*problems, *explain_params(loaded.document, path, error, list(plugin.Params.model_fields))],
            plugin,
            SamplerParams(),
        )


def _not_in_space(
    loaded: Loaded, strategy: SearchStrategy, choices: Choices, listed: Mapping[str, Point]
) -> Problem | None:
    """What is wrong with the points that a config lists one by one; None: nothing."""
    where = loaded.document.where((_SECTION, "sampler_config"))
    if listed and strategy.execution_order != "joint":
        message = "a point that is listed chooses for all passes at once."
        return Problem("invalid-value", where, message, "Write execution_order: joint, or leave it out.")
    for name, point in listed.items():
        try:
            choices.space.check(point)
        except RequestError as error:
            return Problem("invalid-value", where, f"the rung '{name}' is no point of the search: {error}.")
    return None


def _stops(
    loaded: Loaded, strategy: SearchStrategy, settings: SamplerParams, plan: Plan, choices: Choices
) -> Iterator[Problem]:
    """A search that could not end, or would end at once."""
    has_goals = plan.quality.max_drop is not None or any(one.goal is not None for one in plan.asked)
    if strategy.stop_when_goals_met and not has_goals:
        message = "'stop_when_goals_met' waits for goals, and the config sets none."
        where = loaded.document.where((_SECTION, "stop_when_goals_met"))
        yield Problem("invalid-value", where, message, "Set quality.max_drop or goals of the evaluator, or remove it.")
    needed, most = sum(step.estimate.disk_bytes for step in plan.steps), strategy.max_cost_bytes
    if most is not None and needed > most:
        message = f"max_cost_bytes is {most:,}, and the first trial alone may write {needed:,} bytes."
        where = loaded.document.where((_SECTION, "max_cost_bytes"))
        yield Problem("invalid-value", where, message, "Raise it, or leave it out.")
    if (
        choices.space.size is None
        and settings.max_samples is None
        and strategy.max_iter is None
        and not strategy.max_time
    ):
        message = "the search has no end: some of its values cannot be listed."
        yield Problem("invalid-value", loaded.document.where((_SECTION,)), message, "Set max_samples or max_time.")


@dataclass
class _Look:
    """Plans of points: of all, or, where they are many, of those that show every value, and some more.

    listed: the points that the config names; no others are then looked at.
    """

    choices: Choices
    planner: Planner
    listed: Mapping[str, Point] = field(default_factory=dict)
    points: dict[str, Point] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)

    def at(self, n: int) -> None:
        """Plan `n` points at most, and in any case one with each value."""
        space = self.choices.space
        if self.listed:
            for point in self.listed.values():
                self._plan(point)
            return
        if space.size is not None and space.size <= n:
            for point in space.points():
                self._plan(point)
            return
        drawn = (space.point_at(shares(seed)) for seed in range(n))
        for point in islice(drawn, n // 2):
            self._plan(point)
        for name, value in _values(space.dimensions):
            for seed in range(_N_TRIES):
                if any(name in point and point[name] == value for point in self._valid()):
                    break
                beside = next(self._valid(), None) if not seed else None
                self._plan(self._with_value(beside or space.point_at(shares(seed)), name, value))

    def dead_values(self) -> Iterator[Problem]:
        """What keeps a value from running in every combination that was planned."""
        valid = list(self._valid())
        for name, value in _values(self.choices.space.dimensions):
            if any(name in point and point[name] == value for point in valid) or not self.choices.sites[name].is_listed:
                continue
            failing = [key for key, point in self.points.items() if name in point and point[name] == value]
            yield from self.plans[failing[0]].problems if failing else ()

    def outcome(self, strategy: SearchStrategy, sampler: type[Sampler], settings: SamplerParams) -> Search:
        """What the points come to."""
        plans = [plan for plan in self.plans.values() if not plan.problems]
        refused: dict[str, int] = {}
        for plan in self.plans.values():
            if plan.problems:
                reason = plan.problems[0].message
                refused[reason] = refused.get(reason, 0) + 1
        own = {identity: step for plan in plans for identity, step in identities(plan.steps)}
        seconds, unknown = _duration(plans)
        return Search(
            choices=self.choices,
            strategy=strategy,
            sampler=sampler,
            settings=settings,
            n_trials=_n_trials(self.choices, strategy, settings, len(plans) if self._is_all else None),
            n_looked_at=len(self.plans),
            n_valid=len(plans),
            refused=refused,
            n_steps=sum(len(plan.steps) for plan in plans),
            n_own=len(own),
            disk_bytes=sum(step.estimate.disk_bytes for step in own.values()),
            n_parallel=_n_parallel(plans, strategy.max_parallel),
            seconds=seconds,
            unknown=unknown,
            rungs=tuple(name for name, point in self.listed.items() if not self.plans[key_of(point)].problems),
        )

    @property
    def _is_all(self) -> bool:
        """Whether every point was planned."""
        return bool(self.listed) or self.choices.space.size == len(self.plans)

    def _plan(self, point: Point) -> None:
        key = key_of(point)
        if key not in self.plans:
            self.points[key], self.plans[key] = point, self.planner(self.choices.settled(point))

    def _valid(self) -> Iterator[Point]:
        return (self.points[key] for key, plan in self.plans.items() if not plan.problems)

    def _with_value(self, point: Point, name: str, value: Any) -> Point:
        """The point with another value, and what comes with it; dimensions that it does not know take their first."""
        space = self.choices.space
        asked = {parent: values[0] for parent, values in space.dimensions[name].when.items()} | {name: value}
        changed: dict[str, Any] = {}
        for other, dimension in space.dimensions.items():
            if space.is_active(other, changed):
                changed[other] = asked.get(other, point.get(other, dimension.at(0.0)))
        return changed


def _duration(plans: Sequence[Plan]) -> tuple[float | None, tuple[str, ...]]:
    """Seconds that the steps and scores of all plans take, each once, by what such took before; and what is not known.

    What is in the cache takes none. Times are taken of every plan, for as long as their params allow.
    """
    if not plans:
        return None, ()
    known, told = Durations.of(plans[0].cache_dir), dict[str, tuple[str, float | None]]()
    for plan in plans:
        for identity, step in identities(plan.steps):
            if step.name not in plan.cached:
                told[identity] = step.pass_name, known.seconds(step.pass_name, step.params, plan.n_parameters)
            if plan.score is not None and step.produces != UNCHANGED and f"score:{step.name}" not in plan.cached:
                kind = f"score {step.produces}"
                told[f"score {identity}"] = kind, known.seconds(kind, {}, plan.n_parameters)
        if (timing := timing_params(plan.asked)) is not None and not any(
            name.startswith("time:") for name in plan.cached
        ):
            told[f"time {len(told)}"] = "times", float(timing["settings"].get("max_seconds", TIMING_SECONDS))
    unknown = tuple(dict.fromkeys(kind for kind, seconds in told.values() if seconds is None))
    foreseen = [seconds for _, seconds in told.values() if seconds is not None]
    return (sum(foreseen) if foreseen or not told else None), unknown


def _n_parallel(plans: Sequence[Plan], asked: int | None) -> int:
    """How many trials run at once: as many as are asked for, and as the systems that they run on have room for.

    Where nothing is asked for: one on a machine, and on a cluster as many as it has room for. One in any case where
    times are asked for: a neighbour at work on the same processors would stand in them.
    """
    if any(number.timed for plan in plans for number in plan.asked):
        return 1
    need = Estimate(
        memory_bytes=max((plan.estimate.memory_bytes for plan in plans), default=0),
        device_memory_bytes=max((plan.estimate.device_memory_bytes for plan in plans), default=0),
    )
    systems = {name: host.system for plan in plans for name, host in plan.hosts.items()}
    used = {step.host for plan in plans for step in plan.steps}
    used |= {plan.score.host for plan in plans if plan.score is not None}
    room = {name: systems[name].n_jobs(need) if name in systems else None for name in used}
    of_clusters = [n for n in room.values() if n is not None]
    if len(of_clusters) < len(room):  # some of it runs on a machine
        of_clusters.append(_n_on_machine(plans, need, {name for name, n in room.items() if n is None}))
        asked = asked or (1 if len(of_clusters) == 1 else None)
    return max(1, min([*([asked] if asked is not None else []), *of_clusters], default=1))


def _n_on_machine(plans: Sequence[Plan], need: Estimate, hosts: set[str | None]) -> int:
    """How many trials have room on the machines of some hosts; each device serves one."""
    machines = [step.machine for plan in plans for step in plan.steps if step.host in hosts]
    machines += [
        plan.score.machine or plan.machine for plan in plans if plan.score is not None and plan.score.host in hosts
    ]
    if any(machine.device != "cpu" or machine.n_processes > 1 for machine in machines):
        return 1  # one device: the others would wait, or fill its memory
    room = [machine.memory_bytes // need.memory_bytes for machine in machines if need.memory_bytes]
    return min([*room, *(machine.n_cores for machine in machines)], default=1)


def _n_trials(choices: Choices, strategy: SearchStrategy, settings: SamplerParams, n_valid: int | None) -> int | None:
    """How many trials there are at most; None where no number ends them."""
    if strategy.execution_order == "joint":
        sizes = [choices.space.size if n_valid is None else n_valid]
    else:
        sizes = [choices.of_pass(name, {}).space.size for name in choices.passes]
    limits = [limit for limit in (settings.max_samples, strategy.max_iter) if limit is not None]
    known = [min([*limits, *([size] if size is not None else [])], default=None) for size in sizes]
    return None if None in known else sum(one for one in known if one is not None)


def _values(dimensions: Mapping[str, Dimension]) -> Iterator[tuple[str, Any]]:
    for name, dimension in dimensions.items():
        if isinstance(dimension, Categorical):
            yield from ((name, value) for value in dimension.choices)


def identities(steps: tuple[Step, ...]) -> Iterator[tuple[str, Step]]:
    """A text for each step that two plans of one config have in common where the step is the same."""
    known: dict[str | None, str] = {None: ""}
    for step in steps:
        own: dict[str, Any] = {
            "pass": step.pass_name,
            "params": step.params,
            "host": step.host,
            "of": known[step.parent],
        }
        own["data"] = {name: config.model_dump(mode="json") for name, config in step.data.items()}
        own["models"] = [known.get(None if name == "input" else name, "") for name in step.models]
        known[step.name] = json.dumps(own, sort_keys=True, default=str)
        yield known[step.name], step

"""What the evaluator of a config asks for: numbers by name, their goals, and the rows and params that they take."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from olivine import search
from olivine.config import schema
from olivine.errors import RequestError
from olivine.workflow.draft import Draft
from olivine.workflow.rows import hears, no_such_data, writes
from olivine.workflow.scripts import plan_script
from olivine.workflow.steps import GPU_PEAK, Asked, ScoreRows, Script, batch_sizes

if TYPE_CHECKING:
    from olivine.evaluate import Evidence, Metric, Number, OutputEvidence
    from olivine.search import Goal

Path = tuple[str | int, ...]
_SIZE = "batch_size"  # the param of timings of which there may be several
CUSTOM = "custom"  # the type of metrics that a user's own script gives


@dataclass(frozen=True)
class _Wish:
    """A metric of the config, or one sub type of it. sub_type: its name; None for the first number of the metric."""

    metric: schema.Metric
    told: schema.Metric | schema.SubType
    sub_type: str | None
    path: Path

    @property
    def name(self) -> str:
        """What tables call it."""
        is_plain = self.sub_type is None or self.sub_type.lower() in (
            self.metric.name.lower(),
            self.metric.type.lower(),
        )
        return self.metric.name if is_plain else f"{self.metric.name}: {self.sub_type}"


def plan_asked(draft: Draft) -> tuple[Asked, ...]:
    """The numbers that the evaluator asks for; what is wrong with them is a problem of the plan.

    The rows that they name become those on which every model is scored.
    """
    name = draft.workflow.evaluator
    evaluator = draft.workflow.evaluators.get(name) if name is not None else None
    for other in draft.workflow.evaluators:
        if other != name:
            draft.translated.append(f"the evaluator '{other}' is used by nothing: 'evaluator' names the one that is")
    if name is None or evaluator is None or not evaluator.metrics:
        return ()
    if not draft.workflow.quality.enabled:
        message = "the evaluator asks for numbers, but enabled: false scores nothing."
        draft.problem("invalid-value", ("quality", "enabled"), message, "Remove one of the two.")
        return ()
    asked = _by_batch(tuple(_asked(draft, evaluator, ("evaluators", name))))
    for check in (_check_twice, _check_priorities, _check_params):
        check(draft, asked)
    _adopt_rows(draft, evaluator, ("evaluators", name), asked)
    return asked


def _by_batch(asked: tuple[Asked, ...]) -> tuple[Asked, ...]:
    """The same, where timings of several sizes of batches are asked for with the size in number and name."""
    from olivine.evaluate import of_batch

    timed = [one for one in asked if one.timed and _is_size(one.params.get(_SIZE, 1))]
    if len(timed) < sum(one.timed for one in asked) or len(batch_sizes(timed)) < 2:
        return asked

    def sized(one: Asked) -> Asked:
        n_rows = int(one.params.get(_SIZE, 1))
        return replace(one, number=of_batch(one.number, n_rows), name=f"{one.name}, {n_rows} at once")

    return tuple(sized(one) if one.timed else one for one in asked)


def _is_size(value: Any) -> bool:
    """Whether it is a size of batches; what is none is told with the other params."""
    return type(value) is int and value > 0


def with_params(given: Mapping[str, Mapping[str, Any]], asked: tuple[Asked, ...]) -> Mapping[str, Mapping[str, Any]]:
    """The params of metrics, with those of what is asked for; what every score has without any is left out."""
    params = dict(given)
    for one in asked:
        if one.metric and not one.timed and (one.params or not one.always):
            params[one.metric] = {**params.get(one.metric, {}), **one.params}
    return params


def scripts_of(asked: tuple[Asked, ...]) -> tuple[Script, ...]:
    """The scripts that give numbers of these, each once."""
    scripts = {one.script.name: one.script for one in asked if one.script is not None}
    return tuple(scripts.values())


def check_asked(draft: Draft, asked: tuple[Asked, ...], score: ScoreRows | None) -> None:
    """A problem for each number that the rows of the plan cannot give."""
    for one in asked:
        if draft.problems and (score is None or _lacks_data(draft)):  # which is why
            return
        if score is None:
            message = f"{one.name} is asked for, but no model is measured: there are no rows that fit into memory."
            draft.problem("missing-data", one.path, message, "Name the rows in data_config.")
        elif one.number.startswith(GPU_PEAK) and (score.machine or draft.machine).device == "cpu":
            message = f"{one.name} is asked for, but models are measured on the CPU."
            draft.problem("hardware", one.path, message, "Name a target with a GPU, or ask for peak_rss.")
        elif one.needs_labels and not _has_labels(draft, score):
            what = "labels" if score.data is not None and not score.on_text else "rows"
            message = f"{one.name} is asked for, but there are no {what} to compute it from."
            fix = "Name rows with the expected answers as the data_config of the metric."
            draft.problem("missing-data", one.path, message, fix)


def _lacks_data(draft: Draft) -> bool:
    return any(problem.kind in ("missing-data", "missing-file") for problem in draft.problems)


def _has_labels(draft: Draft, score: ScoreRows) -> bool:
    """Whether the rows say what a model should give: text that is asked for always does, in what it ends with."""
    from olivine.evaluate import OutputEvidence

    return bool(score.target) if _kind(draft) is OutputEvidence else score.data is not None and not score.on_text


def _asked(draft: Draft, evaluator: schema.Evaluator, path: Path) -> Iterator[Asked]:
    for index, metric in enumerate(evaluator.metrics):
        place = (*path, "metrics", index)
        if metric.type.lower() == CUSTOM:
            yield from _of_script(draft, metric, place)
            continue
        _refuse_script(draft, metric, place)
        for wish in _wishes(metric, place):
            one = _of(draft, wish)
            if one is not None:
                yield one


def _refuse_script(draft: Draft, metric: schema.Metric, path: Path) -> None:
    """Only a custom metric runs a user's code; any other has its rows from a data config."""
    for key in metric.user_config:
        message = f"'{key}' of '{metric.name}' is not served: its rows come from data_config, and are read as text."
        fix = "Remove it, or write a metric of the type custom."
        draft.problem("unsupported", (*path, "user_config", key), message, fix)


def _of_script(draft: Draft, metric: schema.Metric, path: Path) -> Iterator[Asked]:
    """The numbers that a user's script gives."""
    from olivine.evaluate import Number

    script = plan_script(draft, metric, path)
    if script is None:
        return
    others = {one.name for one in draft.workflow.evaluators[str(path[1])].metrics[: int(path[3])] if one.type == CUSTOM}
    if metric.name in others:
        draft.problem("invalid-value", (*path, "name"), f"two custom metrics are named '{metric.name}'.", "Rename one.")
    for wish in _wishes(metric, path):
        told = wish.told
        number = Number(f"{metric.name}.{wish.sub_type or metric.name}", higher_is_better=bool(told.higher_is_better))
        if told.higher_is_better is None and told.goal is not None:
            message = f"nothing tells whether a higher {wish.name} is better."
            draft.problem("invalid-value", wish.path, message, "Write higher_is_better.")
            continue
        yield Asked(
            name=wish.name,
            number=number.key,
            higher_is_better=number.higher_is_better,
            priority=_priority(told),
            goal=_goal(draft, wish, number),
            on_rows=script.on_outputs,
            needs_labels=script.on_outputs,
            script=script,
            path=wish.path,
        )


def _wishes(metric: schema.Metric, path: Path) -> Iterator[_Wish]:
    if not metric.sub_types:
        yield _Wish(metric, metric, None, path)
    for index, one in enumerate(metric.sub_types):
        yield _Wish(metric, one, one.name, (*path, "sub_types", index))


def _of(draft: Draft, wish: _Wish) -> Asked | None:
    """The number that is meant; None where that is a problem, which is told."""
    from olivine.evaluate import Artifact, Number, TaskEvidence, Timings, metrics, number_of

    try:
        metric, number = number_of(wish.metric.type, _whole(wish), _kind(draft))
    except RequestError as error:
        key = "type" if wish.sub_type is None or "of type" in str(error) else "name"
        at = wish.path if key == "name" else wish.path[:4]
        draft.problem("invalid-value", (*at, key), f"{error}.".replace("?.", "?"))
        return None
    told, said = wish.told, wish.told.higher_is_better
    if (why := _unheard(draft, metric, number)) is not None:
        draft.problem("invalid-value", (*wish.path, "name" if wish.sub_type is not None else "type"), why)
        return None
    if metric.reads is TaskEvidence and not _names_number(draft, wish, number):
        return None
    if number is None and said is None and told.goal is not None:
        message = f"nothing tells whether a higher {wish.name} is better."
        draft.problem("invalid-value", wish.path, message, "Write higher_is_better.")
        return None
    number = number or Number(wish.sub_type or metric.name, higher_is_better=bool(said))
    if said is not None and said != number.higher_is_better:
        better = "higher" if number.higher_is_better else "lower"
        message = f"higher_is_better is {str(said).lower()}, but of {wish.name} {better} is better."
        draft.problem("invalid-value", (*wish.path, "higher_is_better"), message, "Remove it.")
        return None
    return Asked(
        name=wish.name,
        number="" if metric.reads is TaskEvidence and wish.sub_type is None else number.key,
        higher_is_better=number.higher_is_better,
        unit=number.unit,
        compares=number.compares,
        priority=_priority(told),
        goal=_goal(draft, wish, number),
        metric=metric.name,
        params=_params(wish),
        always=metric in metrics.own.values() and not metric.only_when_asked,
        timed=metric.reads is Timings,
        on_rows=metric.reads not in (Artifact, TaskEvidence, Timings),
        needs_labels=metric.needs_labels,
        path=wish.path,
    )


def _params(wish: _Wish) -> dict[str, Any]:
    return {**wish.metric.metric_config, **wish.told.metric_config}


def _priority(told: schema.Metric | schema.SubType) -> int | None:
    """Its place among what decides, from 0 on; None for -1, which Olive writes for what does not decide."""
    return told.priority if told.priority is not None and told.priority >= 0 else None


def _whole(wish: _Wish) -> str | None:
    """The sub type with the name of the task before it, where there is one task alone and it is left out."""
    tasks = _params(wish).get("tasks")
    if wish.sub_type is None or "." in wish.sub_type or not isinstance(tasks, list) or len(tasks) != 1:
        return wish.sub_type
    return f"{tasks[0]}.{wish.sub_type}"


def _names_number(draft: Draft, wish: _Wish, number: "Number | None") -> bool:
    """Whether a wish for tasks says which of their numbers it is about, where that matters."""
    has_tasks = bool(_params(wish).get("tasks"))  # else that is what is told
    form = 'Write sub_types with a name such as "TASK.acc".'
    if wish.sub_type is None and (wish.told.goal is not None or _priority(wish.told) is not None):
        message = (
            f"{wish.name} has several numbers, and nothing tells which of them must reach the goal or comes first."
        )
        draft.problem("invalid-value", wish.path, message, form)
        return False
    if wish.sub_type is not None and number is None and has_tasks:
        message = f"'{wish.sub_type}' does not tell of which of the tasks it is."
        draft.problem("invalid-value", (*wish.path, "name"), message, form)
        return False
    return True


def _unheard(draft: Draft, metric: "type[Metric]", number: "Number | None") -> str | None:
    """Why a number of words is not there of a model that names classes, or one of classes of a model of speech."""
    if number is None or number.key == "label_accuracy" or not metric.needs_labels or draft.facts is None:
        return None
    if metric.hears and not hears(draft):
        return f"there is no {number.key} of {draft.facts.in_words}: it hears no speech."
    if metric.writes and not writes(draft):
        return f"there is no {number.key} of {draft.facts.in_words}: it writes no text."
    if not metric.writes and writes(draft):
        return f"there is no {number.key} of {draft.facts.in_words}; there is: accuracy_score, exact_match."
    if not metric.hears and hears(draft):
        return f"there is no {number.key} of {draft.facts.in_words}; there is: wer, cer, rtfx, accuracy_score."
    return None


def _kind(draft: Draft) -> "type[Evidence | OutputEvidence]":
    """What kind of evidence the models of the config give."""
    from olivine.evaluate import Evidence, OutputEvidence

    model, facts = draft.model, draft.facts
    is_graph = model is not None and model.is_graph
    return OutputEvidence if is_graph or (facts is not None and facts.kind != "decoder") else Evidence


def _goal(draft: Draft, wish: _Wish, number: Any) -> "Goal | None":
    """The goal of a number; None where there is none that can be met, which is told."""
    if wish.told.goal is None:
        return None
    kind, value, path = wish.told.goal.type, wish.told.goal.value, (*wish.path, "goal")
    try:
        goal = search.Goal(kind, value)
    except RequestError as error:
        draft.problem("invalid-value", (*path, "value"), f"{error}.")
        return None
    why = _unreachable(wish.name, number, goal)
    if why is None:
        return goal
    key, message, fix = why
    draft.problem("invalid-value", (*path, key), message, fix)
    return None


def _unreachable(name: str, number: "Number", goal: "Goal") -> tuple[str, str, str] | None:
    """Why no model could meet a goal, or none says what it means: the key of it, a sentence and the fix."""
    if number.compares and goal.is_relative:
        message = f"{name} compares with the model before, so the input model has none to count from."
        return "type", message, "Write a threshold."
    value = goal.value
    if number.unit == "share" and not goal.kind.startswith("percent-") and not 0 <= value <= 1:
        message = f"{name} is a share of 1, and the goal is {value:g}."
        return "value", message, f"Write {value / 100:g} for {value:g} %."
    if goal.kind == "threshold" and _is_beyond(number, value):
        message = f"no {name} is {value:g}: {number.best:g} is the best that there could be."
        return "value", message, "Write what is enough."
    if not number.higher_is_better and goal.kind == "percent-min-improvement" and value >= 100:
        return "value", f"no {name} is {value:g} % lower than that of the input model.", "Less than 100 % are possible."
    return None


def _is_beyond(number: "Number", value: float) -> bool:
    """Whether no model has a number that is as good; bytes and times are never 0."""
    if number.best is None:
        return False
    better = value > number.best if number.higher_is_better else value < number.best
    return better or (value == 0 and number.unit in ("bytes", "ms"))


def _check_twice(draft: Draft, asked: tuple[Asked, ...]) -> None:
    """Goals of one kind on one number that differ, and numbers that are asked for twice with other params."""
    goals: dict[tuple[str, str], Asked] = {}
    settled: dict[str, Asked] = {}
    for one in asked:
        if one.goal is not None:
            first = goals.setdefault((one.number, one.goal.kind), one)
            if first.goal is not None and first.goal.value != one.goal.value:
                message = f"two goals of {one.name} differ: {first.goal.value:g} and {one.goal.value:g}."
                draft.problem("invalid-value", (*one.path, "goal"), message, "Keep one of them.")
        same = settled.setdefault("timing" if one.timed else one.metric or one.number, one)
        if _differ(same, one):
            message = f"the params of {one.name} are others than those of {same.name}, and one metric gives both."
            draft.problem("invalid-value", (*one.path, "metric_config"), message, "Write the same for both.")


def _differ(same: Asked, one: Asked) -> bool:
    """Whether two numbers of one metric are asked for with other params; those of timings add up."""
    if not one.timed:
        return same.params != one.params
    return any(one.params[key] != value for key, value in same.params.items() if key in one.params and key != _SIZE)


def _check_priorities(draft: Draft, asked: tuple[Asked, ...]) -> None:
    """No two numbers come first at once."""
    seen: dict[int, Asked] = {}
    for one in asked:
        if one.priority is None:
            continue
        first = seen.setdefault(one.priority, one)
        if first is not one:
            message = f"{first.name} and {one.name} both have the priority {one.priority}."
            draft.problem("invalid-value", (*one.path, "priority"), message, "Give each its own; 1 matters most.")


def _check_params(draft: Draft, asked: tuple[Asked, ...]) -> None:
    """The params of each metric, as its own model has them."""
    from olivine.evaluate import check_metrics

    for one in [one for one in asked if one.script is None]:
        for problem in check_metrics({one.metric: one.params}, _kind(draft)):
            draft.problem(problem.kind, (*one.path, "metric_config", *problem.key[1:]), problem.message, problem.fix)


def _adopt_rows(draft: Draft, evaluator: schema.Evaluator, path: Path, asked: tuple[Asked, ...]) -> None:
    """Let every model be scored on the rows that the metrics name, which must be the same."""
    on_rows = {one.path[3] for one in asked if one.on_rows}
    quality = draft.workflow.quality
    for index, metric in enumerate(evaluator.metrics):
        if index not in on_rows or metric.data_config is None:
            continue
        here = (*path, "metrics", index, "data_config")
        if draft.workflow.data(metric.data_config) is None:
            no_such_data(draft, metric.data_config, here)
        elif quality.data_config not in (None, metric.data_config):
            message = (
                f"{metric.name} asks for the rows of '{metric.data_config}', but every model is scored on those of"
            )
            draft.problem(
                "invalid-value", here, f"{message} '{quality.data_config}'.", "Name the same rows everywhere."
            )
        else:
            quality = quality.model_copy(update={"data_config": metric.data_config})
    draft.workflow = draft.workflow.model_copy(update={"quality": quality})

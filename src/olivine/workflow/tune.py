"""A search: the sampler asks for points, the execution answers, and the best trial becomes the plan that is delivered.

    baseline ─> ask ─> plan of the point ─> steps, seams ─> values ─> tell ─ ... ─> front, choice or near misses

Trials share one store, so a step that two of them have in common is made once. A search that was interrupted asks for
the same points again and finds their results in the store; what failed in it is known from the journal, by the key of
the model that was to be made.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from olivine.errors import Interrupted, OlivineError, StepFailed
from olivine.models import Model
from olivine.models.disk import bytes_on_disk
from olivine.passes import UNCHANGED
from olivine.search import Goal, Objective, Point, Sampler, Trial, pareto
from olivine.search.space import key_of
from olivine.workflow.choices import Choices, Search
from olivine.workflow.events import (
    Event,
    Listener,
    Scored,
    SearchDone,
    SearchStarted,
    StepDone,
    TrialDone,
    TrialStarted,
    Warned,
)
from olivine.workflow.execute import Execution, climb
from olivine.workflow.few_rows import looks
from olivine.workflow.inputs import look_at_data
from olivine.workflow.journal import read_journal
from olivine.workflow.keys import seams
from olivine.workflow.names import FileNames
from olivine.workflow.plan import make_plan
from olivine.workflow.proofs import prove
from olivine.workflow.search_plan import identities
from olivine.workflow.steps import TASKS, Asked, Plan
from olivine.workflow.verdict import checks_missed, drop_allowed, goals, keeps, missed, missed_goals, table_of
from olivine.workflow.workers import Workers
from olivine.workflow.workshop import Workshop

_QUALITY = (("label_accuracy", True), ("loss", False), ("cosine", True))  # the first that is measured; higher is better
_ACCURACY = "label_accuracy"
_ROUNDING = 6  # digits of a drop: accuracies are shares of rows, whose differences are not exact
_N_CAUSES = 3  # that a person is told when every trial failed
_N_REFUSED = 1000  # points in a row that cannot run; then the search is at its end


@dataclass(frozen=True)
class Attempt:
    """A trial that has ended, with the plan that it followed."""

    done: TrialDone
    plan: Plan

    @property
    def is_measured(self) -> bool:
        """Whether there is a model of it."""
        return self.done.outcome != "failed"

    @property
    def is_good(self) -> bool:
        """Whether there is a model, and it meets every goal."""
        return self.is_measured and not self.done.missed


@dataclass(frozen=True)
class Chosen:
    """The plan to be delivered, all of it in the store, and what the search came to."""

    plan: Plan
    attempt: TrialDone
    outcome: SearchDone
    trials: Sequence[TrialDone] = ()

    @property
    def record(self) -> dict[str, Any]:
        """The search in `Result.search`."""
        counts = {name: getattr(self.outcome, name) for name in ("n_trials", "n_failed", "n_refused")}
        told = {"chosen": self.attempt.trial, "point": dict(self.attempt.point), "front": list(self.outcome.front)}
        near = {"near_misses": [dict(one) for one in self.outcome.near_misses]}
        return told | counts | near | {"trials": [one.record for one in self.trials]}


def tune(plan: Plan, search: Search, model: Model, workshop: Workshop) -> Chosen:
    """Search, and choose. StepFailed when no trial gave a model."""
    listener, begin = _Once(workshop.tell), time.monotonic()
    baseline = _baseline(plan, model, replace(workshop, tell=listener))
    wanted = _wanted(plan, baseline)
    workshop.tell(_started(search, wanted))
    trials = _Trials(plan, search, model, workshop, listener, wanted, begin)
    attempts, outcome = _searched(search, trials)
    workshop.tell(outcome)
    if outcome.chosen is None:
        raise StepFailed("search", _all_failed(attempts, outcome.n_refused))
    attempt = next(one for one in attempts if one.done.trial == outcome.chosen)
    return Chosen(attempt.plan, attempt.done, outcome, trials.done)


def _searched(search: Search, trials: "_Trials") -> tuple[list[Attempt], SearchDone]:
    """The trials among which the last choice was, and what all of them came to."""
    if search.strategy.execution_order == "joint":
        attempts = trials.all(search.choices)
        return attempts, trials.outcome(attempts)
    fixed: dict[str, Any] = {}
    for name in search.choices.passes:
        attempts = trials.all(search.choices.of_pass(name, fixed))
        outcome = trials.outcome(attempts)
        if outcome.chosen is None:
            break
        fixed |= next(one.done.point for one in attempts if one.done.trial == outcome.chosen)
    return attempts, outcome


@dataclass(frozen=True)
class _Wanted:
    """What is made better, and what must hold beside it.

    allowed: how much worse than the best a model may be that is chosen because it is smaller; None: none. baseline: the
    scores of the input model, where goals of an evaluator count from them.
    """

    objectives: Sequence[Objective]
    guards: Sequence[Objective]
    allowed: float | None
    baseline: Scored | None = None


def _baseline(plan: Plan, model: Model, workshop: Workshop) -> Scored | None:
    """The scores of the input model, which every trial shares; None where nothing is scored."""
    base = next(iter(seams(plan)), None)
    score = Execution(plan, model, workshop).score(base) if base is not None else None
    return score.event if score is not None else None


def _wanted(plan: Plan, scored: Scored | None) -> _Wanted:
    """The quality that is measured on the rows, then the size; what quality.max_drop and checks ask for beside them."""
    share, baseline = drop_allowed(plan.quality.max_drop), scored.row if scored is not None else {}
    size = Objective("size_bytes", higher_is_better=False, priority=2)
    broken = Objective("broken", higher_is_better=False, priority=4, goal=Goal("threshold", 0))
    asked = sorted((one for one in plan.asked if one.priority is not None or one.goal is not None), key=_rank)
    if asked:
        objectives = {one.number: replace(one.objective(baseline), priority=n) for n, one in enumerate(asked, 1)}
        return _Wanted(list(objectives.values()), [*_kept(share), broken], None, scored)
    if not seams(plan):
        return _Wanted([size], [broken], None)
    name, is_higher = next((one for one in _QUALITY if one[0] in baseline), _QUALITY[-1])
    if share is None or name != "label_accuracy":
        return _Wanted([Objective(name, is_higher), size], [broken], None)
    goal = Goal("max-degradation", share)
    quality = Objective(name, is_higher, goal=goal, baseline=baseline[name])
    return _Wanted([quality, size], [*_kept(share), broken], share)


def _kept(share: float | None) -> list[Objective]:
    """What quality.max_drop asks of the largest drop between two models."""
    if share is None:
        return []
    return [Objective("drop", higher_is_better=False, priority=3, goal=Goal("threshold", share))]


def _rank(asked: Asked) -> float:
    """By priority; what has none comes last."""
    return asked.priority if asked.priority is not None else math.inf


def _started(search: Search, wanted: _Wanted) -> SearchStarted:
    dimensions = search.choices.space.dimensions.items()
    return SearchStarted(
        space={name: [one.value(number) for number in range(one.size or 0)] for name, one in dimensions},
        sampler=search.sampler.name,
        settings=search.settings.model_dump(mode="json"),
        objectives=[
            {
                "name": one.name,
                "higher_is_better": one.higher_is_better,
                "goal": {"type": one.goal.kind, "value": one.goal.value} if one.goal is not None else None,
            }
            for one in (*wanted.objectives, *wanted.guards)
        ],
        n_trials=search.n_trials,
    )


class _Trials:
    """The trials of a search, some at a time; they are told in the order in which they were asked for.

    begin: of the search, by the monotonic clock.
    """

    def __init__(
        self,
        plan: Plan,
        search: Search,
        model: Model,
        workshop: Workshop,
        listener: "_Once",
        wanted: _Wanted,
        begin: float,
    ) -> None:
        self._plan, self._search, self._model, self._workshop = plan, search, model, workshop
        self._listener, self._wanted = listener, wanted
        self._failed_before, self._begin = _failed_before(workshop), begin
        self._n_trials, self._n_failed, self._n_refused = 0, 0, 0
        self._names = {key_of(point): name for name, point in search.sampler.listed(search.settings).items()}
        self.done: list[TrialDone] = []
        self._bytes: dict[str, int] = {}  # of the results of steps, by what tells steps apart
        self._is_stopped = threading.Event()

    def all(self, choices: Choices) -> list[Attempt]:
        """Every trial of some choices until the search of them ends."""
        settings = self._search.settings.model_copy(update={"max_samples": None})  # what cannot run does not count
        sampler = self._search.sampler(choices.space, self._wanted.objectives, settings)
        attempts: list[Attempt] = []
        while not self._is_over(attempts, is_last=choices.until is None):
            asked = self._asked(sampler, choices, self._n_at_once(len(attempts)))
            if not asked:
                break
            made = self._at_once([({**choices.fixed, **point}, plan) for point, plan in asked])
            for (point, _), attempt in zip(asked, made, strict=True):
                sampler.tell(Trial(point, attempt.done.values if attempt.is_measured else None))
                self._n_failed += not attempt.is_measured
                self._count_bytes(attempt)
            attempts += made
            self.done += [one.done for one in made]
        return attempts

    def _asked(self, sampler: Sampler, choices: Choices, n: int) -> list[tuple[Point, Plan]]:
        """As many points that can run, with their plans; fewer where there are no more."""
        asked: list[tuple[Point, Plan]] = []
        n_in_a_row = 0
        while len(asked) < n and n_in_a_row < _N_REFUSED and (point := sampler.ask()) is not None:
            plan = self._planned(choices, point)
            if plan.problems or not self._is_affordable(plan):
                sampler.tell(Trial(point, None))
                self._n_refused, n_in_a_row = self._n_refused + 1, n_in_a_row + 1
                continue
            n_in_a_row = 0
            asked.append((point, plan))
        return asked

    def _is_affordable(self, plan: Plan) -> bool:
        """Whether what the trials write stays within max_cost_bytes with this one; takes its share where it does."""
        most = self._search.strategy.max_cost_bytes
        needed = {identity: step.estimate.disk_bytes for identity, step in identities(plan.steps)} | self._bytes
        if most is not None and sum(needed.values()) > most:
            message = f"trials are left out that would take all results above the {most:,} bytes of max_cost_bytes"
            self._listener(Warned(step="search", message=message))
            return False
        self._bytes = needed
        return True

    def _count_bytes(self, attempt: Attempt) -> None:
        """Put the bytes that results take in the place of those that were foreseen."""
        keys = {str(one["step"]): str(one["key"]) for one in attempt.done.steps}
        for identity, step in identities(attempt.plan.steps):
            entry = self._workshop.store.peek(keys[step.name]) if step.name in keys else None
            if entry is not None:
                self._bytes[identity] = entry.size_bytes
            elif not attempt.is_measured:  # it was not made
                self._bytes[identity] = 0

    def _n_at_once(self, n_done: int) -> int:
        return min([self._search.n_parallel, *(limit - n_done for limit in self._limits)])

    @property
    def _limits(self) -> list[int]:
        """Of trials, for each pass or for all together."""
        limits = (self._search.settings.max_samples, self._search.strategy.max_iter)
        return [limit for limit in limits if limit is not None]

    def _at_once(self, asked: Sequence[tuple[Point, Plan]]) -> list[Attempt]:
        """The trials of some points, each in a thread of its own where there are several."""
        numbered = [(self._n_trials + number, *one) for number, one in enumerate(asked, 1)]
        self._n_trials += len(asked)
        if len(numbered) == 1:
            return [self._attempt(*numbered[0])]
        with ThreadPoolExecutor(len(numbered)) as threads:
            waiting = [threads.submit(self._attempt, *one) for one in numbered]
            try:
                return [one.result() for one in waiting]
            except BaseException as error:
                self._is_stopped.set()  # what fails from now on was ended, and has not failed
                self._workshop.workers.kill()
                if isinstance(error, KeyboardInterrupt):
                    raise Interrupted.by(error, " in a search") from None
                raise

    def outcome(self, attempts: Sequence[Attempt]) -> SearchDone:
        """What some trials come to, beside the counts of all so far."""
        return replace(
            _outcome(attempts, self._wanted),
            n_trials=self._n_trials,
            n_failed=self._n_failed,
            n_refused=self._n_refused,
        )

    def _is_over(self, attempts: Sequence[Attempt], *, is_last: bool) -> bool:
        """Whether these trials end: each pass has as many, and at least one."""
        strategy, n, seconds = self._search.strategy, len(attempts), time.monotonic() - self._begin
        if (self._limits and n >= min(self._limits)) or (
            strategy.max_time is not None and n and seconds >= strategy.max_time
        ):
            return True
        return is_last and strategy.stop_when_goals_met and any(one.is_good for one in attempts)

    def _planned(self, choices: Choices, point: Point) -> Plan:
        fetched = self._model.path if self._plan.hub_name is not None else None
        settled = choices.settled(point)
        return make_plan(settled, offline=self._plan.machine.offline, fetched=fetched, asked=self._plan.hosts)

    def _attempt(self, number: int, point: Point, plan: Plan) -> Attempt:
        name, n_trials = self._names.get(key_of(point), ""), self._search.n_trials
        self._workshop.tell(TrialStarted(trial=number, point=point, n_trials=n_trials, name=name))
        course, begin = _Course(plan), time.monotonic()
        listen = _both(course.heard.append, self._listener)
        workshop = replace(self._workshop, tell=listen, logs=_TrialNames(number))
        try:
            told = self._followed(course, workshop)
        except Interrupted:
            raise
        except OlivineError as error:
            if self._is_stopped.is_set():
                raise Interrupted("interrupted in a search") from None
            log = str(error.log) if isinstance(error, StepFailed) and error.log is not None else None
            told = {"outcome": "failed", "cause": str(error), "log": log}
        steps = [
            {"step": event.step, "key": event.key, "cached": event.is_cached}
            for event in course.heard
            if isinstance(event, StepDone)
        ]
        seconds = round(time.monotonic() - begin, 2)
        done = TrialDone(trial=number, point=point, key=course.key, steps=steps, seconds=seconds, name=name, **told)
        self._workshop.tell(done)
        return Attempt(done, course.plan)

    def _followed(self, course: "_Course", workshop: Workshop) -> dict[str, Any]:
        """Fields of the event of a trial whose plan is followed to its end."""
        limit = self._limit()
        with _limited(workshop.workers, limit.seconds if limit is not None else None) as is_over:
            try:
                course.plan = look_at_data(course.plan, self._model, workshop)
                execution = Execution(course.plan, self._model, workshop)
                course.key = execution.keys.models[course.plan.steps[-1].name]
                if course.key in self._failed_before:
                    return self._failed_before[course.key]
                prove(course.plan, self._model, execution.keys.models, workshop)
                if (cut := self._cut(execution, is_over) or self._given_up(execution, is_over)) is not None:
                    return cut
                for _ in climb(execution):
                    if is_over.is_set() or self._is_stopped.is_set():
                        break
            except StepFailed as error:
                if not is_over.is_set() or limit is None:
                    raise
                raise StepFailed(error.step, f"it {limit.in_words}", error.log) from None
        if self._is_stopped.is_set():
            raise Interrupted("interrupted in a search")
        if is_over.is_set() and limit is not None:
            raise StepFailed("search", f"the trial {limit.in_words}")
        return _measured(course, execution)

    def _limit(self) -> "_Limit | None":
        """The time that a trial which begins now may take; None: any."""
        strategy, limits = self._search.strategy, []
        if strategy.max_trial_time is not None:
            limits.append(_Limit(strategy.max_trial_time, f"{strategy.max_trial_time:g} seconds (max_trial_time)"))
        if strategy.end_at_max_time and strategy.max_time is not None:
            left = max(0.0, strategy.max_time - (time.monotonic() - self._begin))
            limits.append(_Limit(left, f"was left of the {strategy.max_time:g} seconds of the search (max_time)"))
        return min(limits, key=lambda limit: limit.seconds, default=None)

    def _cut(self, execution: Execution, is_over: threading.Event) -> dict[str, Any] | None:
        """Fields of the event of a trial that misses a goal on its size, before anything of it is scored."""
        plan, baseline = execution.plan, self._wanted.baseline
        asked = [one for one in plan.asked if one.number == "size_bytes" and one.goal is not None]
        if not asked or baseline is None:
            return None
        for step in plan.steps:
            if is_over.is_set():
                return None
            last = execution.result(step)
        size = _size(last)
        named = Scored(model=plan.steps[-1].name, size_bytes=size)
        sentences = list(missed([baseline, named], keeps(asked), result=named.model))
        if size is None or not sentences:
            return None
        return {"outcome": "cut", "values": {"size_bytes": float(size)}, "missed": sentences}

    def _given_up(self, execution: Execution, is_over: threading.Event) -> dict[str, Any] | None:
        """Fields of the event of a trial that surely misses a goal on its accuracy, by a few of the rows."""
        plan, baseline = execution.plan, self._wanted.baseline
        goals_on_it = [one for one in plan.asked if one.number == _ACCURACY and one.goal is not None]
        if not goals_on_it or baseline is None or plan.score is None or baseline.scores.get(_ACCURACY) is None:
            return None
        error, n_rows = self._search.strategy.early_stop_error, baseline.scores["n_rows"]
        least = max(_bound(one, baseline.scores[_ACCURACY]) for one in goals_on_it)
        for look in looks(n_rows, error):
            for step in plan.steps:
                if is_over.is_set() or self._is_stopped.is_set():
                    return None
                last = execution.result(step)
            accuracy = self._on_few(execution, look.n_few)
            if accuracy is not None and look.stops(accuracy, least):
                sentence = (
                    f"label accuracy is {accuracy:.1%} on {look.n_few} of {n_rows} rows, and "
                    f"{goals_on_it[0].setting} asks for {least:.1%} on all: of models that have it, {error:.1%} at "
                    "most are given up so early"
                )
                size = _size(last)
                sizes = {"size_bytes": float(size)} if size is not None else {}
                return {"outcome": "cut", "values": {_ACCURACY: accuracy, **sizes}, "missed": [sentence]}
        return None

    def _on_few(self, execution: Execution, n_few: int) -> float | None:
        """The accuracy of what ships on so many rows; nothing of that is told."""
        plan = execution.plan
        if plan.score is None:
            return None
        cheap = {name: params for name, params in plan.score.metrics.items() if name != TASKS}
        few = replace(plan, score=replace(plan.score, n_few=n_few, metrics=cheap, scripts=()))
        score = Execution(few, self._model, replace(self._workshop, tell=lambda _event: None)).score(seams(few)[-1])
        return score.event.scores.get(_ACCURACY) if score is not None else None


def _bound(asked: Asked, baseline: float) -> float:
    """The accuracy that a goal asks for."""
    return asked.goal.bound(higher_is_better=True, baseline=baseline) if asked.goal is not None else 0.0


@dataclass(frozen=True)
class _Limit:
    """A time that a trial may take. setting: how long, and which key of the config says so."""

    seconds: float
    setting: str

    @property
    def in_words(self) -> str:
        """What a trial did that went on for longer."""
        return f"took longer than {self.setting}"


@dataclass
class _Course:
    """What is known of a trial that is at work. key: of the model that it makes."""

    plan: Plan
    heard: list[Event] = field(default_factory=list)
    key: str = ""


def _measured(course: _Course, execution: Execution) -> dict[str, Any]:
    """Fields of the event of a trial that has its model."""
    plan = course.plan
    scored = [event for event in course.heard if isinstance(event, Scored)]
    if _misses_already(plan, scored):  # it is not timed, and of times nothing is missed
        plan = replace(plan, asked=tuple(one for one in plan.asked if not one.timed))
    else:
        scored = execution.timed(scored)
    steps = [event.record for event in course.heard if isinstance(event, StepDone)]
    checks = [*checks_missed(steps), *missed(scored, [])]
    values: dict[str, float] = {"broken": float(len(checks))}
    last = next((step for step in reversed(plan.steps) if step.produces != UNCHANGED), None)
    if last is not None and (size := _size(execution.result(last))) is not None:
        values["size_bytes"] = float(size)
    if scored:
        measured = {name: scored[-1].scores.get(name) for name, _ in _QUALITY}
        measured |= {row["number"]: row["value"] for row in table_of(plan, scored)}
        values = {name: float(value) for name, value in measured.items() if value is not None} | values
    if drops := [event.drop for event in scored if event.drop is not None]:
        values["drop"] = round(max(drops), _ROUNDING)
    sentences = [*checks, *missed_goals(plan, scored)]
    return {"outcome": "measured", "values": values, "missed": list(dict.fromkeys(sentences))}


def _misses_already(plan: Plan, scored: Sequence[Scored]) -> bool:
    """Whether a goal is missed before anything is timed: times take a minute, and could not mend that."""
    untimed = [one for one in plan.asked if not one.timed]
    trained = [step.name for step in plan.steps if step.trains]
    kept = [*goals(plan.quality.max_drop), *keeps(untimed)]
    return bool(scored) and any(missed(scored, kept, trained=trained))


def _size(model: Model) -> int | None:
    """Bytes of a model; one whose weights are computed from a base is as large as that when it is written."""
    size = bytes_on_disk(model)
    return size if size is not None or model.base is None else bytes_on_disk(model.base)


def _outcome(attempts: Sequence[Attempt], wanted: _Wanted) -> SearchDone:
    """The front, the chosen trial, and, where none meets the goals, how near each came."""
    measured = [one.done for one in attempts if one.is_measured]
    met = [one for one in measured if not one.missed]
    everything = [*wanted.objectives, *wanted.guards]
    ranked = [] if met else pareto.ranked(measured, _values_of, everything)
    near = sorted(((one, _shortfall(one, everything)) for one in ranked), key=lambda pair: pair[1])
    best = _best(met, wanted) if met else next((one for one, _ in near), None)
    return SearchDone(
        chosen=best.trial if best is not None else None,
        front=[one.trial for one in pareto.front(met or measured, _values_of, wanted.objectives)],
        near_misses=[
            {"trial": one.trial, "shortfall": shortfall, "missed": list(one.missed)} for one, shortfall in near
        ],
    )


def _shortfall(done: TrialDone, objectives: Sequence[Objective]) -> float:
    """How far a trial misses its goals; of one that was cut, those that are known."""
    known = [one for one in objectives if done.outcome != "cut" or one.name in done.values]
    return pareto.shortfall(done.values, known)


def _best(met: Sequence[TrialDone], wanted: _Wanted) -> TrialDone:
    """The best by priority; where a goal says how much accuracy may be lost, the smallest that is as near to that."""
    best = pareto.ranked(met, _values_of, wanted.objectives)[0]
    if wanted.allowed is None:
        return best
    quality = wanted.objectives[0]
    least = quality.merit(best.values) - wanted.allowed - 10**-_ROUNDING
    near = [one for one in met if quality.merit(one.values) >= least]
    size_first = [replace(one, priority=-one.priority) for one in wanted.objectives]
    return pareto.ranked(near, _values_of, size_first)[0]


def _values_of(done: TrialDone) -> Mapping[str, float]:
    return done.values


def _all_failed(attempts: Sequence[Attempt], n_refused: int) -> str:
    """Why no trial gave a model, in a sentence: the causes, each once with how often it was."""
    if not attempts:
        return f"none of the {n_refused} points can run"
    causes = Counter(one.done.cause for one in attempts)
    told = "; ".join(f"{cause} ({n} of {len(attempts)} trials)" for cause, n in causes.most_common(_N_CAUSES))
    return f"no trial gave a model: {told}"


def _failed_before(workshop: Workshop) -> dict[str, dict[str, Any]]:
    """What failed in the search before this one, by key; a search that came to its end tries it again."""
    failed: dict[str, dict[str, Any]] = {}
    for event in read_journal(workshop.output_dir):
        if isinstance(event, SearchDone):
            failed = {}
        elif isinstance(event, TrialDone) and event.outcome == "failed" and event.key:
            failed[event.key] = {"outcome": "failed", "cause": event.cause, "log": event.log}
    return failed


@contextmanager
def _limited(workers: Workers, seconds: float | None) -> Iterator[threading.Event]:
    """After so many seconds, the job that this thread waits for is ended; the event says whether it was."""
    is_over, thread = threading.Event(), threading.get_ident()
    if seconds is None:
        yield is_over
        return

    def end() -> None:
        is_over.set()
        workers.kill(thread)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield is_over
    finally:
        timer.cancel()
        timer.join()


class _TrialNames(FileNames):
    """File names of the steps of one trial: another one's log of the same step stays."""

    def __init__(self, trial: int) -> None:
        super().__init__()
        self._trial = trial

    def of(self, name: str) -> str:
        """See FileNames."""
        return super().of(f"trial-{self._trial}-{name}")


class _Once:
    """Passes on what trials tell; results that they share, and warnings about these, the first time only."""

    def __init__(self, tell: Listener) -> None:
        self._tell, self._told, self._lock = tell, set[tuple[str, ...]](), threading.Lock()

    def __call__(self, event: Event) -> None:
        """Pass it on, unless it was."""
        match event:
            case StepDone():
                told = ("step", event.step, event.key)
            case Scored():
                told = ("score", event.model, event.key)
            case Warned():
                told = ("warning", event.step, event.message)
            case _:
                self._tell(event)
                return
        with self._lock:
            is_new = told not in self._told
            self._told.add(told)
        if is_new:
            self._tell(event)


def _both(one: Callable[[Event], None], other: Callable[[Event], None]) -> Listener:
    def tell(event: Event) -> None:
        one(event)
        other(event)

    return tell

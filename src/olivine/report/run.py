"""A run as its events tell it: what a section of the report draws."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from olivine.workflow.events import (
    Delivered,
    Event,
    RunDone,
    RunFailed,
    RunInterrupted,
    RunStarted,
    Sampled,
    Scored,
    SearchDone,
    SearchStarted,
    StepDone,
    StepFailed,
    StepStarted,
    Timed,
    TrialDone,
    Warned,
)
from olivine.workflow.units import duration
from olivine.workflow.words import DOUBT

Kind = TypeVar("Kind", bound=Event)


@dataclass(frozen=True)
class Job:
    """A step in time. event: how it ended. began, ended: seconds since the run began."""

    event: StepDone | StepFailed
    began: float
    ended: float

    @property
    def state(self) -> str:
        """Its state as a word."""
        if isinstance(self.event, StepFailed):
            return "failed"
        return "cached" if self.event.is_cached else "done"


@dataclass(frozen=True)
class Run:
    """The events of one run, from its start on. earlier: the runs before it in the same output folder, oldest first."""

    started: RunStarted
    events: Sequence[Event]
    output_dir: Path
    earlier: Sequence["Run"] = ()

    def all(self, kind: type[Kind]) -> list[Kind]:
        """Every event of a kind, oldest first."""
        return [event for event in self.events if isinstance(event, kind)]

    def last(self, kind: type[Kind]) -> Kind | None:
        """The last event of a kind."""
        return next((event for event in reversed(self.events) if isinstance(event, kind)), None)

    @cached_property
    def done(self) -> RunDone | None:
        """How it ended, where it came to its end."""
        return self.last(RunDone)

    @property
    def status(self) -> str:
        """How it ended, as `RunDone` says it, or failed, interrupted; unfinished where nothing says it."""
        if self.done is not None:
            return self.done.status
        end = self.last(RunFailed) or self.last(RunInterrupted)
        return "unfinished" if end is None else "failed" if isinstance(end, RunFailed) else "interrupted"

    @property
    def seconds(self) -> float:
        """From its first event to its last."""
        return max(0.0, self.events[-1].time - self.started.time)

    @property
    def time_in_words(self) -> str:
        """How long it took; of a run in which no step worked that would say nothing of what its result costs."""
        return "cached" if {job.state for job in self.jobs} == {"cached"} else duration(self.seconds)

    @cached_property
    def tail(self) -> Sequence[Event]:
        """What is of the model that is delivered: the events after those of a search."""
        ends = [place for place, event in enumerate(self.events) if isinstance(event, SearchDone)]
        return self.events[ends[-1] :] if ends else self.events

    @cached_property
    def scores(self) -> list[Mapping[str, Any]]:
        """A row for each model in order: those of the result, or as far as the run came."""
        if self.done is not None and self.done.scores:
            return list(self.done.scores)
        return list({event.model: event.row for event in self.tail if isinstance(event, Scored)}.values())

    @cached_property
    def jobs(self) -> list[Job]:
        """Every step that the run looked for or did, in order of their ends; of a search, those of all trials."""
        starts: dict[tuple[str, str], float] = {}
        jobs = []
        for event in self.events:
            if isinstance(event, StepStarted):
                starts[event.step, event.key] = event.time
            elif isinstance(event, (StepDone, StepFailed)):
                ended = event.time - self.started.time
                jobs.append(Job(event, starts.get((event.step, event.key), event.time) - self.started.time, ended))
        return jobs

    @cached_property
    def steps(self) -> list[StepDone]:
        """The finished steps that led to the result, each once."""
        return list({event.step: event for event in self.tail if isinstance(event, StepDone)}.values())

    def is_earlier(self, step: StepDone) -> bool:
        """Whether the cache had its result before the run: the trials of a search make what its end finds there."""
        return step.is_cached and step.key not in self._made

    @cached_property
    def _made(self) -> set[str]:
        """The keys of what the run itself did."""
        return {event.key for event in self.all(StepDone) if not event.is_cached}

    @property
    def passes(self) -> list[StepDone]:
        """The steps of the workflow among them: what a pass made of a model."""
        return [event for event in self.steps if event.pass_name is not None and event.step != "prove"]

    @property
    def failed(self) -> StepFailed | None:
        """The step that ended the run."""
        return self.last(StepFailed) if self.status == "failed" else None

    @cached_property
    def warnings(self) -> list[Warned]:
        """What was warned of, by the plan and while it ran, each sentence once."""
        noted = self.started.translated
        planned = [Warned(step="", message=note.removeprefix(DOUBT)) for note in noted if note.startswith(DOUBT)]
        told = {event.message: event for event in planned}  # a run that looks at its rows may say the same
        told |= {event.message: event for event in self.all(Warned)}
        return list(told.values())

    @property
    def samples(self) -> Sequence[Mapping[str, Any]]:
        """Rows with the answers of all models; those of the last alone where the run is of an earlier version."""
        if (told := self.last(Sampled)) is not None:
            return told.rows
        if self.done is None or not self.scores:
            return ()
        name = str(self.scores[-1]["model"])
        return [
            {
                "prompt": one.get("prompt", ""),
                "expected": one.get("expected", ""),
                "answers": {name: {"text": one.get("generated", ""), "right": None}},
            }
            for one in self.done.samples
        ]

    @property
    def delivered(self) -> Delivered | None:
        """What lies in the output folder."""
        return self.last(Delivered)

    @property
    def timed(self) -> Timed | None:
        """What was timed of the result."""
        return self.last(Timed)

    @property
    def search(self) -> SearchStarted | None:
        """The search that the result was chosen in."""
        return self.last(SearchStarted)

    @property
    def trials(self) -> list[TrialDone]:
        """The trials of the search by their numbers."""
        return sorted(self.all(TrialDone), key=lambda event: event.trial)

    @property
    def peak_memory_bytes(self) -> int:
        """The largest that a step took, when it was made."""
        return max((event.peak_memory_bytes or 0 for event in self.steps), default=0)

    @property
    def has_goals(self) -> bool:
        """Whether the config says what the result must keep."""
        quality = self.started.workflow.get("quality")
        has_budget = isinstance(quality, Mapping) and quality.get("max_drop") is not None
        return has_budget or any(row.get("bound") is not None for row in (self.done.measured if self.done else ()))

    @property
    def rows_in_words(self) -> str:
        """What the scored rows are."""
        first = self.scores[0] if self.scores else {}
        n_rows = first.get("n_rows", 0)
        if first.get("on_text"):
            return f"{n_rows} passages of text"
        if first.get("made_up"):
            return f"{n_rows} made-up rows"
        if self.done is not None and self.done.trained_on:
            return f"{n_rows} rows that were trained on"
        return f"{n_rows} rows"


def runs_of(events: Iterable[Event], output_dir: Path) -> list[Run]:
    """The runs of a journal, oldest first; events of one whose start is lost are left out."""
    by_run: dict[str, list[Event]] = {}
    for event in events:
        by_run.setdefault(event.run, []).append(event)
    runs: list[Run] = []
    for of_run in by_run.values():
        start = next((event for event in of_run if isinstance(event, RunStarted)), None)
        if start is not None:
            runs.append(Run(start, of_run, output_dir, tuple(runs)))
    return runs

"""What happens in a run, as typed events: the journal writes them, `read_journal` reads them, screen and report draw.

An event of a step says where its result comes from: the pass and its params, the step before, and both keys. Keys are
what tells results apart: a search tries one step many times under one name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from types import UnionType
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

Kind = TypeVar("Kind")


@dataclass_transform(eq_default=False, kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def _event(kind: type[Kind]) -> type[Kind]:
    """A dataclass that is never changed, as type checkers see to; `Event` compares and shows all of them.

    To make these methods for each kind anew takes longer than to read the journal.
    """
    return dataclass(kw_only=True, eq=False, repr=False)(kind)


@_event
class Event:
    """Something that happened.

    kind: its name in the journal. is_kept: whether the journal writes it. run, time: id of the run, and seconds since
    the epoch; the journal fills them in. more: fields of a later version of olivine.
    """

    kind: ClassVar[str] = ""
    is_kept: ClassVar[bool] = True
    derived: ClassVar[frozenset[str]] = frozenset()  # keys in the journal that follow from fields

    run: str = field(default="", compare=False)
    time: float = field(default=0.0, compare=False)
    more: Mapping[str, Any] = field(default_factory=dict)

    __hash__ = None  # type: ignore[assignment]  # what it holds has none

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, one.name) == getattr(other, one.name) for one in fields(self) if one.compare)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{one.name}={getattr(self, one.name)!r}' for one in fields(self))})"

    def to_json(self) -> dict[str, Any]:
        """The event as it stands in the journal; the inverse of `event_of`."""
        own = {_key(one.name): getattr(self, one.name) for one in fields(self) if one.name not in _FRAME}
        return {"event": self.kind, "run": self.run, "time": self.time, **own, **self.more}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """The event of a line of the journal; TypeError when a field is missing, or holds what it never does."""
        known = {_key(one.name): one.name for one in fields(cls) if one.name != "more"}
        given = {known[key]: _frozen(value) for key, value in record.items() if key in known}
        hints = _hints(cls)  # type: ignore[arg-type]  # mypy: a type is not hashable
        if misfits := [name for name, value in given.items() if not _fits(value, hints[name])]:
            raise TypeError(f"{cls.kind}: {', '.join(misfits)}")
        skipped = {"event", *known, *cls.derived}
        return cls(**given, more={key: value for key, value in record.items() if key not in skipped})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_hints = cache(get_type_hints)  # of the fields of a kind of event


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of that type; the journal writes null for a number that is none."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is UnionType:
        return any(_fits(value, part) for part in parts)
    if kind is Mapping:
        return isinstance(value, dict) and all(_fits(one, parts[1]) for one in value.values())
    if kind is Sequence:
        return isinstance(value, (list, tuple)) and all(_fits(one, parts[0]) for one in value)
    if kind in (int, float):
        return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
    return kind is Any or isinstance(value, kind)


_FRAME = ("run", "time", "more")


def _key(name: str) -> str:
    """A field's key in the journal: `pass` is no name in Python."""
    return "pass" if name == "pass_name" else name


Listener = Callable[[Event], None]


@_event
class RunStarted(Event):
    """A run begins.

    workflow: the config. versions: of the libraries that decide results, on the workflow's host. hosts: the same of the
    other systems, by name. translated: what was made of old keys, and
    chosen where the config is silent. machine: what the workflow's host has.
    """

    kind = "run_started"
    workflow: Mapping[str, Any]
    versions: Mapping[str, str]
    hosts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    translated: Sequence[str] = ()


@_event
class RowsRead(Event):
    """Rows that lie elsewhere were looked at.

    step: "rows:" and the data config's name. data: that name. content: hash of the rows.
    """

    kind = "rows"
    step: str = ""
    data: str
    content: str
    n_rows: int


@_event
class OfStep(Event):
    """What every event of a step says.

    step: the user's name of it, or "fetch:MODEL", "prove", "score:STEP", "materialize:STEP", "rows:DATA".
    key: of its result. pass_name: the pass; None where the program does it. params: as the pass got them.
    parent: the step whose result is its input; None for the input model. parent_key: the key of that result.
    host: the system where it runs; None for this machine.
    """

    step: str
    key: str = ""
    pass_name: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    parent_key: str | None = None
    host: str | None = None


@_event
class StepStarted(OfStep):
    """A step begins to work; one whose result is in the cache does not. description: what it does, for a person."""

    kind = "step_started"
    description: str = ""


@_event
class StepDone(OfStep):
    """A step has its result.

    seconds, peak_memory_bytes, peak_device_memory_bytes: what it cost when it was made. facts: what its pass recorded.
    summary: a few words for a person.
    """

    kind = "step_done"
    derived = frozenset({"name", "cached"})
    is_cached: ClassVar[bool] = False
    seconds: float = 0.0
    peak_memory_bytes: int | None = None
    peak_device_memory_bytes: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    summary: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """The step in `Result.steps`."""
        cost = {"peak_memory_bytes": self.peak_memory_bytes, "peak_device_memory_bytes": self.peak_device_memory_bytes}
        known = {key: value for key, value in cost.items() if value is not None}
        return {"name": self.step, "cached": self.is_cached, "seconds": self.seconds, **known, "facts": self.facts}

    def to_json(self) -> dict[str, Any]:
        """As it stands in the journal: `name`, the earlier key of `step`, and `cached` follow from the rest."""
        return {**super().to_json(), "name": self.step, "cached": self.is_cached}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """The event of a line, of one without `step` too, as earlier versions wrote it."""
        return super().of(record if "step" in record or "name" not in record else {**record, "step": record["name"]})


@_event
class StepCached(StepDone):
    """The result of a step was in the cache; the cost is that of making it, then."""

    kind = "step_cached"
    is_cached = True


@_event
class StepFailed(OfStep):
    """A step gave no result. cause: one sentence. log: the file of what was printed."""

    kind = "step_failed"
    cause: str = ""
    log: str | None = None


@_event
class Submitted(Event):
    """A job goes to another system. step: what it is for. host: which system. title: by which it is known there."""

    kind = "submitted"
    step: str
    title: str
    host: str | None = None


@_event
class Progress(Event):
    """A step that is at work came further: `done` of `total`. metrics: short numbers such as loss=0.42."""

    kind = "progress"
    is_kept = False
    step: str
    done: float
    total: float
    metrics: Mapping[str, Any] = field(default_factory=dict)


@_event
class Noted(Event):
    """What goes on in a step that is at work, such as where it goes on from. step: which."""

    kind = "note"
    step: str
    message: str


@_event
class Warned(Event):
    """Something that the user should know, though the run goes on. step: what it is about."""

    kind = "warning"
    step: str
    message: str


@_event
class Scored(Event):
    """A model was measured.

    model: "base", or the step's name. step: the step that made it; None for the input model. key: of the scores.
    model_key: of the model. previous: the model that it is compared with. drop: label accuracy lost since that one.
    scores: the numbers of `olivine.evaluate`; in the journal they stand beside the other keys.
    """

    kind = "score"
    model: str
    step: str | None = None
    key: str = ""
    model_key: str | None = None
    previous: str | None = None
    format: str = ""
    size_bytes: int | None = None
    drop: float | None = None
    scores: Mapping[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, Any]:
        """The model in `Result.scores`."""
        lost = {"drop": self.drop} if self.drop is not None else {}
        return {"model": self.model, "format": self.format, "size_bytes": self.size_bytes, **self.scores, **lost}

    def to_json(self) -> dict[str, Any]:
        """As it stands in the journal, the scores beside the rest; without `drop` where there is none."""
        record = super().to_json()
        scores = record.pop("scores")
        return {**scores, **{key: value for key, value in record.items() if key != "drop" or value is not None}}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """The event of a line: every key that is no field is a score."""
        event = super().of(record)
        return replace(event, scores={**event.scores, **event.more}, more={})


@_event
class Sampled(Event):
    """What all models of a run answered to some of the rows, beside each other; those that came out wrong stand first.

    rows: of each "prompt", "expected", and "answers" by the model's name: "text", and "right": whether it is what was
    expected, None where nothing is.
    """

    kind = "samples"
    rows: Sequence[Mapping[str, Any]] = ()


@_event
class Delivered(Event):
    """The result lies in the output folder.

    model: its folder there. base: the input model: its name on the hub, or that of its file or folder. licence: of the
    base, as its own files say; None where they do not. tensors: what the files of the result hold, see
    `olivine.models.contents.contents`.
    """

    kind = "delivered"
    model: str
    base: str | None = None
    licence: str | None = None
    tensors: Sequence[Mapping[str, Any]] = ()


@_event
class SearchStarted(Event):
    """A search begins.

    space: the values of each dimension by its name. sampler: which one, and settings: its own. objectives: what is made
    better, in the order of priority: "name", "higher_is_better", "goal": its type and value, or None. n_trials: at
    most; None where only time ends it.
    """

    kind = "search_started"
    space: Mapping[str, Sequence[Any]]
    sampler: str
    settings: Mapping[str, Any]
    objectives: Sequence[Mapping[str, Any]]
    n_trials: int | None = None


@_event
class TrialStarted(Event):
    """A trial begins.

    trial: its number, from 1. point: the value of each dimension. n_trials: see SearchStarted. name: of the point,
    where the config lists points by names.
    """

    kind = "trial_started"
    trial: int
    point: Mapping[str, Any]
    n_trials: int | None = None
    name: str = ""


@_event
class TrialDone(Event):
    """A trial has ended, in whatever way.

    outcome: "measured"; "cut" when it missed a goal on its size, and was not scored; "failed", with the cause.
    key: of the model that it makes, by which a search that goes on knows it. values: of the objectives. missed: the
    goals that it misses, as sentences. steps: where its model comes from: "step", "key", "cached". seconds: what it
    took. log: the file of what a failed step printed. name: as in TrialStarted.
    """

    kind = "trial_done"
    trial: int
    point: Mapping[str, Any]
    outcome: str
    key: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    missed: Sequence[str] = ()
    steps: Sequence[Mapping[str, Any]] = ()
    seconds: float = 0.0
    cause: str = ""
    log: str | None = None
    name: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """The trial in `Result.search`."""
        names = ("trial", "name", "point", "outcome", "values", "missed", "seconds", "cause")
        told = {name: getattr(self, name) for name in names if getattr(self, name) not in ("", None)}
        return told | {"missed": list(self.missed)}


@_event
class SearchDone(Event):
    """A search has ended.

    chosen: number of the trial that is delivered; None where none gave a model. front: trials that no other dominates.
    near_misses: when no trial meets the goals, all that were measured, the nearest first: "trial", "shortfall": how far
    the goals are missed, as shares of their bounds together, and "missed": the sentences. n_refused: points that cannot
    run, which cost nothing.
    """

    kind = "search_done"
    chosen: int | None
    front: Sequence[int] = ()
    near_misses: Sequence[Mapping[str, Any]] = ()
    n_trials: int = 0
    n_failed: int = 0
    n_refused: int = 0


@_event
class Timed(Event):
    """A model was timed beside the input model, in turns.

    model: the step's name. key: of the times. numbers: of "base" and of the model, by their names. n_requests: of each.
    spread: half of the 95 % interval of a median, as a share of it, of the model where it is wider. load: of the
    machine's cores by others, before. together: both were open at once.
    """

    kind = "timing"
    model: str
    key: str = ""
    numbers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    n_requests: int = 0
    spread: float | None = None
    load: float = 0.0
    together: bool = True


@_event
class RunDone(Event):
    """The run has ended as promised, or with goals that were missed; the fields are those of `Result`."""

    kind = "run_done"
    status: str
    model: str | None = None
    output_dir: str = ""
    scores: Sequence[Mapping[str, Any]] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    steps: Sequence[Mapping[str, Any]] = ()
    trained_on: bool = False
    missed: Sequence[str] = ()
    search: Mapping[str, Any] | None = None
    measured: Sequence[Mapping[str, Any]] = ()


@_event
class RunFailed(Event):
    """The run has ended without a result. error: one sentence."""

    kind = "run_failed"
    error: str


@_event
class RunInterrupted(Event):
    """Ctrl-C or a signal has ended the run. where: in which step."""

    kind = "run_interrupted"
    where: str


@_event
class Other(Event):
    """An event that this version does not know, or that lacks a field: kept as it is."""

    record: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The line as it was read."""
        return dict(self.record)


KINDS: Mapping[str, type[Event]] = {
    kind.kind: kind
    for kind in (
        RunStarted,
        RowsRead,
        StepStarted,
        StepDone,
        StepCached,
        StepFailed,
        Submitted,
        Progress,
        Noted,
        Warned,
        Scored,
        Timed,
        Sampled,
        Delivered,
        SearchStarted,
        TrialStarted,
        TrialDone,
        SearchDone,
        RunDone,
        RunFailed,
        RunInterrupted,
    )
}


def event_of(record: Mapping[str, Any]) -> Event:
    """The typed event of a line of the journal; `Other` where its kind is not known, or a field is missing."""
    kind = KINDS.get(str(record.get("event")))
    frame = {"run": str(record.get("run", "")), "time": record.get("time", 0.0)}
    if kind is None:
        return Other(record=record, **frame)
    try:
        return kind.of(record)
    except TypeError:
        return Other(record=record, **frame)

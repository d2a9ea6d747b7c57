"""What a plan consists of: steps in order, the scores between them, problems, and what all of it will need."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from olivine import search
from olivine.config import Loaded
from olivine.config.schema import DataConfig, Quality
from olivine.errors import Problem
from olivine.models import Format, Model
from olivine.models.facts import ModelFacts
from olivine.passes import CalibrationRows, TrainingRows
from olivine.systems import Installed, Probe, System
from olivine.user_scripts import SECONDS, UserScript
from olivine.work import Estimate, Machine
from olivine.workflow.resources import Remote

if TYPE_CHECKING:
    from olivine.search import Goal, Objective
    from olivine.workflow.choices import Search


@dataclass(frozen=True)
class Host:
    """A system where something runs, and what it has.

    name: in the config; None for this machine. is_known: the system was asked; else it is still to be made, and `probe`
    is that of this machine.
    """

    name: str | None
    system: System
    probe: Probe
    is_known: bool = True

    def __str__(self) -> str:
        return "this machine" if self.name is None else f"the system '{self.name}'"


@dataclass(frozen=True)
class Step:
    """One pass to run.

    name: the user's name of it (or the pass's for a step that the plan inserted, `implicit`). params: as the pass's
    Params dump them (defaults included). parent: name of the step whose result is the input; None for the input model.
    data: the data configs that the params name. models: the earlier steps whose results they name ("input" is the input
    model). files: other user files that decide the result. trains_on, calibrates_on: the rows that it trains or
    calibrates on, if it does. host: the name of the system where it runs; None for this machine. versions: of the
    distributions there.
    """

    name: str
    pass_name: str
    params: Mapping[str, Any]
    parent: str | None
    machine: Machine
    data: Mapping[str, DataConfig] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    trains_on: TrainingRows | None = None
    calibrates_on: CalibrationRows | None = None
    implicit: bool = False
    estimate: Estimate = field(default_factory=Estimate)
    produces: str = "hf"
    host: str | None = None
    versions: Mapping[str, str] = field(default_factory=Installed, repr=False, compare=False)

    @property
    def trains(self) -> bool:
        """Whether the step is meant to change what the model says."""
        return self.trains_on is not None


GPU_PEAK = "peak_gpu_bytes"  # the number that needs a GPU
TASKS = "lm_eval"  # the metric whose numbers come of tasks


@dataclass(frozen=True)
class Script:
    """A user's own metric: a function of a file.

    name: of the metric. folder: whose modules it may import. on_outputs: it gets what a model gave and should have
    given, in place of the model. numbers: that it must give. max_seconds: that it may take. of_2023: data_dir and
    batch_size of a user_config, which functions had beside their kwargs.
    """

    name: str
    path: Path
    folder: Path | None
    function: str
    on_outputs: bool
    kwargs: Mapping[str, Any]
    numbers: tuple[str, ...]
    max_seconds: float = SECONDS
    of_2023: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """The files whose bytes decide its numbers: modules of its folder, and of the packages in it."""
        return UserScript(self.path, self.folder).files

    def to_json(self) -> dict[str, Any]:
        """As `olivine.evaluate` takes it."""
        return {
            "name": self.name,
            "user_script": str(self.path),
            "script_dir": str(self.folder) if self.folder is not None else None,
            "function": self.function,
            "on_outputs": self.on_outputs,
            "kwargs": dict(self.kwargs),
            "numbers": list(self.numbers),
            "max_seconds": self.max_seconds,
            "of_2023": dict(self.of_2023),
        }


@dataclass(frozen=True)
class ScoreRows:
    """The rows on which every seam is scored.

    part: "eval" the split-off share, "all" the whole data set, "train" rows that were trained on (the table says so).
    on_text: the rows are passages of plain text, which ask for nothing: models are only compared on them.
    on_outputs: models are measured by their outputs, not by the text that they write. sizes: of made-up rows, by name:
    those that a later step fixes.
    data: None where rows of the inputs of a graph are made up, by `seed`: they too only compare.
    metrics: params by name, see quality.metrics. scripts: users' own metrics. n_few: so many of the rows, drawn at
    random, in place of all. task_folder, task_files: of the user's own tasks of lm-eval, and all that they are made of.
    host, versions: where it is measured, as of a Step; machine: what is there, None for the plan's.
    """

    data: DataConfig | None
    part: Literal["eval", "all", "train"]
    eval_size: float | int | None
    seed: int
    target: str
    max_rows: int
    on_text: bool = False
    on_outputs: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scripts: tuple[Script, ...] = ()
    n_few: int | None = None
    task_folder: Path | None = None
    task_files: tuple[Path, ...] = ()
    host: str | None = None
    machine: Machine | None = None
    versions: Mapping[str, str] = field(default_factory=Installed, repr=False, compare=False)


@dataclass(frozen=True)
class Asked:
    """One number that the evaluator of a config asks for.

    name: what tables call it. number: its key in the scores; empty for all that the tasks of its metric give. unit,
    compares: as of `olivine.evaluate.Number`. priority: 1 matters most; None where it is not to decide. metric, params:
    what computes it. always: every score has it. timed: it comes of timing the model. on_rows: it takes the scored
    rows. needs_labels: with an expected answer each. script: of the user, that gives it. path: its place in the config.
    """

    name: str
    number: str
    higher_is_better: bool
    unit: str = ""
    compares: bool = False
    priority: int | None = None
    goal: "Goal | None" = None
    metric: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    always: bool = False
    timed: bool = False
    on_rows: bool = True
    needs_labels: bool = False
    script: Script | None = None
    path: tuple[str | int, ...] = ()

    @property
    def setting(self) -> str:
        """What asks for it, for a sentence."""
        return f"evaluator '{self.path[1]}'" if len(self.path) > 1 else "the evaluator"

    def objective(self, baseline: Mapping[str, float]) -> "Objective":
        """What a search makes better. baseline: the scores of the input model; what counts from none is no goal."""
        before, goal = baseline.get(self.number), self.goal
        if goal is not None and goal.is_relative and before is None:
            goal = None
        return search.Objective(self.number, self.higher_is_better, self.priority or 1, goal, before)


def timing_params(asked: Iterable[Asked]) -> dict[str, Any] | None:
    """What is to be timed and how, as `olivine.evaluate.time_models` takes it; None where nothing is."""
    timed = [one for one in asked if one.timed]
    if not timed:
        return None
    settings = {key: value for one in timed for key, value in one.params.items() if key != "batch_size"}
    return {
        "settings": settings,
        "batch_sizes": batch_sizes(timed),
        "metrics": {name: {} for name in sorted({one.metric for one in timed})},
        "watches_gpu": any(one.number.startswith(GPU_PEAK) for one in timed),
    }


def batch_sizes(timed: Collection[Asked]) -> list[int]:
    """Sizes of the batches that are timed: the one that is named anywhere, or all of those, and 1 where none is."""
    named = {int(one.params["batch_size"]) for one in timed if "batch_size" in one.params}
    if len(named) > 1 and any("batch_size" not in one.params for one in timed):
        named.add(1)
    return sorted(named) or [1]


@dataclass(frozen=True)
class Plan:
    """What would run. Nothing was touched to make it.

    input_model: its record when it is local; hub_name: what to fetch when it is not.
    cached: steps whose result is in the cache now ("name" of a pass, "score:name" of a score).
    model_config: config.json of the input model, on the hub or here; empty where it is not known.
    source: the config that it was made from, to plan once more when a model has come from the hub.
    translated: what a dialect made of old keys, and what the plan chose where the config is silent; one sentence each.
    machine, versions: of the workflow's host. hosts: the systems where something runs, by name.
    search: what is searched; the plan is then that of the first trial, and its problems are those of all.
    asked: the numbers that the config's evaluator asks for. facts, form: of the input model and its files; None where
    the model is not here and nothing is known of it.
    remotes: what the config names elsewhere, whether it has come or not. scoring_bytes: memory that the scores take
    which are not in the cache.
    """

    steps: tuple[Step, ...]
    problems: tuple[Problem, ...]
    translated: tuple[str, ...]
    estimate: Estimate
    input_model: Model | None
    hub_name: str | None
    hub_revision: str | None
    score: ScoreRows | None
    quality: Quality
    cache_dir: Path
    output_dir: Path
    machine: Machine
    workflow: Mapping[str, Any]
    n_parameters: int = 0
    cached: frozenset[str] = frozenset()
    model_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    source: Loaded | None = field(default=None, repr=False, compare=False)
    versions: Mapping[str, str] = field(default_factory=Installed, repr=False, compare=False)
    hosts: Mapping[str | None, Host] = field(default_factory=dict, repr=False, compare=False)
    search: "Search | None" = field(default=None, repr=False, compare=False)
    asked: tuple[Asked, ...] = ()
    remotes: tuple[Remote, ...] = field(default=(), repr=False, compare=False)
    facts: ModelFacts | None = field(default=None, repr=False, compare=False)
    form: Format | None = None
    scoring_bytes: int = 0

    @property
    def scores_held_out(self) -> bool:
        """Whether something is trained, and the scored rows are kept apart from what it is trained on."""
        trained = [step.trains_on for step in self.steps if step.trains_on is not None]
        if not trained or self.score is None or self.score.data is None:
            return False
        return self.score.part == "eval" or self.score.data.name not in {rows.data for rows in trained}

    @property
    def awaits(self) -> tuple[Remote, ...]:
        """What has yet to come."""
        return tuple(remote for remote in self.remotes if not remote.is_here)

    @property
    def model_address(self) -> str | None:
        """Where the input model is that has yet to come; None where it is here, or cannot be used."""
        return self.hub_name or next((remote.address for remote in self.awaits if remote.is_model), None)

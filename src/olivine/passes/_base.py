"""The contract of a pass: typed params, what it takes and gives, `requires -> run -> ensures`.

One pass is one file; its name is the file's, its help the first line of the class docstring. A pass module imports no
heavy library at its top (see olivine.lazy): `plan` reads it in the parent process, `run` works in the worker.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import ConfigDict

from olivine.config.schema import DataConfig, Typed
from olivine.errors import Problem, Unsupported
from olivine.models import Model
from olivine.models.facts import Kind, ModelFacts
from olivine.user_scripts import UserScript
from olivine.work import Context, Estimate, Machine

ANY_KIND: frozenset[Kind] = frozenset(get_args(Kind))
UNCHANGED = "unchanged"  # what a pass that only looks at a model produces


class PassParams(Typed):
    """Params of a pass: the config's check, the flags, the JSON schema and the docs all derive from this class."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @classmethod
    def belongs_in(cls, key: str) -> str | None:  # noqa: ARG003
        """Where a key that is no param was probably meant to stand, e.g. "training_args.seed"; None when nowhere."""
        return None

    @classmethod
    def n_wrong_inside(cls, params: Mapping[str, Any]) -> int:  # noqa: ARG003
        """How many values in the open mappings of params are none that they take; so a search knows lists of values."""
        return 0


@dataclass(frozen=True)
class TrainingRows:
    """The rows that a pass trains on, and those that it keeps apart to evaluate on.

    data: name of the data config. eval_data: name of another one, all of whose rows are evaluated on.
    eval_size: without such, how many rows of `data` are kept apart: below 1 a share, else a count, None none.
    seed: of that choice. base_is_rounded: it trains on a base that it rounds first, as QLoRA does.
    """

    data: str
    eval_data: str | None = None
    eval_size: float | None = None
    seed: int = 42
    base_is_rounded: bool = False

    def to_calibrate(self, data_key: str) -> dict[str, Any]:
        """Params of a pass that calibrates with these rows, without those that are kept apart.

        data_key: its param that names the data.
        """
        return {
            data_key: self.data,
            "calibration_held_out": self.eval_size,
            "calibration_may_be_short": True,
            "calibration_seed": self.seed,
        }


@dataclass(frozen=True)
class CalibrationRows:
    """The rows that a pass draws tokens of, to calibrate with.

    data: name of the data config, and param the key that names it. held_out: how many rows are left out, as eval_size
    of TrainingRows; seed: of that choice. may_be_short: with too few tokens, it calibrates with others.
    """

    data: str
    param: str
    held_out: float | None = None
    seed: int = 0
    may_be_short: bool = False


class Pass(ABC):
    """What is done to a model.

    A subclass says as class variables, once, everything that `plan` and the docs need:
    Params: the typed params. accepts: the formats of the input model. produces: the format of the result, or UNCHANGED
    for a pass that looks at its input model and gives it back: the step after it goes on from there.
    kinds: of models that it works on; where it is not said, decoders alone. ANY_KIND: all of them.
    aliases: names of the pass in configs of Olive. example: params as a config writes them, for editor and docs; its
    data config is called rows. version: raised when the same
    params give another result by anything but the code, which keys hold by itself.
    libraries: distributions whose versions decide the result (they are part of the cache key).
    modules: importable modules that `run` needs, each with the extra that brings it.
    works_with: modules that take long to import and that `run` needs whatever the params are; a worker begins with them
      while its parent still prepares the first job.
    spreads: whether it uses all devices of `Machine` on all of its nodes, or one of them.
    spellings: other names of params, each with the field that it is; a problem is then put at the name that is written.
    reads_inputs: whether the rows that its params name are inputs of the model, rather than text to write.
    of_parts: what it does with a model of several parts: it works on "each" as if that were the model, on the "whole",
      or on neither.
    names_in_parts: whether its params name things that each part of a model may lack, if one has them.
    needs_apart: what an earlier step makes and no pass before it may put into another model: the adapter that it takes
      out of a graph.
    when_too_large: what to do when the step needs more memory than there is.
    is_usual_way: whether it is the pass that one takes to come from the format that it accepts to that which it gives.
    not_accepted: why a model of another format has no place before the pass, and what to do, by format; {name} is the
      step that made it. Formats that are not named are told by what the pass accepts.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[Mapping[str, Any]] = {}
    version: ClassVar[int] = 1
    Params: ClassVar[type[PassParams]] = PassParams
    accepts: ClassVar[frozenset[str]]
    produces: ClassVar[str]
    kinds: ClassVar[frozenset[Kind]] = frozenset({"decoder"})
    libraries: ClassVar[tuple[str, ...]] = ()
    modules: ClassVar[Mapping[str, str]] = {}
    works_with: ClassVar[tuple[str, ...]] = ()
    spreads: ClassVar[bool] = False
    spellings: ClassVar[Mapping[str, str]] = {}
    reads_inputs: ClassVar[bool] = False
    of_parts: ClassVar[Literal["each", "whole", "neither"]] = "neither"
    names_in_parts: ClassVar[bool] = False
    needs_apart: ClassVar[str | None] = None
    when_too_large: ClassVar[str] = "Use a larger machine."
    is_usual_way: ClassVar[bool] = False
    not_accepted: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def __init__(self, params: PassParams) -> None:
        self.params = params

    @classmethod
    def inherited(cls, earlier: Sequence["Pass"]) -> Mapping[str, Any]:  # noqa: ARG003
        """Params that the config leaves out and the passes of earlier steps decide; what the config says wins."""
        return {}

    @classmethod
    def gives(cls, form: str | None) -> str:  # noqa: ARG003
        """The format of the result for an input model of that format, where it follows from it; else `produces`."""
        return cls.produces

    def script(self) -> tuple[UserScript, Mapping[str, str]] | None:
        """The script of a user that the params name, and the functions of it by the param that names each."""
        return None

    def trains_on(self) -> TrainingRows | None:
        """The rows that it trains on; None for a pass that does not train, and so keeps what the model says."""
        return None

    def keeps_in_8_bits(self) -> Mapping[str, Any] | None:
        """Which weights the quantizing passes after it keep in 8 bits: "algorithm", "ratio" and what the others get.

        None for a pass that has no say in that.
        """
        return None

    def splits_at(self) -> Mapping[str, Any] | None:
        """Where a later SplitModel splits the graph that is made of the model; None for a pass without a say in it."""
        return None

    def calibrates_on(self) -> CalibrationRows | None:
        """The rows that it calibrates on; None for a pass that reads none."""
        return None

    def data_names(self) -> list[str]:
        """Names of the data configs that the params refer to."""
        return []

    def said(self) -> dict[str, Any]:
        """The params with every default, as the key of the result and `workflow.json` say them."""
        return self.params.model_dump(mode="json")

    def model_names(self) -> list[str]:
        """Names of earlier steps whose results the params refer to."""
        return []

    def files(self) -> list[Path]:
        """User files beside the data (scripts, templates) whose bytes decide the result."""
        return []

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """Everything that can be known to fail before the step runs; called by `plan`, imports nothing heavy.

        A problem's `key` is the param that it is about; its `where` is the pass's name, until the plan puts file and
        line there.
        """
        yield from ()

    def notes(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[str]:  # noqa: ARG002
        """What the user should know of a step that can run, a sentence each; called by `plan`."""
        yield from ()

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """What the step will need, from the model's facts alone."""
        return Estimate()

    def forecast(self, facts: ModelFacts) -> ModelFacts:
        """The facts of the result, as far as later steps of a plan need them."""
        return facts

    def requires(self, model: Model) -> None:
        """Raise Unsupported unless the pass can work on the model."""
        if model.form not in self.accepts:
            formats = " or ".join(sorted(self.accepts))
            raise Unsupported(f"pass '{self.name}' takes a model of format {formats}, but got {model.form}")

    def claim(self) -> Mapping[str, Any] | None:
        """What decides whether the result is right whatever the weights, as JSON values; None: there is no `prove`."""
        return None

    def prove(self, model: Model, context: Context) -> Mapping[str, Any]:
        """Prove `claim` on a small random model of the config of `model`, in seconds and before any work is done.

        Gives facts: {"lengths": of the texts that were compared, "largest_difference": of their logits, "unproven":
        what was left out, one sentence each}. Raises OlivineError that names the difference. Files go to
        `context.scratch`.
        """
        raise NotImplementedError

    @abstractmethod
    def run(self, model: Model, context: Context) -> Model:
        """Do it: fill `context.output` and return the record of the result."""

    def ensures(self, model: Model) -> None:  # noqa: B027 - optional: a pass without a promise has nothing to check
        """Check the result in its final form; raise when it is not what was promised."""


def last_training(earlier: Sequence[Pass]) -> TrainingRows | None:
    """What the last of the passes that train has trained on."""
    return next((rows for one in reversed(earlier) if (rows := one.trains_on()) is not None), None)


def last_selection(earlier: Sequence[Pass]) -> Mapping[str, Any] | None:
    """What the last of the passes that pick weights for 8 bits has picked."""
    return next((picked for one in reversed(earlier) if (picked := one.keeps_in_8_bits()) is not None), None)


def first_line(plugin: type) -> str:
    """The help of a plugin: the first line of its docstring."""
    return (plugin.__doc__ or "").strip().partition("\n")[0]

"""What the functions of the API give: dataclasses that a notebook draws and pandas takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.api import _html
from olivine.evaluate.parity import Side
from olivine.workflow import engine, steps
from olivine.workflow.columns import score_table, table_notes
from olivine.workflow.units import readable_bytes
from olivine.workflow.words import lines

if TYPE_CHECKING:
    import pandas as pd

_SIDE = ("size_bytes", "bits_per_weight", "load_seconds", "peak_memory_bytes", "decode_tokens_per_second")


def _frame(rows: Sequence[Mapping[str, Any]], index: str) -> "pd.DataFrame":
    frame: pd.DataFrame = lazy.require("pandas", "notebook").DataFrame(list(rows))
    return frame.set_index(index) if index in frame else frame


@dataclass(frozen=True)
class Plan(steps.Plan):
    """What would run, what it needs, and in `problems` all that keeps it from running; made by `olivine.plan`."""

    @classmethod
    def of(cls, plan: steps.Plan) -> "Plan":
        """The same plan, to be shown."""
        return cls(**{one.name: getattr(plan, one.name) for one in fields(plan)})

    def to_pandas(self) -> "pd.DataFrame":
        """The steps, a row each, with what they are estimated to need."""
        rows = [
            {"step": step.name, "pass": step.pass_name, "cached": step.name in self.cached, **vars(step.estimate)}
            for step in self.steps
        ]
        return _frame(rows, "step")

    def __str__(self) -> str:
        return "\n".join([*lines(self), *map(str, self.problems)])

    __repr__ = __str__  # as that of a result, below

    def _repr_html_(self) -> str:
        rows = [
            (
                step.name,
                step.pass_name,
                "yes" if step.name in self.cached else "",
                readable_bytes(step.estimate.memory_bytes) if step.estimate.memory_bytes else "",
            )
            for step in self.steps
        ]
        problems = _html.table(("where", "problem"), [(one.where, f"{one.message} {one.fix}") for one in self.problems])
        head = _html.table(("step", "pass", "cached", "memory"), rows, "the plan")
        return head + (problems if self.problems else "")


@dataclass(frozen=True)
class Result(engine.Result):
    """What a run gave; see `olivine.workflow.engine.Result` for what is in it. Made by `olivine.run`."""

    @classmethod
    def of(cls, result: engine.Result) -> "Result":
        """The same result, to be shown."""
        return cls(**{one.name: getattr(result, one.name) for one in fields(result)})

    def to_pandas(self) -> "pd.DataFrame":
        """The scores, a row for each model on the way."""
        return _frame(self.scores, "model")

    def __str__(self) -> str:
        told = [*score_table(self.scores), *table_notes(self.scores)] if self.scores else []
        told += [f"goal missed: {sentence}" for sentence in self.missed]
        return "\n".join([*told, *([f"model: {self.model}"] if self.model is not None else [])])

    __repr__ = __str__  # what there is fills pages: every loss of a training stands in `steps`

    def _repr_html_(self) -> str:
        head = [*(f"goal missed: {sentence}" for sentence in self.missed)]
        head += [f"model: {self.model}"] if self.model is not None else []
        number = f" on the same {self.scores[0]['n_rows']} rows" if self.scores else ""
        return _html.paragraphs(head) + (_html.score_table(self.scores, f"every model{number}") if self.scores else "")


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model, as `olivine.evaluate` gives them.

    scores: numbers by name. samples: what the model answered. measured: what the config's evaluator asks for, see
    `olivine.workflow.verdict.table_of`.
    """

    model: Path
    scores: Mapping[str, Any]
    samples: Sequence[Mapping[str, str]] = ()
    measured: Sequence[Mapping[str, Any]] = field(default_factory=list)

    @property
    def degenerate(self) -> str | None:
        """What is broken about the model's output; None where nothing is."""
        return self.scores.get("degenerate")

    @property
    def missed(self) -> tuple[str, ...]:
        """Names of the numbers that miss their threshold."""
        return tuple(row["name"] for row in self.measured if row["is_met"] is False)

    def to_pandas(self) -> "pd.DataFrame":
        """The scores as one row."""
        return _frame([{"model": self.model.name, **self.scores}], "model")

    def __str__(self) -> str:
        row = {"model": self.model.name, **self.scores}
        broken = [f"its output is degenerate: {self.degenerate}"] if self.degenerate else []
        missed = [f"{name} misses its goal" for name in self.missed]
        return "\n".join([*score_table([row]), *table_notes([row]), *broken, *missed])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        told = [f"its output is degenerate: {self.degenerate}"] if self.degenerate else []
        told += [f"{name} misses its goal" for name in self.missed]
        row = {"model": self.model.name, **self.scores}
        return _html.paragraphs(told) + _html.score_table([row], f"on {self.scores['n_rows']} rows")


@dataclass(frozen=True)
class Comparison:
    """How far a candidate is from its reference, as `olivine.parity` gives it.

    verdict: excellent, good, usable, poor or degenerate. kl: mean divergence in nats; None where a model gives NaN.
    top1_agreement: share of positions with the same best token. missed: limits that do not hold, as sentences. record:
    everything that was measured, as `olivine parity --json` prints it.
    """

    verdict: str
    kl: float | None
    top1_agreement: float | None
    reference: Side
    candidate: Side
    missed: tuple[str, ...]
    record: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Comparison":
        """A comparison from its record."""
        return cls(
            verdict=record["verdict"],
            kl=record["kl"],
            top1_agreement=record["top1_agreement"],
            reference=Side(**record["reference"]),
            candidate=Side(**record["candidate"]),
            missed=tuple(record["missed"]),
            record=record,
        )

    def to_pandas(self) -> "pd.DataFrame":
        """What each of the two costs, a row each."""
        sides = {"reference": self.reference, "candidate": self.candidate}
        return _frame([{"model": name, **vars(side)} for name, side in sides.items()], "model")

    def __str__(self) -> str:
        sides = {"reference": self.reference, "candidate": self.candidate}
        return "\n".join([self._head, *self.missed, *(f"{name}: {_cost(side)}" for name, side in sides.items())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [(key.replace("_", " "), *(_number(getattr(side, key)) for side in self._sides)) for key in _SIDE]
        return _html.paragraphs([self._head, *self.missed]) + _html.table(("", "reference", "candidate"), rows)

    @property
    def _head(self) -> str:
        share = f", same top token {self.top1_agreement:.1%}" if self.top1_agreement is not None else ""
        kl = f"KL {self.kl:.4f}" if self.kl is not None else "KL is not a number"
        return f"{self.verdict}: {kl}{share}"

    @property
    def _sides(self) -> tuple[Side, Side]:
        return self.reference, self.candidate


def _cost(side: Side) -> str:
    """What a side costs, as far as it was measured."""
    numbers = {
        "bits a weight": side.bits_per_weight,
        "s to load": side.load_seconds,
        "tokens/s": side.decode_tokens_per_second,
    }
    told = [f"{_number(value)} {unit}" for unit, value in numbers.items() if value is not None]
    sizes = {"on disk": side.size_bytes, "of memory": side.peak_memory_bytes}
    told += [f"{readable_bytes(value)} {where}" for where, value in sizes.items() if value is not None]
    return ", ".join(told)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"

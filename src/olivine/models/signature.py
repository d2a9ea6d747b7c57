"""What goes into a model and what comes out: names, shapes and types, of any model, as a record without frameworks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

Size = int | str | None
"""Of one dimension: fixed, called by a name (the same name is the same size everywhere), or not told."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    dtype: numpy's name of it; "string", or "sequence", "map", "optional" for what is no tensor. shape: None where not
    even the number of dimensions is told. n_choices: of an input that picks rows of a table (token ids), how many there
    are; None where that is not known.
    """

    name: str
    dtype: str
    shape: tuple[Size, ...] | None
    n_choices: int | None = None

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape or ())
        return f"{self.name} {self.dtype}" + ("" if self.shape is None else f" [{sizes}]")


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs in the model's own order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def in_words(self) -> str:
        """E.g. "input_ids int64 [batch, sequence] -> logits float32 [batch, 3]"."""
        return f"{_listed(self.inputs)} -> {_listed(self.outputs)}"

    def to_json(self) -> dict[str, Any]:
        """JSON values only; the inverse of `from_json`."""
        return {"inputs": [asdict(one) for one in self.inputs], "outputs": [asdict(one) for one in self.outputs]}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The signature that `to_json` described."""
        return cls(_specs(record["inputs"]), _specs(record["outputs"]))


def is_derived(name: str) -> bool:
    """Whether an input follows from the token ids (input_ids) where a row does not give it."""
    return name in ("attention_mask", "token_type_ids", "position_ids")


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(str(spec) for spec in specs) or "nothing"


def _specs(records: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            record["name"],
            record["dtype"],
            None if record["shape"] is None else tuple(record["shape"]),
            record.get("n_choices"),
        )
        for record in records
    )

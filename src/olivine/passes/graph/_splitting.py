"""Where a graph is split: the params that say so, and the part of each module that they come to on a graph."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ByteSize, Field, field_validator, model_validator

from olivine.errors import ModelError, Problem, RequestError
from olivine.passes._base import Pass, PassParams
from olivine.paths import is_file

if TYPE_CHECKING:
    import onnx_ir as ir

    from olivine.exporting.split_graph import Scope

COLUMNS = ("module", "num_params", "num_bytes", "num_flops")


class SplitPoints(PassParams):
    """Names are those of Olive's CaptureSplitInfo."""

    num_splits: int | None = Field(None, ge=1, description="parts that the layers are divided into, as equal as can be")
    block_to_split: list[str] | None = Field(
        None, description="modules whose children are divided; else the layers, as the graph's names number them"
    )
    cost_model: Path | None = Field(
        None,
        description="a CSV file with the columns module, num_params, num_bytes and num_flops: a part ends before it is "
        "larger than memory, and where the one kind follows the other: more weights than operations, or fewer",
    )
    memory: ByteSize | None = Field(
        None, description="with cost_model: bytes that a part may have, or 8GB; else the memory of the accelerator"
    )
    unique_embeds_lm_head_splits: bool = Field(
        False, description="the embedding and the last product, which is the head of a decoder, are parts by themselves"
    )

    @field_validator("block_to_split", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.num_splits is not None and self.cost_model is not None:
            raise ValueError("num_splits and cost_model exclude each other")
        if self.cost_model is not None and self.memory is None:
            raise ValueError("cost_model needs memory, which says how large a part may be")
        return self

    @property
    def are_told(self) -> bool:
        """Whether it is said how many parts there are."""
        return self.num_splits is not None or self.cost_model is not None

    def files(self) -> list[Path]:
        """The file of costs, where there is one."""
        return [self.cost_model] if self.cost_model is not None else []

    def problems(self, name: str) -> Iterator[Problem]:
        """What is wrong with the file of costs, for the pass of that name."""
        if self.cost_model is None:
            return
        try:
            costs(self.cost_model)
        except RequestError as error:
            yield Problem("invalid-value", name, f"{error}.", key=("cost_model",))

    def assignments(self, model: "ir.Model") -> "dict[Scope, int]":
        """The part of each module of a graph. ModelError where the names of the graph do not tell its modules."""
        from olivine.exporting import split_graph

        names = split_graph.scopes(model)
        parts: dict[Scope, int] = {}
        apart = self.unique_embeds_lm_head_splits
        if apart:
            parts |= dict.fromkeys(split_graph.embeddings(model, names), 0)
            if not parts:
                raise ModelError("unique_embeds_lm_head_splits is set, but the graph picks no rows of a stored table")
        first = int(apart)
        inner = self._by_cost(self.cost_model, first) if self.cost_model else self._by_number([*names.values()], first)
        parts = inner | parts
        if apart:
            parts |= dict.fromkeys(split_graph.head(model, names), max(inner.values()) + 1)
        return parts

    def _by_number(self, names: "Sequence[Scope]", first: int) -> "dict[Scope, int]":
        """Members of the blocks, in as many runs of about the same length; the longer ones come first."""
        from olivine.exporting import split_graph

        if self.block_to_split is None:
            members = split_graph.layers(names)
            if not members:
                raise ModelError(
                    "the names of the graph's nodes number no layers: name modules as block_to_split, or nodes under "
                    "split_assignments"
                )
        else:
            members = [one for block in self.block_to_split for one in self._members(names, block)]
        n_parts = self.num_splits or 1
        whole, more = divmod(len(members), n_parts)
        lengths = [whole + (part < more) for part in range(n_parts)]
        numbers = [part for part, length in enumerate(lengths) for _ in range(length)]
        return {member: first + part for member, part in zip(members, numbers, strict=True)}

    @staticmethod
    def _members(names: "Sequence[Scope]", block: str) -> "list[Scope]":
        from olivine.exporting import split_graph

        members = split_graph.children(names, tuple(part for part in block.split(".") if part))
        if not members:
            raise ModelError(f"no node of the graph is of the module '{block}', which block_to_split names")
        return members

    def _by_cost(self, path: Path, first: int) -> "dict[Scope, int]":
        """Modules in the order of the file, a part as long as all of them fit, and are of one kind."""
        parts: dict[Scope, int] = {}
        part, n_bytes, is_heavy = first, 0, False
        for scope, (n_params, size, n_operations) in costs(path).items():
            heavy = n_params > n_operations > 0
            if parts and (heavy != is_heavy or n_bytes + size > int(self.memory or 0)):
                part, n_bytes = part + 1, 0
            parts[scope] = part
            n_bytes, is_heavy = n_bytes + size, heavy
        return parts


def costs(path: Path) -> "dict[Scope, tuple[int, int, int]]":
    """Weights, bytes and operations of each module, in the order of a CSV file; RequestError where it is none."""
    if not is_file(path):
        raise RequestError(f"there is no file '{path}'")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        lacking = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
        if lacking:
            raise RequestError(f"'{path}' has no column '{lacking[0]}'; its first line names {', '.join(COLUMNS)}")
        told: dict[Scope, tuple[int, int, int]] = {}
        for row in rows:
            try:
                numbers = (int(row["num_params"]), int(row["num_bytes"]), int(row["num_flops"]))
            except (TypeError, ValueError):
                raise RequestError(f"'{path}' has no whole numbers in line {rows.line_num}") from None
            module = tuple(part for part in str(row["module"]).split(".") if part)
            if not module[-1:] or not module[-1].lower().endswith("dropout"):
                told[module] = numbers
    if not told:
        raise RequestError(f"'{path}' names no module")
    return told


def last_split(earlier: Sequence[Pass]) -> Mapping[str, Any] | None:
    """What the last of the passes that say where to split has said."""
    return next((said for one in reversed(earlier) if (said := one.splits_at()) is not None), None)

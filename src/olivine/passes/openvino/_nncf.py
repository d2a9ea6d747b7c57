"""What passes by nncf have in common: rows, scopes that stay as they are, and outputs held to those before."""

import contextlib
import dataclasses
import io
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.errors import ModelError, Problem
from olivine.models import ONNX_FILE, Model
from olivine.models.facts import ModelFacts
from olivine.models.onnx_files import check_onnx, graph_of
from olivine.models.openvino_files import ir_header_of, ir_of
from olivine.passes.openvino._base import OpenvinoPass, TargetParams, copy_companions_of, stored, told_elsewhere
from olivine.runtimes.openvino import EXTRA, OpenvinoSession, last_word
from olivine.runtimes.session import OnnxSession
from olivine.work import Context, Machine

if TYPE_CHECKING:
    import nncf
    import numpy as np
    import onnx
else:
    nncf, np, onnx = lazy.module("nncf"), lazy.module("numpy"), lazy.module("onnx")

ScopeType = Literal["names", "types", "patterns"]
N_MADE_UP = 16


class RoundingParams(TargetParams):
    """What stays as it is, which rows are run, and how far outputs may move."""

    data_config: str | None = Field(None, description="rows to calibrate and compare on; else some that are made up")
    max_samples: int = Field(300, ge=1, description="rows that are used at most")
    ignored_scope: list[str] | list[list[str]] | None = Field(
        None, description="layers that stay as they are; with several ignored_scope_type a list for each of them"
    )
    ignored_scope_type: ScopeType | list[ScopeType] | None = Field(
        None, description="what ignored_scope holds: names, types or patterns"
    )
    min_cosine: float = Field(
        0.95, ge=0, le=1, description="of outputs to those before, the least over outputs; below it the step fails"
    )
    transform_fn: str | None = Field(None, description="not served: data_config gives rows as the model takes them")

    @field_validator("ignored_scope", mode="before")
    @classmethod
    def _scope(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _scopes_fit(self) -> "RoundingParams":
        if (self.ignored_scope is None) != (self.ignored_scope_type is None):
            raise ValueError("ignored_scope and ignored_scope_type go together")
        kinds, scopes = self.ignored_scope_type, self.ignored_scope or []
        nested = [isinstance(one, list) for one in scopes]
        if isinstance(kinds, list) and (not all(nested) or len(kinds) != len(scopes) or len(set(kinds)) != len(kinds)):
            raise ValueError(
                "with a list of ignored_scope_type, ignored_scope is a list of lists, one for each of them"
            )
        if isinstance(kinds, str) and any(nested):
            raise ValueError("with one ignored_scope_type, ignored_scope is a list of texts")
        return self

    @property
    def scopes(self) -> dict[str, list[str]]:
        """What stays as it is, by what it is told by."""
        if self.ignored_scope is None or self.ignored_scope_type is None:
            return {}
        kinds = self.ignored_scope_type
        pairs = (
            zip(kinds, self.ignored_scope, strict=True) if isinstance(kinds, list) else [(kinds, self.ignored_scope)]
        )
        return {kind: [str(one) for one in scope] for kind, scope in pairs}


Session = OnnxSession | OpenvinoSession


class RoundingPass(OpenvinoPass):
    """A pass of nncf on a model of OpenVINO or an ONNX graph, which stays one; its outputs are held to those before."""

    Params: ClassVar[type[RoundingParams]] = RoundingParams
    accepts: ClassVar[frozenset[str]] = frozenset({"openvino", "onnx"})
    libraries: ClassVar[tuple[str, ...]] = ("openvino", "nncf", "onnx")
    modules: ClassVar[Mapping[str, str]] = {"openvino": EXTRA, "nncf": EXTRA}
    reads_inputs: ClassVar[bool] = True
    params: RoundingParams

    @classmethod
    def gives(cls, form: str | None) -> str:
        """A graph of ONNX stays one."""
        return "onnx" if form == "onnx" else cls.produces

    def data_names(self) -> list[str]:
        """The rows that calibrate, where some are named."""
        return [self.params.data_config] if self.params.data_config is not None else []

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """Functions that would make other inputs of rows."""
        if self.params.transform_fn is not None:
            message = "'transform_fn' is not served: rows come as the model takes them, by the names of its inputs."
            fix = "Remove it, or let the script of the data config give such rows."
            yield Problem("unsupported", self.name, message, fix, ("transform_fn",))

    def notes(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[str]:  # noqa: ARG002
        """What cannot be checked here."""
        if self.params.is_elsewhere:
            yield told_elsewhere(self.params.target_device)

    def rows(self, model: Model, context: Context, n_most: int | None = None) -> list[Any]:
        """Inputs of the named rows, or made-up ones."""
        from olivine.evaluate import inputs_of

        most = n_most or self.params.max_samples
        config = context.data.get(self.params.data_config) if self.params.data_config else None
        n_most = most if config is not None else min(N_MADE_UP, most)
        return inputs_of(model, config, n_most, whole=context.whole, part=context.part)

    def opened(self, model: Model) -> Any:
        """The model as nncf takes it."""
        lazy.require("nncf", EXTRA)
        if model.format == "onnx":
            check_onnx(model)
            return onnx.load(str(graph_of(model)))
        from olivine.exporting import openvino_ir

        ir_header_of(model).check()
        return openvino_ir.read(ir_of(model))

    def written(self, model: Model, result: Any, context: Context) -> Model:
        """Write what nncf gave."""
        if model.format != "onnx":
            name = ir_of(model).stem if model.format == "openvino" else "ov_model"
            return stored(model, result, context, name=name)
        from olivine.exporting.graph_files import Saving, from_proto, save_graph

        name = graph_of(model).name
        save_graph(from_proto(result), context.output / name, Saving())
        copy_companions_of(model, context.output)
        attributes = {**model.attributes, ONNX_FILE: name}
        return Model("onnx", context.output, task=model.task, attributes=attributes)

    def ensures(self, model: Model) -> None:
        """The result loads."""
        open_graph(model)


def open_graph(model: Model) -> Session:
    """A model of OpenVINO or ONNX, ready to run on the processor."""
    return OnnxSession(graph_of(model)) if model.format == "onnx" else OpenvinoSession(ir_of(model))


def session_of(result: Any, scratch: Path) -> Session:
    """What nncf gave, ready to run: of openvino from memory, of ONNX from a file."""
    if not isinstance(result, onnx.ModelProto):
        return OpenvinoSession(result)
    from olivine.exporting.graph_files import Saving, from_proto, save_graph

    scratch.mkdir(parents=True, exist_ok=True)
    save_graph(from_proto(result), scratch / "model.onnx", Saving())
    return OnnxSession(scratch / "model.onnx")


def outputs(session: Session, rows: Sequence[Any]) -> list[dict[str, Any]]:
    """The outputs that are numbers, of each row."""
    taken = set(session.input_names)
    runs = [session.run({name: value for name, value in row.items() if name in taken}) for row in rows]
    return [{name: one for name, one in run.items() if getattr(one, "dtype", None) is not None} for run in runs]


def cosine(given: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> float:
    """Of outputs to those before, the least over outputs; -1 where one is no number."""
    from olivine.evaluate import OutputEvidence, measured

    number = float(measured({}, OutputEvidence(given, expected)).get("cosine", 0.0))
    return -1.0 if math.isnan(number) else number


def dataset(rows: Sequence[Any], names: Sequence[str]) -> Any:
    """The rows as nncf reads them: the inputs that the model takes."""
    return nncf.Dataset([{name: np.asarray(row[name]) for name in names if name in row} for row in rows])


def ignored(scopes: Mapping[str, list[str]]) -> Any:
    """What stays as it is, as nncf takes it; None where all may change."""
    return nncf.IgnoredScope(**scopes) if scopes else None


@contextlib.contextmanager
def words(failed: str) -> Iterator[None]:
    """What nncf says when it fails, as a ModelError, and its bars and tables nowhere."""
    from olivine.exporting.openvino_ir import quiet

    try:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), quiet("nncf"):
            yield
    except (MemoryError, ModelError):
        raise
    except Exception as error:  # nncf and its back ends raise whatever they like
        raise ModelError(f"{failed}: {last_word(error)}") from error


def with_types(scopes: Mapping[str, list[str]], proto: Any, types: Sequence[str]) -> dict[str, list[str]]:
    """The scopes with those of the operators that an ONNX graph has."""
    there = {node.op_type for node in proto.graph.node}
    added = [kind for kind in types if kind in there and kind not in scopes.get("types", ())]
    return {**scopes, "types": [*scopes.get("types", ()), *added]} if added else dict(scopes)


def record_of(kind: type, given: Mapping[str, Any], where: str) -> Any:
    """A record of nncf's settings from a mapping, its records and words inside too. ModelError for what it has not."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    types = typing.get_type_hints(kind)
    if unknown := next((key for key in given if key not in fields), None):
        raise ModelError(f"{where} has no '{unknown}'; it has {', '.join(fields)}")
    return kind(**{key: _value(types[key], value, f"{where}.{key}") for key, value in given.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    kinds = typing.get_args(kind) or (kind,)
    for one in kinds:
        if isinstance(value, Mapping) and dataclasses.is_dataclass(one) and isinstance(one, type):
            return record_of(one, value, where)
        if isinstance(value, str) and isinstance(one, type) and issubclass(one, Enum):
            return _word(one, value, where)
    return value


def _word(kind: type[Enum], value: str, where: str) -> Enum:
    known = {str(one.value).lower(): one for one in kind} | {one.name.lower(): one for one in kind}
    if value.lower() not in known:
        raise ModelError(f"{where} must be one of {', '.join(sorted(known))}, but is {value!r:.40}")
    return known[value.lower()]

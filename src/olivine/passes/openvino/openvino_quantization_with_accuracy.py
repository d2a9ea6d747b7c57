"""Quantize a model to 8 bits with nncf, and give layers back to float until the accuracy on labelled rows holds."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.errors import DataError, ModelError, Problem
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.passes.openvino._nncf import dataset, open_graph, record_of, session_of, words
from olivine.passes.openvino._quantizing import QuantizingParams, QuantizingPass, counted
from olivine.work import Context, Machine

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")

_RESTORER = "advanced_accuracy_restorer_parameters"
Labelled = tuple[Mapping[str, Any], Any]  # inputs of a row, and its class
Measure = Callable[[Any, Iterable[Labelled]], float]


class OpenVINOQuantizationWithAccuracy(QuantizingPass):
    """Quantize a model to 8 bits with nncf, and give layers back to float until the accuracy on labelled rows holds.

    The rows of data_config need labels; validation_func of your script may measure something else than how often the
    largest score is that of the label. A result that loses more than max_drop fails the step.
    """

    class Params(QuantizingParams):
        """Names are those of Olive's OpenVINOQuantizationWithAccuracy."""

        max_drop: float = Field(0.01, ge=0, description="accuracy that may be lost")
        drop_type: Literal["ABSOLUTE", "RELATIVE"] = Field(
            "ABSOLUTE", description="ABSOLUTE: max_drop in the unit of the accuracy; RELATIVE: as a share of it"
        )
        validation_func: str | None = Field(
            None, description="function of user_script: of the compiled model and pairs of inputs and label a number"
        )
        min_cosine: float = Field(0.0, ge=0, le=1, description="not asked here: max_drop says what may be lost")

        @field_validator("drop_type", mode="before")
        @classmethod
        def _drop(cls, value: Any) -> Any:
            return value.upper() if isinstance(value, str) else value

    aliases: ClassVar[tuple[str, ...]] = ("OpenVINOQuantizationWithAccuracy",)
    example: ClassVar[Mapping[str, Any]] = {"data_config": "rows", "max_drop": 0.01, "model_type": "TRANSFORMER"}
    served: ClassVar[tuple[str, ...]] = (*QuantizingPass.served, _RESTORER)
    functions: ClassVar[tuple[str, ...]] = ("validation_func",)
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:
        """Rows with labels, and a script for the function that measures."""
        yield from super().check(facts, machine, data)
        if self.params.data_config is None:
            message = "an accuracy is measured on rows with labels, and no data_config names some."
            yield Problem("missing-data", self.name, message, "Name one.", ("data_config",))
        if self.params.validation_func is not None and self.params.user_script is None:
            message = (
                f"'validation_func' names the function '{self.params.validation_func}', and no user_script has it."
            )
            yield Problem("invalid-value", self.name, message, "Name the script as user_script.", ("validation_func",))

    def run(self, model: Model, context: Context) -> Model:
        """Quantize under the accuracy, measure it once more, and write the result."""
        import nncf

        labelled = self._labelled(model, context)
        rows = [row for row, _ in labelled]
        before = open_graph(model)
        with self._measure(context) as measure, words("nncf does not quantize the model"):
            arguments = {
                **self.arguments(nncf, {}),
                **self.advanced(nncf, "advanced_quantization_parameters"),
                **self._restorer(nncf),
            }
            result = nncf.quantize_with_accuracy_control(
                self.opened(model),
                calibration_dataset=dataset(rows, before.input_names),
                validation_dataset=nncf.Dataset(labelled, lambda item: _taken(item, before.input_names)),
                validation_fn=measure,
                max_drop=self.params.max_drop,
                drop_type=nncf.DropType(self.params.drop_type.lower()),
                **arguments,
            )
            accuracies = [measure(_measured(one, context.scratch), labelled) for one in (self.opened(model), result)]
        self._hold(accuracies)
        counts = counted(result)
        told = f"accuracy {accuracies[0]:.4g} before, {accuracies[1]:.4g} after"
        context.report.record(
            quantized=counts,
            accuracy_before=accuracies[0],
            accuracy_after=accuracies[1],
            summary=f"{counts['quantizers']} quantizers, {told}",
        )
        if not counts["quantizers"]:
            context.report.warn(
                "every layer stays in float: nothing else keeps the accuracy, or nncf knows none of them"
            )
        return self.written(model, result, context)

    def _hold(self, accuracies: Sequence[float]) -> None:
        """Raise ModelError where the result loses more than it may."""
        before, after = accuracies
        drop = before - after
        allowed = self.params.max_drop * (abs(before) if self.params.drop_type == "RELATIVE" else 1.0)
        if not drop <= allowed + 1e-9:
            raise ModelError(
                f"quantized, the accuracy falls from {before:.4g} to {after:.4g}, and max_drop allows {allowed:.4g}: "
                "raise it, leave layers out (ignored_scope), or set model_type to TRANSFORMER"
            )

    def _labelled(self, model: Model, context: Context) -> list[Labelled]:
        """Inputs and class of each row."""
        from olivine.evaluate import labelled_inputs_of

        config = context.data[str(self.params.data_config)]
        target = config.pre_process_data_config.label_col or "label"
        rows, labels = labelled_inputs_of(model, config, target, self.params.max_samples)
        if not labels and self.params.validation_func is None:
            raise DataError(
                f"the rows of '{config.name}' have no labels: name their column as label_col, or measure with "
                "validation_func"
            )
        classes: Sequence[Any] = labels or [None] * len(rows)
        return list(zip(rows, classes, strict=True))

    def _restorer(self, nncf: Any) -> dict[str, Any]:
        given = (self.params.extra_configs or {}).get(_RESTORER)
        return {_RESTORER: record_of(nncf.AdvancedAccuracyRestorerParameters, given, _RESTORER)} if given else {}

    @contextlib.contextmanager
    def _measure(self, context: Context) -> Iterator[Measure]:
        """What measures a compiled model: the function of the script, or how often the largest score is right."""
        from olivine.user_scripts import ScriptError

        asked = self.script()
        if asked is None:
            yield lambda model, rows: accuracy(_session(model, context.scratch), rows)
            return
        script, functions = asked
        try:
            with script.opened() as opened:
                function = opened.function(functions["validation_func"])
                yield lambda model, rows: float(function(model, rows))
        except ScriptError as error:
            raise ModelError(str(error)) from error


def _taken(item: Labelled, names: Sequence[str]) -> dict[str, Any]:
    """The inputs of a row that the model takes, without its label."""
    return {name: np.asarray(item[0][name]) for name in names if name in item[0]}


def _measured(graph: Any, scratch: Path) -> Any:
    """A model as nncf hands it to what measures: compiled, or the graph of ONNX as it is."""
    if hasattr(graph, "graph"):
        return graph
    return session_of(graph, scratch).compiled  # type: ignore[union-attr]


def _session(model: Any, scratch: Path) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """What a compiled model, or a graph of ONNX, gives for a row, by the names of its outputs."""
    if hasattr(model, "graph"):
        session = session_of(model, scratch / "measured")
        return lambda row: session.run({name: row[name] for name in session.input_names if name in row})
    names = [(port, port.get_any_name()) for port in model.inputs]

    def run(row: Mapping[str, Any]) -> Mapping[str, Any]:
        result = model({port: row[name] for port, name in names})
        return {str(number): result[number] for number in range(len(model.outputs))}

    return run


def accuracy(run: Callable[[Mapping[str, Any]], Mapping[str, Any]], rows: Iterable[Labelled]) -> float:
    """The share of classes, of rows or of their tokens, that have the largest score of the first output with scores."""
    n_right = n_asked = 0
    for row, label in rows:
        scores = next(np.asarray(one) for one in run(row).values() if np.asarray(one).ndim > 1)
        best = scores.argmax(axis=-1).reshape(-1)
        wanted = np.asarray(label).reshape(-1)
        asked = wanted >= 0  # -1 is a token that has no class of its own
        n = min(len(best), len(wanted))
        n_right += int((best[:n] == wanted[:n])[asked[:n]].sum())
        n_asked += int(asked[:n].sum())
    return n_right / n_asked if n_asked else 0.0

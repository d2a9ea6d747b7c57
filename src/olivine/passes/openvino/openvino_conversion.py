"""Convert a checkpoint, a script's module or an ONNX graph to a model of OpenVINO."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from olivine.config.schema import DataConfig
from olivine.errors import ModelError, Problem, sentence
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.io_config import Example, examples
from olivine.passes.openvino._base import NAME, OpenvinoParams, OpenvinoPass, stored
from olivine.passes.openvino._converting import Wishes, converted, signature_before
from olivine.passes.openvino._shapes import fixed, named_shapes, plain_shapes
from olivine.work import Context, Estimate, Machine

_EXTRA = ("input", "output", "compress_to_fp16")
_IDLE = ("verbose", "share_weights")


class OpenVINOConversion(OpenvinoPass):
    """Convert a checkpoint, a script's module or an ONNX graph to a model of OpenVINO (its IR).

    A module is traced, and the result is run beside it at two sizes of everything that is open: one that computes
    something else is no result. Where openvino does not take the module itself, it gets an ONNX graph of
    it. A decoder is converted without a cache.
    """

    class Params(OpenvinoParams):
        """Names are those of Olive's OpenVINOConversion, of all years."""

        input_shapes: dict[str, list[int]] | str | None = Field(
            None,
            description="sizes of inputs, -1 for an open one: a list of shapes in the order of the inputs, pairs of a "
            "name and a shape, or a function of user_script that gives them",
        )
        static: bool = Field(True, description="false: input_shapes are those of an example, and sizes stay open")
        example_input_func: str | None = Field(None, description="function of user_script that gives example inputs")
        compress_to_fp16: bool = Field(
            True, description="weights are stored in 16 bits; they are computed with as ever"
        )
        model_name: str = Field(NAME, description="name of the files of the result, without their endings")
        extra_configs: dict[str, Any] | None = Field(
            None, description="input, output and compress_to_fp16 of openvino.convert_model"
        )

        @field_validator("input_shapes", mode="before")
        @classmethod
        def _plain(cls, value: Any) -> Any:
            return plain_shapes(value)

        @field_validator("model_name")
        @classmethod
        def _is_a_name(cls, value: str) -> str:
            name = value.removesuffix(".xml")
            if not name or set(name) & set('/\\:*?"<>|\0') or name.startswith("."):
                raise ValueError("must be the name of a file, not a path")
            return name

        @model_validator(mode="before")
        @classmethod
        def _of_extra(cls, values: Any) -> Any:
            """What openvino calls input and compress_to_fp16 are params of their own."""
            extra = values.get("extra_configs") if isinstance(values, Mapping) else None
            if not isinstance(extra, Mapping):
                return values
            values, extra = dict(values), dict(extra)
            for theirs, ours in (("input_shape", "input_shapes"), ("input", "input_shapes")):
                given = extra.pop(theirs, None)
                if given is not None and values.get(ours) is None and _has_sizes(given):
                    values[ours] = given
            if isinstance(extra.get("compress_to_fp16"), bool):
                values.setdefault("compress_to_fp16", extra.pop("compress_to_fp16"))
            values["extra_configs"] = extra or None
            return values

    aliases: ClassVar[tuple[str, ...]] = ("OpenVINOConversion",)
    example: ClassVar[Mapping[str, Any]] = {"input_shapes": [[1, 128], [1, 128], [1, 128]]}
    accepts: ClassVar[frozenset[str]] = frozenset({"hf", "onnx", "script"})
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "openvino", "onnx")
    functions: ClassVar[tuple[str, ...]] = ("input_shapes", "example_input_func")
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """Functions without a script, shapes that the model does not take, and options that are not served."""
        named = [key for key in self.functions if isinstance(getattr(self.params, key), str)]
        if named and self.params.user_script is None:
            message = f"'{named[0]}' names the function '{getattr(self.params, named[0])}', and no user_script has it."
            yield Problem("invalid-value", self.name, message, "Name the script as user_script.", (named[0],))
        for key in self.params.extra_configs or {}:
            if key not in (*_EXTRA, *_IDLE):
                message = f"'{key}' of openvino's converter is not served."
                fix = f"Served are {', '.join(_EXTRA)}; do the rest in the model, or remove it."
                yield Problem("unsupported", self.name, message, fix, ("extra_configs", key))
        signature = signature_before(facts)
        if signature is not None and isinstance(self.params.input_shapes, dict):
            try:
                named_shapes(signature, self.params.input_shapes)
            except ModelError as error:
                yield Problem("invalid-value", self.name, sentence(error), "", ("input_shapes",))
        if signature is None and facts.kind not in ("script", "graph"):
            message = f"it is not known what {facts.in_words} takes as inputs."
            yield Problem("unsupported", self.name, message, "Export it by its own tool, and name the ONNX file.")

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """The libraries, the weights in torch, in openvino, and as they are written."""
        weights = 4 * facts.n_parameters
        disk = weights // 2 if self.params.compress_to_fp16 else weights
        return Estimate(memory_bytes=int(1.2e9 + 3.2 * weights), disk_bytes=disk)

    def forecast(self, facts: ModelFacts) -> ModelFacts:
        """A graph with the inputs of the model, at the sizes that are asked for."""
        signature, shapes = signature_before(facts), self.params.input_shapes
        if signature is not None and isinstance(shapes, dict) and self.params.static:
            try:
                signature = fixed(signature, named_shapes(signature, shapes))
            except ModelError:  # told by `check`
                signature = None
        return facts.as_graph(signature, 2.0 if self.params.compress_to_fp16 else 4.0)

    def run(self, model: Model, context: Context) -> Model:
        """Convert, hold the result to the model, and write it."""
        ir, facts = converted(model, context, self._wishes(model))
        half = self.params.compress_to_fp16
        result = stored(model, ir, context, half=half, name=self.params.model_name)
        inputs = ", ".join(f"{port.get_any_name()} {port.get_partial_shape()}" for port in ir.inputs)
        by = "openvino, by way of an ONNX graph" if "_by_" in facts.get("exporter", "") else "openvino"
        differ = f"; outputs differ by {facts['largest_difference']:.1g} of the largest" if "exporter" in facts else ""
        n_layers = len(ir.get_ops())
        context.report.record(**facts, n_layers=n_layers, summary=f"{n_layers} layers by {by}, {inputs}{differ}")
        return result

    def _wishes(self, model: Model) -> Wishes:
        given, example = self.params.input_shapes, dict[str, Example]()
        asked = self.script()
        if asked is not None:
            given, example = self._told_by_script(model)
        shapes = plain_shapes(given) if not isinstance(given, dict) else given
        if shapes is not None and not isinstance(shapes, dict):
            raise ModelError(f"input_shapes must be shapes, but is {shapes!r:.60}")
        outputs = (self.params.extra_configs or {}).get("output")
        names = [name.strip() for name in outputs.split(",")] if isinstance(outputs, str) else outputs
        if self.params.static:
            return Wishes(shapes=shapes or {}, example=example, outputs=names)
        return Wishes(sizes=shapes or {}, example=example, outputs=names)

    def _told_by_script(self, model: Model) -> tuple[Any, dict[str, Example]]:
        """The shapes and the example that functions of the script give."""
        from olivine.user_scripts import ScriptError

        asked = self.script()
        if asked is None:
            raise TypeError("no function is named")
        script, functions = asked
        try:
            with script.opened() as opened:
                shapes: Any = self.params.input_shapes
                if "input_shapes" in functions:
                    shapes = opened.function(functions["input_shapes"])()
                told = None
                if "example_input_func" in functions:
                    told = opened.function(functions["example_input_func"])()
                return shapes, examples(told, self._names(model)) if told is not None else {}
        except ScriptError as error:
            raise ModelError(str(error)) from error

    @staticmethod
    def _names(model: Model) -> list[str]:
        """Names of the inputs of the model, as far as they are known."""
        from olivine.models.interface import signature_of

        signature = signature_of(model)
        return [spec.name for spec in signature.inputs] if signature is not None else []


def _has_sizes(given: Any) -> bool:
    """Whether what openvino calls input tells shapes, and not names alone."""
    if isinstance(given, str):
        return any(bracket in given for bracket in "[(")
    return not isinstance(given, list) or not all(isinstance(one, str) for one in given)

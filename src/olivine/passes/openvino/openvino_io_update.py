"""Fix the sizes of a model of OpenVINO, and give names to inputs and outputs that have none."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field, field_validator

from olivine.config.schema import DataConfig
from olivine.errors import ModelError, Problem, Unsupported, sentence
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.openvino_files import ir_header_of, ir_of
from olivine.models.signature import Signature
from olivine.passes.openvino._base import OpenvinoParams, OpenvinoPass, stored
from olivine.passes.openvino._shapes import fixed, is_static, named_shapes, plain_shapes
from olivine.work import Context, Machine


class OpenVINOIoUpdate(OpenvinoPass):
    """Fix the sizes of a model of OpenVINO, and give names to inputs and outputs that have none.

    Some devices take models of fixed sizes alone. With static and without input_shapes, the model must be static
    already, as OpenVINOConversion makes it with shapes.
    """

    class Params(OpenvinoParams):
        """Names are those of Olive's OpenVINOIoUpdate and OpenVINOReshape."""

        input_shapes: dict[str, list[int]] | None = Field(
            None, description="sizes of inputs, -1 for an open one: shapes in the order of the inputs, or by name"
        )
        static: bool = Field(False, description="the sizes of inputs are fixed")
        extra_configs: dict[str, Any] | None = Field(None, description="Olive takes them and does nothing with them")

        @field_validator("input_shapes", mode="before")
        @classmethod
        def _plain(cls, value: Any) -> Any:
            shapes = plain_shapes(value)
            if isinstance(shapes, str):
                raise ValueError("must be shapes, such as [[1, 128], [1, 128]]")  # noqa: TRY004 - pydantic tells it
            return shapes

    aliases: ClassVar[tuple[str, ...]] = ("OpenVINOIoUpdate", "OpenVINOReshape")
    example: ClassVar[Mapping[str, Any]] = {"static": True, "input_shapes": [[1, 128], [1, 128], [1, 128]]}
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """Shapes that the model does not take, and sizes that would stay open."""
        if facts.signature is None or facts.kind != "graph":
            return
        try:
            signature = self._after(facts.signature)
        except ModelError as error:
            yield Problem("invalid-value", self.name, sentence(error), "", ("input_shapes",))
            return
        if self.params.static and not is_static(signature):
            message = f"a static model is asked for, and sizes stay open: {signature.in_words}."
            yield Problem("invalid-value", self.name, message, "Write input_shapes, one for each input.", ("static",))

    def _after(self, signature: Signature) -> Signature:
        return fixed(signature, named_shapes(signature, self._shapes()))

    def _shapes(self) -> dict[str, list[int]]:
        """Those that are to be: without static, Olive looks at none."""
        return (self.params.input_shapes or {}) if self.params.static else {}

    def notes(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[str]:  # noqa: ARG002
        """That shapes without static change nothing."""
        if self.params.input_shapes and not self.params.static:
            yield "input_shapes have no effect without static, as in Olive: sizes stay as they are"

    def forecast(self, facts: ModelFacts) -> ModelFacts:
        """The graph with the sizes that are asked for."""
        if facts.signature is None:
            return facts
        try:
            return facts.as_graph(self._after(facts.signature), facts.bytes_per_weight)
        except ModelError:  # told by `check`
            return facts.as_graph(None, facts.bytes_per_weight)

    def run(self, model: Model, context: Context) -> Model:
        """Name, reshape and write."""
        from olivine.exporting import openvino_ir

        header = ir_header_of(model)
        header.check()
        ir = openvino_ir.read(ir_of(model))
        n_named = openvino_ir.name_ends(ir)
        shapes = named_shapes(header.signature, self._shapes())
        if shapes:
            openvino_ir.reshaped(ir, shapes)
        n_open = sum(port.get_partial_shape().is_dynamic for port in ir.inputs)
        if self.params.static and n_open:
            raise Unsupported(f"a static model is asked for, and {n_open} inputs have open sizes: write input_shapes")
        changes = {"names given": n_named, "shapes fixed": len(shapes)}
        done = ", ".join(f"{count} {name}" for name, count in changes.items() if count)
        if not done:
            context.report.note("nothing was to be done: all inputs and outputs have names, and sizes are as asked for")
        context.report.record(changes=changes, summary=done or "nothing")
        return stored(model, ir, context, half=False, name=ir_of(model).stem)

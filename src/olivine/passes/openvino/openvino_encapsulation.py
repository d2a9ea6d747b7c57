"""Wrap a model of OpenVINO into an ONNX graph of one node, as OpenVINO's provider of onnxruntime loads it."""

import shutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.errors import ModelError, Problem
from olivine.models import ONNX_FILE, Model
from olivine.models.facts import ModelFacts
from olivine.models.onnx_header import TYPES
from olivine.models.openvino_files import CONTEXT, context_of, ir_header_of
from olivine.models.signature import TensorSpec
from olivine.passes.openvino._base import OpenvinoPass, TargetParams, copy_companions_of, told_elsewhere
from olivine.runtimes.openvino import OpenvinoSession
from olivine.work import Context, Estimate, Machine

if TYPE_CHECKING:
    import onnx
else:
    onnx = lazy.module("onnx")

_IR_VERSION = 10
_OPSETS: list[tuple[str, int]] = [
    *(("com.microsoft.nchwc", 1), ("", 11), ("ai.onnx.ml", 5), ("com.ms.internal.nhwc", 11)),
    *(("ai.onnx.training", 1), ("ai.onnx.preview.training", 1), ("com.microsoft.experimental", 1)),
    *(("com.microsoft", 1), ("org.pytorch.aten", 1)),
]


class OpenVINOEncapsulation(OpenvinoPass):
    """Wrap a model of OpenVINO into an ONNX graph of one node, as OpenVINO's provider of onnxruntime loads it.

    The graph has the inputs and outputs of the model and a node EPContext that names its .xml file, which lies beside
    it. Only the package onnxruntime-openvino runs such a graph; here it is measured as the model that it names.
    """

    class Params(TargetParams):
        """Names are those of Olive's OpenVINOEncapsulation."""

        target_device: str = Field("cpu", description="cpu, gpu or npu: written into the node")
        ov_version: str | None = Field(None, description="version of openvino in the node; else the installed one")
        opset_imports: list[tuple[str, int]] = Field(
            default_factory=lambda: list(_OPSETS), description="domains and versions of operators in the graph"
        )
        keep_ov_dynamic_dims: bool = Field(False, description="open sizes are -1; else they have names")
        genai_config_override: dict[str, Any] | None = Field(None, description="settings for onnxruntime-genai")

    aliases: ClassVar[tuple[str, ...]] = ("OpenVINOEncapsulation",)
    example: ClassVar[Mapping[str, Any]] = {"target_device": "npu"}
    produces: ClassVar[str] = "onnx"
    libraries: ClassVar[tuple[str, ...]] = ("openvino", "onnx")
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """Settings for a runtime that would have to write text with it."""
        if self.params.genai_config_override:
            message = "'genai_config_override' is not served: a model without a cache of past keys writes no text."
            fix = "Remove it; ModelBuilder makes a model that onnxruntime-genai runs."
            yield Problem("unsupported", self.name, message, fix, ("genai_config_override",))
        if "com.microsoft" not in dict(self.params.opset_imports):
            message = "'opset_imports' lacks the domain com.microsoft, which the node EPContext is of."
            yield Problem("invalid-value", self.name, message, 'Add ["com.microsoft", 1].', ("opset_imports",))

    def notes(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[str]:  # noqa: ARG002
        """What cannot be checked here."""
        yield (
            "only onnxruntime-openvino runs the graph; it is measured as the model of OpenVINO that it names, on the "
            "CPU"
        )
        if self.params.is_elsewhere:
            yield told_elsewhere(self.params.target_device)

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """A copy of the files."""
        return Estimate(memory_bytes=500_000_000, disk_bytes=facts.weight_bytes)

    def forecast(self, facts: ModelFacts) -> ModelFacts:
        """The same graph."""
        return facts.as_graph(facts.signature, facts.bytes_per_weight)

    def run(self, model: Model, context: Context) -> Model:
        """Write the graph and copy the model beside it."""
        header = ir_header_of(model)
        header.check()
        name = header.path.stem
        for file in (header.path, header.weights):
            shutil.copyfile(file, context.output / file.name)
        copy_companions_of(model, context.output)
        inputs = [self._value(spec, f"input_{number}") for number, spec in enumerate(header.signature.inputs)]
        outputs = [self._value(spec, f"output_{number}") for number, spec in enumerate(header.signature.outputs)]
        node = onnx.helper.make_node(
            CONTEXT[1],
            [value.name for value in inputs],
            [value.name for value in outputs],
            name="ContextNode",
            domain=CONTEXT[0],
            embed_mode=0,
            ep_cache_context=header.path.name,
            ep_sdk_version=self.params.ov_version or lazy.version("openvino"),
            main_context=1,
            max_size=0,
            source="OpenVINOExecutionProvider",
            DeviceClass=self.params.target_device.upper(),
        )
        graph = onnx.helper.make_graph([node], "EP_Context_Model", inputs, outputs)
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in self.params.opset_imports]
        proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        onnx.save(proto, str(context.output / f"{name}.onnx"))
        context.report.record(summary=f"one node EPContext for the {self.params.target_device.upper()}")
        return Model("onnx", context.output, task=model.task, attributes={ONNX_FILE: f"{name}.onnx"})

    def _value(self, spec: TensorSpec, prefix: str) -> Any:
        """An input or output as ONNX has it."""
        kinds = {kind: number for number, (kind, _) in TYPES.items()}
        if spec.dtype not in kinds or spec.shape is None:
            raise ModelError(f"'{spec.name}' has no type or shape in ONNX ({spec.dtype})")
        shape = [
            size if isinstance(size, int) else -1 if self.params.keep_ov_dynamic_dims else f"{prefix}_{axis}"
            for axis, size in enumerate(spec.shape)
        ]
        return onnx.helper.make_tensor_value_info(spec.name, kinds[spec.dtype], shape)

    def ensures(self, model: Model) -> None:
        """The model that the graph names loads in openvino."""
        wrapped = context_of(model)
        if wrapped is None:
            raise ModelError(f"{model.path} holds no graph that names a model of OpenVINO")
        OpenvinoSession(wrapped)

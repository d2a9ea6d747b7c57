"""ModelBuilder: the ONNX model and folder that onnxruntime-genai loads."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from olivine.config.schema import DataConfig
from olivine.errors import Problem, Unsupported
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.passes._base import Context, Estimate, Machine, Pass, PassParams

# Architectures that the builder dispatches on and that are text models with weights we can serve (tested against it).
ARCHITECTURES = frozenset(
    {
        "ChatGLMForConditionalGeneration",
        "ChatGLMModel",
        "Ernie4_5ForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "GemmaForCausalLM",
        "GptOssForCausalLM",
        "GraniteForCausalLM",
        "GraniteMoeHybridForCausalLM",
        "HunYuanDenseV1ForCausalLM",
        "InternLM2ForCausalLM",
        "Lfm2ForCausalLM",
        "Lfm2MoeForCausalLM",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "NemotronForCausalLM",
        "OlmoForCausalLM",
        "Phi3ForCausalLM",
        "Phi3SmallForCausalLM",
        "PhiForCausalLM",
        "PhiMoEForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "SmolLM3ForCausalLM",
    }
)

# execution provider -> the builder's name of it
PROVIDERS = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "cuda",
    "DmlExecutionProvider": "dml",
    "WebGpuExecutionProvider": "webgpu",
    "NvTensorRTRTXExecutionProvider": "NvTensorRtRtx",
}
BYTES_PER_WEIGHT = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.13, "int4": 0.63}
DEFAULT_MAX_LENGTH = 4096


class Build(Pass):
    """Build an ONNX model for onnxruntime-genai with its model builder.

    The result is a folder with the graph, its weights, genai_config.json, tokenizer and chat template; it holds no path
    of this machine and may be moved anywhere.
    1. The graph is the builder's, for the execution provider of the target. 2. Weights come from the input model as it
    is, merged or dequantized on the way where they are computed. 3. The end tokens are the union of the tokenizer's,
    the generation config's and the one that ends a turn in the chat template. 4. `search.max_length` is at most 4096
    unless asked for: the cache for a context of 131,072 tokens would not fit in most machines.
    """

    class Params(PassParams):
        """Names are those of Olive's ModelBuilder; the `int4_` prefix may be left out."""

        precision: Literal["fp32", "fp16", "bf16", "int8", "int4"] = Field(
            "int4", description="what the weights of matrix products are stored in"
        )
        int4_block_size: Literal[16, 32, 64, 128, 256] | None = Field(
            None, description="weights that share one scale; smaller is more accurate and larger (builder's default 32)"
        )
        int4_accuracy_level: Literal[0, 1, 2, 3, 4] | None = Field(
            None, description="4 computes in int8, the fastest on CPUs and the builder's default there; 1 in float32"
        )
        int4_algo_config: str | None = Field(
            None, description="default, rtn, k_quant, or one of the builder's mixed forms such as k_quant_last"
        )
        int4_op_types_to_quantize: list[str] | None = Field(None, description="MatMul, Gather (the embedding)")
        int4_is_symmetric: bool | None = Field(None, description="false stores a zero point for every block")
        exclude_embeds: bool = Field(False, description="leave the embedding out: the graph takes inputs_embeds")
        exclude_lm_head: bool = Field(False, description="leave the head out: the graph gives hidden states")
        enable_cuda_graph: bool = Field(False, description="prepare for CUDA graphs")
        use_qdq: bool = Field(False, description="QuantizeLinear and DequantizeLinear in place of MatMulNBits")
        max_length: int | None = Field(
            None, gt=0, description="default length of prompt and answer; else the context, at most 4096"
        )
        search: Mapping[str, Any] = Field(default_factory=dict, description="defaults of genai_config.json's search")
        extra_options: Mapping[str, Any] = Field(default_factory=dict, description="any other option of the builder")
        metadata_only: bool = Field(False, description="write genai_config.json and the tokenizer, no graph")

        @model_validator(mode="before")
        @classmethod
        def _plain_names(cls, values: Any) -> Any:
            """The builder dropped the prefix `int4_` in 0.18; both spellings are one param."""
            if not isinstance(values, Mapping):
                return values
            plain = {"block_size", "accuracy_level", "algo_config", "op_types_to_quantize", "is_symmetric"}
            return {f"int4_{key}" if key in plain else key: value for key, value in values.items()}

    aliases: ClassVar[tuple[str, ...]] = ("ModelBuilder",)
    accepts: ClassVar[frozenset[str]] = frozenset({"hf"})
    produces: ClassVar[str] = "onnx"
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime-genai", "onnxruntime", "onnx-ir", "transformers", "torch")
    modules: ClassVar[Mapping[str, str]] = {"onnxruntime": "cpu", "onnxruntime_genai": "cpu"}
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """The architecture, the block size and the provider, from the config alone."""
        if facts.architecture not in ARCHITECTURES:
            yield Problem(
                "unsupported",
                self.name,
                f"the architecture '{facts.architecture}' cannot be exported.",
                f"Supported: {', '.join(sorted(ARCHITECTURES))}.",
            )
        if machine.execution_provider not in PROVIDERS:
            yield Problem(
                "unsupported",
                self.name,
                f"no model can be built for '{machine.execution_provider}'.",
                f"Choose one of {', '.join(PROVIDERS)}.",
            )
        yield from self._check_block_size(facts)

    def _check_block_size(self, facts: ModelFacts) -> Iterator[Problem]:
        size = self._block_size
        if size is None:
            return
        for name, width in (("hidden_size", facts.hidden_size), ("intermediate_size", facts.intermediate_size)):
            if width % size:
                fitting = [str(other) for other in (16, 32, 64, 128, 256) if width % other == 0]
                yield Problem(
                    "invalid-value",
                    self.name,
                    f"int4_block_size {size} does not divide the model's {name} {width}.",
                    f"Use {' or '.join(fitting)}." if fitting else "Use precision fp16 or fp32.",
                )

    @property
    def _block_size(self) -> int | None:
        return (self.params.int4_block_size or 32) if self.params.precision in ("int4", "int8") else None

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """The builder holds every weight in float32, in torch and again in the graph (measured: 8 bytes a weight)."""
        embedding = 0 if self.params.precision in ("fp16", "bf16") else facts.vocab_size * facts.hidden_size
        size = facts.n_parameters * BYTES_PER_WEIGHT[self.params.precision]
        if self.params.precision == "int4" and not facts.tied_embeddings:
            size += embedding * (4.0 - BYTES_PER_WEIGHT["int4"])  # an untied embedding stays float32
        return Estimate(memory_bytes=int(600e6 + 8.1 * facts.n_parameters), disk_bytes=int(size))

    def run(self, model: Model, context: Context) -> Model:
        """Write the folder; raises Unsupported when the builder does not know the model."""
        from olivine.passes.export import _genai

        provider = PROVIDERS.get(context.machine.execution_provider)
        if provider is None:
            raise Unsupported(f"no model can be built for '{context.machine.execution_provider}'")
        _genai.build(model, context.output, context.scratch, self.params.precision, provider, self.options())
        if not self.params.metadata_only:
            _genai.refuse_broken_scales(context.output)
        _genai.complete_config(model, context.output, self.params.max_length or DEFAULT_MAX_LENGTH, self._search())
        context.report.record(
            size_bytes=sum(file.stat().st_size for file in context.output.rglob("*") if file.is_file())
        )
        return Model(
            format="onnx",
            path=context.output,
            task=model.task,
            attributes={
                "precision": self.params.precision,
                "execution_provider": context.machine.execution_provider,
                "metadata_only": self.params.metadata_only,
            },
        )

    def ensures(self, model: Model) -> None:
        """The folder is complete, and onnxruntime-genai loads it and generates a token where its provider is here."""
        from olivine.passes.export import _genai

        if not self.params.metadata_only:
            _genai.check_folder(model.path)
            if not (self.params.exclude_embeds or self.params.exclude_lm_head):
                _genai.check_generates(model.path, model.attributes["execution_provider"])

    def options(self) -> dict[str, str]:
        """What the builder is told, as its KEY=VALUE options."""
        given = {
            "block_size": self.params.int4_block_size,
            "accuracy_level": self.params.int4_accuracy_level,
            "algo_config": self.params.int4_algo_config,
            "op_types_to_quantize": "/".join(self.params.int4_op_types_to_quantize or ()) or None,
            "is_symmetric": self.params.int4_is_symmetric,
            "exclude_embeds": self.params.exclude_embeds or None,
            "exclude_lm_head": self.params.exclude_lm_head or None,
            "enable_cuda_graph": self.params.enable_cuda_graph or None,
            "use_qdq": self.params.use_qdq or None,
            "config_only": self.params.metadata_only or None,
        }
        options = {key: _text(value) for key, value in given.items() if value is not None}
        return options | {key: _text(value) for key, value in self.params.extra_options.items()}

    def _search(self) -> dict[str, Any]:
        search = dict(self.params.search)
        if self.params.max_length is not None:
            search["max_length"] = self.params.max_length
        return search


def _text(value: Any) -> str:
    """A value as the builder reads it from a command line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)

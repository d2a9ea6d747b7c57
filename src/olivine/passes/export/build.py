"""ModelBuilder: the ONNX model and folder that onnxruntime-genai loads."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from olivine import lazy
from olivine.calibration.sizes import (
    BATCH_TOKENS,
    BF16_FROM,
    FEWEST,
    GENERAL,
    GROUPS_4,
    OWN,
    SCALE_BYTES,
    Text,
    in_words,
    tokens_for,
)
from olivine.config.schema import DataConfig
from olivine.errors import Problem, Unsupported
from olivine.exporting import builder_options, limits
from olivine.exporting.sizes import PIECE_BYTES
from olivine.exporting.speech_input import SPEECH
from olivine.models import Model
from olivine.models.facts import UNNAMED, Kind, ModelFacts
from olivine.models.finite import NotFiniteError, explain
from olivine.models.inspect import read_config, read_facts
from olivine.models.opened import Opened
from olivine.models.speech import hears
from olivine.passes._base import CalibrationRows, Pass, PassParams, last_selection, last_training
from olivine.runtimes.onnx_folder import PROVIDERS
from olivine.work import Context, Estimate, Machine

if TYPE_CHECKING:
    from olivine.calibration.folding import Folding
    from olivine.calibration.gptq_layers import Quantized
    from olivine.exporting.mixed import Goal
    from olivine.exporting.rounding import Settings
    from olivine.passes.export import _speech
else:
    _speech = lazy.module("olivine.passes.export._speech")

# Architectures whose export was proven to be the model, row for row in tests/passes/test_architectures.py.
ARCHITECTURES = frozenset(
    {
        "Ernie4_5ForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "GemmaForCausalLM",
        "GptOssForCausalLM",
        "GraniteForCausalLM",
        "GraniteMoeHybridForCausalLM",
        "HunYuanDenseV1ForCausalLM",
        "Lfm2ForCausalLM",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "NemotronForCausalLM",
        "OlmoForCausalLM",
        "Phi3ForCausalLM",
        "PhiForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "SmolLM3ForCausalLM",
        SPEECH,
    }
)
_OWN_CODE = "it brings its own Python, and transformers has no class to compare the export with"
_MORE_THAN_TEXT = "the model builder makes its text part alone, and what sees images or hears would be left out"
_TEXT_APART = f"{_MORE_THAN_TEXT}; its text part, saved as a {{}} of its own, can be exported"
# the others that the builder knows -> why they are not among them
NOT_EXPORTED = {
    "ChatGLMForConditionalGeneration": _OWN_CODE,
    "ChatGLMModel": _OWN_CODE,
    "InternLM2ForCausalLM": _OWN_CODE,
    "Phi3SmallForCausalLM": _OWN_CODE,
    "Lfm2MoeForCausalLM": "its experts lie apart in the checkpoint and together in transformers",
    "PhiMoEForCausalLM": "its experts are built for CUDA alone, and under a name that transformers no longer has",
    "Gemma3ForConditionalGeneration": _TEXT_APART.format("Gemma3ForCausalLM"),
    "Gemma4ForConditionalGeneration": _MORE_THAN_TEXT,
    "Gemma4UnifiedForConditionalGeneration": _MORE_THAN_TEXT,
    "Lfm2AudioForConditionalGeneration": _MORE_THAN_TEXT,
    "Lfm2VlForConditionalGeneration": _TEXT_APART.format("Lfm2ForCausalLM"),
    "Mistral3ForConditionalGeneration": _MORE_THAN_TEXT,
    "Phi3VForCausalLM": _MORE_THAN_TEXT,
    "Phi4MMForCausalLM": _MORE_THAN_TEXT,
    "Qwen2_5_VLForConditionalGeneration": _MORE_THAN_TEXT,
    "Qwen3VLForConditionalGeneration": _MORE_THAN_TEXT,
    "Qwen3_5ForConditionalGeneration": _MORE_THAN_TEXT,
    "Qwen3_5MoeForConditionalGeneration": _MORE_THAN_TEXT,
    "VideoChatFlashQwenForCausalLM": _MORE_THAN_TEXT,
}

FRAMEWORKS = 0.9e9  # bytes of torch, transformers, the builder and the runtime
# of the check that runs the result: what is resident before it, and bytes of memory for one of the weights that are
# open at once: they are mapped, and packed once more; zero points and scales of 16 bits, which are unfolded, take more
TRIAL, TRIED, TRIED_SEARCHED = 0.65e9, 1.35, 2.15
BYTES_WHOLE = 8.0  # a weight, where the builder holds the model: read, and as it is written
BYTES_PER_WEIGHT = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.13, "int4": 0.63}
DEFAULT_MAX_LENGTH = 4096
# the builder dropped the prefix `int4_` in 0.18; both spellings are one param
PLAIN_NAMES = {
    name: f"int4_{name}"
    for name in ("block_size", "accuracy_level", "algo_config", "op_types_to_quantize", "is_symmetric")
}
CPU = "CPUExecutionProvider"
EIGHT = 8
# of k_quant_mixed; the error-ranked choice needs a third of the weights that the builder's positions take
MIXED_SHARE = 0.06
# the builder's options that change the graph alone; any other leaves reading and quantizing to the builder
STREAMED_OPTIONS = frozenset(
    {
        "disable_qkv_fusion",
        "filename",
        "fuse_mlp_gate_up",
        "fuse_qk_norm_gqa",
        "fuse_qkv",
        "include_hidden_states",
        "nodes_to_exclude",
        "prune_lm_head",
        "shared_embeddings",
        "windowed_kv_cache",
    }
)
# those that shape a graph in fp32 on the CPU too
PROVEN_OPTIONS = frozenset(
    {
        "disable_qkv_fusion",
        "fuse_mlp_gate_up",
        "fuse_qk_norm_gqa",
        "fuse_qkv",
        "prune_lm_head",
        "shared_embeddings",
        "windowed_kv_cache",
    }
)
# those that say how weights are stored, where files lie, or what a graph gives beside its logits
UNSHAPING_OPTIONS = frozenset({"filename", "hf_remote", "hf_token", "include_hidden_states", "nodes_to_exclude"})
PARTS = {"exclude_embeds": "embedding", "exclude_lm_head": "head"}


class Build(Pass):
    """Build an ONNX model for onnxruntime-genai with its model builder.

    The result is a folder with the graph, its weights, genai_config.json, tokenizer and chat template; it holds no path
    of this machine and may be moved anywhere.
    1. The graph is the builder's, for the execution provider of the target. 2. Weights are streamed: read, merged,
    quantized and written a few rows at a time, so that the model never is in memory. What a checkpoint already holds in
    4 or 8 bits is taken over as it is. 3. int4 scales and zero points are searched for the least error, each input
    weighted by how much of it there is in calibration text (`int4_algo_config: default` gives the builder's own
    rounding, byte for byte). 4. The end tokens are the union of the tokenizer's,
    the generation config's and the one that ends a turn in the chat template. 5. `search.max_length` is at most 4096
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
        int4_algo_config: (
            Literal[
                "search",
                "default",
                "rtn",
                "k_quant",
                "rtn_last",
                "k_quant_last",
                "k_quant_mixed",
                "k_quant_linear",
                "mixed",
                "best",
            ]
            | None
        ) = Field(
            None,
            description="search (int4's default, and what k_quant now means), default or rtn (round to nearest as the "
            "builder does); _last keeps the head in 8 bits, _mixed also the layers with the largest error; mixed "
            "chooses bits and group of each matrix by what they do to the model, see mixed_bits; best does so, and "
            "rounds by GPTQ, then mends codes and scales in turn: minutes",
        )
        int4_op_types_to_quantize: list[str] | None = Field(None, description="MatMul, Gather (the embedding)")
        int4_is_symmetric: bool | None = Field(None, description="false stores a zero point for every block")
        head_bits: Literal[4, 8] | None = Field(None, description="of the head, and of an embedding that is tied to it")
        embedding_bits: Literal[4, 8] | None = Field(
            None, description="of an embedding of its own; 8 on CPUs with int4_algo_config search, else it stays float"
        )
        mixed_bits: float | None = Field(
            None,
            gt=4,
            lt=9,
            description="bits a weight on the whole, scales and zero points included, that mixed and best have to "
            "give; by default those of search in its groups",
        )
        mixed_divergence: float | None = Field(
            None, gt=0, description="nats a token that it may add, as it predicts, with as few bits as possible"
        )
        int8_share: float | None = Field(
            None, ge=0, le=1, description="share of the layers' weights in 8 bits, those with the largest error first"
        )
        calibration_data_config: str | None = Field(
            None,
            description="data to weigh the inputs by; else the training data of an earlier step, else calibration_text",
        )
        calibration_text: Text = Field(
            GENERAL,
            description="without data: general (pages that come with olivine), own (what the model writes, for which "
            "all of it is in memory), or a text file",
        )
        calibration_held_out: float | None = Field(
            None, gt=0, description="rows of it that are left out, as eval_dataset_size of the training step"
        )
        calibration_may_be_short: bool = Field(
            False, description="with too little of that data, calibrate with calibration_text, and say so"
        )
        calibration_seed: int = Field(0, description="of the split and of the text that the model writes")
        calibration_tokens: int | None = Field(
            None,
            ge=FEWEST,
            description="tokens to calibrate with; 8,192, or fewer for more than two billion weights",
        )
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
            """Both spellings of a param are one."""
            if not isinstance(values, Mapping):
                return values
            return {PLAIN_NAMES.get(key, key): value for key, value in values.items()}

        @field_validator("extra_options")
        @classmethod
        def _known_options(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
            """Refused here, and not by `check`: a secret must not get as far as the plan that shows it."""
            if faults := list(builder_options.faults(values)):
                raise ValueError("\n".join(faults))
            return values

        @field_validator("search")
        @classmethod
        def _known_search(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
            if faults := list(builder_options.search_faults(values)):
                raise ValueError("\n".join(faults))
            return values

    aliases: ClassVar[tuple[str, ...]] = ("ModelBuilder",)
    example: ClassVar[Mapping[str, Any]] = {"precision": "int4"}
    version: ClassVar[int] = 6
    accepts: ClassVar[frozenset[str]] = frozenset({"hf"})
    kinds: ClassVar[frozenset[Kind]] = frozenset({"decoder", "encoder-decoder"})
    produces: ClassVar[str] = "onnx"
    is_usual_way: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime-genai", "onnxruntime", "onnx-ir", "transformers", "torch")
    modules: ClassVar[Mapping[str, str]] = {"onnxruntime": "cpu", "onnxruntime_genai": "cpu"}
    works_with: ClassVar[tuple[str, ...]] = ("onnxruntime_genai.models.builder",)
    spellings: ClassVar[Mapping[str, str]] = PLAIN_NAMES
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """The architecture, the block size and the provider, from the config alone."""
        if facts.architecture not in {*ARCHITECTURES, UNNAMED}:  # a config that names none is told of by itself
            why = f": {NOT_EXPORTED[facts.architecture]}" if facts.architecture in NOT_EXPORTED else ""
            yield Problem(
                "unsupported",
                self.name,
                f"the architecture '{facts.architecture}' cannot be exported{why}.",
                f"Supported: {', '.join(sorted(ARCHITECTURES))}.",
            )
        if facts.kind != "decoder":
            if _speech.is_speech(facts.config):
                asked = _speech.Asked(self.name, self.params, self.block_size)
                yield from _speech.problems(asked, facts, machine)
                yield from self._check_runs_fast(machine)
            return
        for why, fix in limits.refusals(facts.architecture, facts.config):
            yield Problem("unsupported", self.name, f"this model cannot be exported: {why}.", fix)
        if machine.execution_provider not in PROVIDERS:
            yield Problem(
                "unsupported",
                self.name,
                f"no model can be built for '{machine.execution_provider}'.",
                f"Choose one of {', '.join(PROVIDERS)}.",
            )
        yield from self._check_precision(facts, machine)
        yield from self._check_window(facts)
        yield from self._check_block_size(facts)
        yield from self._check_runs_fast(machine)
        yield from self._check_mixed(facts, machine)
        if self._shares_embedding and not facts.as_decoder.tied_embeddings:
            message = (
                "shared_embeddings: true gives the head the embedding's weights, but this model has a head of its own"
            )
            key = ("extra_options", "shared_embeddings")
            yield Problem(
                "invalid-value", self.name, f"{message}.", "Remove it: what is one is shared without it.", key
            )

    def _check_precision(self, facts: ModelFacts, machine: Machine) -> Iterator[Problem]:
        """What the target's runtime does not compute, or computes without a part of the model."""
        provider, precision = machine.execution_provider, self.params.precision
        refusals = limits.precision_refusals(
            facts.architecture, facts.config, provider, precision, self._activations(provider)
        )
        for why, fix in refusals:
            yield Problem("unsupported", self.name, f"{why}.", fix, ("precision",))

    def _check_mixed(self, facts: ModelFacts, machine: Machine) -> Iterator[Problem]:
        """Goals of a choice that is not made, that exclude each other, or that no form can meet."""
        algo = self.params.int4_algo_config
        chooses = algo in ("mixed", "best") and self.params.precision == "int4"
        given = [key for key in ("mixed_divergence", "mixed_bits") if getattr(self.params, key) is not None]
        if given and not (self._is_mixed or (chooses and given == ["mixed_bits"])):
            by = "mixed" if given[0] == "mixed_divergence" else "mixed and best"
            message, fix = (
                f"{given[0]} is a goal of int4_algo_config {by}.",
                "Set int4_algo_config to mixed, or remove it.",
            )
            yield Problem("invalid-value", self.name, message, fix, (given[0],))
        elif len(given) > 1:
            message = "mixed_bits and mixed_divergence are two goals: the one asks for a size, the other finds it."
            yield Problem("invalid-value", self.name, message, "Remove one of them.", (given[1],))
        if not chooses:
            return
        if not self._streams(facts.config):
            message = f"int4_algo_config {algo} needs a graph that olivine quantizes: no experts, no use_qdq, and no "
            message += "options that the builder alone knows."
            yield Problem("unsupported", self.name, message, "Use search.", ("int4_algo_config",))
        least = self._bits_in_groups(self._widest_group(facts), machine)
        if self.params.mixed_divergence is None and self._mixed_bits(machine) < least:
            key = "mixed_bits" if given else "int4_block_size"
            message = (
                f"{self._mixed_bits(machine):g} bits a weight are asked for, and 4 bits in the widest groups of this "
            )
            message += f"model take {least:.3g}."
            yield Problem("invalid-value", self.name, message, f"Ask for {least + 0.005:.2f} or more.", (key,))

    def _widest_group(self, facts: ModelFacts) -> int:
        """The widest that divides the inputs of any layer."""
        widths = (facts.as_decoder.hidden_size, facts.as_decoder.intermediate_size)
        return max(
            (group for group in GROUPS_4 for width in widths if width and width % group == 0), default=GROUPS_4[-1]
        )

    def _bits_in_groups(self, group: int, machine: Machine) -> float:
        """Bits of a weight in 4 bits, with its share of a scale and a zero point."""
        return 4 + (8 * SCALE_BYTES + (0 if self._symmetric(machine) else 4)) / group

    def _activations(self, provider: str) -> str:
        """What the graph computes in: fp32, fp16 or bf16."""
        if not self._is_quantized:
            return self.params.precision
        options = builder_options.given(self.params.extra_options)
        if provider == CPU or (provider == "WebGpuExecutionProvider" and _is_yes(options.get("use_webgpu_fp32"))):
            return "fp32"
        return "bf16" if _is_yes(options.get("use_cuda_bf16")) else "fp16"

    def _check_window(self, facts: ModelFacts) -> Iterator[Problem]:
        """The runtime takes no cache that is shorter than the window which it is to hold."""
        if not _is_yes(self.params.extra_options.get("windowed_kv_cache")):
            return
        window = limits.windowed(facts.architecture, facts.config)
        context = facts.as_decoder.context_length or DEFAULT_MAX_LENGTH
        length = min(self._search().get("max_length", DEFAULT_MAX_LENGTH), context)
        if length < window:
            message = f"windowed_kv_cache keeps {window} tokens, and max_length is {length}."
            fix = f"Set max_length to {window} or more, or leave windowed_kv_cache out."
            yield Problem("invalid-value", self.name, message, fix, ("extra_options", "windowed_kv_cache"))

    @property
    def _shares_embedding(self) -> bool:
        return _is_yes(self.params.extra_options.get("shared_embeddings"))

    def _check_block_size(self, facts: ModelFacts) -> Iterator[Problem]:
        decoder = facts.as_decoder
        size = self.block_size
        if size is None:
            return
        for name, width in (("hidden_size", decoder.hidden_size), ("intermediate_size", decoder.intermediate_size)):
            if width % size:
                fitting = [str(other) for other in (16, 32, 64, 128, 256) if width % other == 0]
                yield Problem(
                    "invalid-value",
                    self.name,
                    f"int4_block_size {size} does not divide the model's {name} {width}.",
                    f"Use {' or '.join(fitting)}." if fitting else "Use precision fp16 or fp32.",
                    ("int4_block_size",),
                )

    def _check_runs_fast(self, machine: Machine) -> Iterator[Problem]:
        level = self.params.int4_accuracy_level
        in_8_bits = self.params.precision == "int8" or self.params.head_bits == EIGHT or self._int8_share > 0
        in_8_bits = in_8_bits or self.params.int4_algo_config in ("mixed", "best")
        if machine.execution_provider == CPU and level not in (None, 4) and in_8_bits and self._is_quantized:
            yield Problem(
                "invalid-value",
                self.name,
                f"weights in 8 bits run about 100 times slower on CPUs with int4_accuracy_level {level}.",
                "Leave it out, or set it to 4.",
                ("int4_accuracy_level",),
            )

    @property
    def _is_quantized(self) -> bool:
        return self.params.precision in ("int4", "int8")

    @property
    def block_size(self) -> int | None:
        """Weights that share a scale; None where they are floats."""
        return (self.params.int4_block_size or 32) if self._is_quantized else None

    @property
    def searches(self) -> bool:
        """Whether scales are searched, which takes calibration text."""
        algo = self.params.int4_algo_config
        return self.params.precision == "int4" and (
            algo in (None, "search", "mixed", "best") or str(algo).startswith("k_quant")
        )

    @property
    def _is_mixed(self) -> bool:
        return self.params.precision == "int4" and self.params.int4_algo_config == "mixed"

    @property
    def _head_bits(self) -> int | None:
        """Of the head where it differs from the other matrices."""
        algo = self.params.int4_algo_config or ""
        bits = self.params.head_bits or (8 if algo.endswith(("_last", "_mixed")) else 4)
        return bits if bits == EIGHT else None

    @property
    def _int8_share(self) -> float:
        mixed = self.params.int4_algo_config in ("k_quant_mixed", "k_quant_linear")
        return self.params.int8_share if self.params.int8_share is not None else (MIXED_SHARE if mixed else 0.0)

    @classmethod
    def inherited(cls, earlier: Sequence[Pass]) -> Mapping[str, Any]:
        """Calibrate with what was trained on, without the rows that were held out; keep in 8 bits what was picked."""
        from olivine.calibration import eight_bits

        picked: dict[str, Any] = {}
        selective = last_selection(earlier)
        if selective is not None:
            by_place = selective["algorithm"] in eight_bits.BY_PLACE
            mixed = by_place and selective["algorithm"] != "high_precision_lm_head"
            picked = {"head_bits": EIGHT} if by_place else {}
            picked["int8_share"] = eight_bits.share(selective) or (MIXED_SHARE if mixed else None)
        rows = last_training(earlier)
        return picked if rows is None else picked | rows.to_calibrate("calibration_data_config")

    def calibrates_on(self) -> CalibrationRows | None:
        """The rows of that data."""
        params = self.params
        if not self.data_names() or params.calibration_data_config is None:
            return None
        held_out, seed = params.calibration_held_out, params.calibration_seed
        is_short = params.calibration_may_be_short
        return CalibrationRows(params.calibration_data_config, "calibration_data_config", held_out, seed, is_short)

    def data_names(self) -> list[str]:
        """The calibration data, where there is some to weigh the inputs by."""
        name = self.params.calibration_data_config
        return [name] if name is not None and self.searches else []

    def files(self) -> list[Path]:
        """The text file that calibrates, where one does."""
        text = self.params.calibration_text
        named = self.searches and self.params.calibration_data_config is None and isinstance(text, Path)
        return [text] if named and isinstance(text, Path) else []

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """Frameworks, a tensor and its copy a worker; to calibrate, one layer and the activations of all tokens."""
        if facts.kind != "decoder":
            return self._speech_estimate(facts)
        decoder = facts.as_decoder
        embedding = decoder.embedding_size
        size = facts.n_parameters * BYTES_PER_WEIGHT[self.params.precision]
        if self._is_quantized and not decoder.tied_embeddings and self._embedding_bits(machine) is None:
            size += embedding * (4.0 - BYTES_PER_WEIGHT[self.params.precision])  # an embedding of its own stays float32
        memory = FRAMEWORKS + (12 * embedding if not self._is_quantized else 0)
        tried = min(size, max(PIECE_BYTES, embedding * BYTES_PER_WEIGHT[self.params.precision]))
        on_device = 0.0
        if not self._streams(facts.config):
            memory = FRAMEWORKS + BYTES_WHOLE * facts.n_parameters
        elif self.searches:
            memory = max(self._calibration_bytes(facts, machine), TRIAL + TRIED_SEARCHED * tried)
            if self._writes_own_text:
                from olivine.runtimes.own_text import own_text_bytes

                on_cpu = machine.device == "cpu"
                writes = own_text_bytes(facts, in_bf16=not on_cpu or machine.multiplies_bf16)
                memory = max(memory, FRAMEWORKS + (writes if on_cpu else 0))
                on_device = 0 if on_cpu else writes
        elif self._is_quantized:
            memory = max(memory, TRIAL + TRIED * tried)
        return Estimate(memory_bytes=int(memory), device_memory_bytes=int(on_device), disk_bytes=int(size))

    def _speech_estimate(self, facts: ModelFacts) -> Estimate:
        """Weights are streamed; then onnxruntime-genai opens the two graphs, and packs what it multiplies by."""
        tables = sum(facts.config.get(f"max_{part}_positions", 0) for part in ("source", "target"))
        floats = tables * facts.config.get("d_model", 0)  # places of sounds and tokens stay as they are
        width = BYTES_PER_WEIGHT[self.params.precision]
        size = facts.n_parameters * width + (4 - width) * floats
        tried = TRIED_SEARCHED if self.searches else TRIED
        return Estimate(memory_bytes=int(max(FRAMEWORKS, TRIAL + tried * size)), disk_bytes=int(size))

    def _calibration_bytes(self, facts: ModelFacts, machine: Machine) -> float:
        """One layer and what it computes for a batch, the activations of all tokens; fitted to what was measured.

        Measured with 1,024 tokens: 0.66, 0.99 and 1.03 GB for 74, 475 and 315 million weights.
        """
        decoder = facts.as_decoder
        in_bf16 = facts.n_parameters >= BF16_FROM and machine.multiplies_bf16
        width = 2 if in_bf16 else 4
        layer = width * (facts.n_parameters - decoder.embedding_size) / max(1, decoder.n_layers)
        n_tokens = self._n_tokens(facts.n_parameters)
        activations = 3 * width * n_tokens * decoder.hidden_size
        batch = 10 * width * min(n_tokens, BATCH_TOKENS["cpu"]) * decoder.intermediate_size
        needed = 0.54e9 + 4.5 * layer + activations + batch
        algo = self.params.int4_algo_config
        if algo in ("mixed", "best"):  # a backward pass, and logits of some words at a time
            needed += batch / 2 + 0.2e9
        if algo == "best":  # the model as it was beside it, X'X of four inputs, and the head whole with two copies
            widest = max(decoder.hidden_size, decoder.intermediate_size)
            needed += layer + activations + 20 * widest**2 + 12 * decoder.embedding_size
        return needed

    def notes(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[str]:  # noqa: ARG002
        """What is calibrated on where nobody says it, what own text costs, and a length that is cut."""
        params = self.params
        if facts.kind != "decoder":
            return
        if self.searches and self._streams(facts.config) and params.calibration_data_config is None:
            if self._writes_own_text:
                from olivine.runtimes.own_text import WRITTEN_TOKENS

                yield (
                    f"calibrates on {WRITTEN_TOKENS:,} tokens that the model writes itself, with the whole model in "
                    "memory; leave calibration_text out to avoid it"
                )
            elif params.calibration_text == GENERAL:
                yield (
                    "calibrates on general text that comes with olivine; rows like those that the model will see are "
                    "better: name them in calibration_data_config"
                )
        asked, context = self._search().get("max_length"), facts.as_decoder.context_length
        if asked is not None and 0 < context < asked:
            yield f"max_length {asked} is more than the {context} tokens that the model reads: {context} is written"

    @property
    def _writes_own_text(self) -> bool:
        return self.params.calibration_data_config is None and self.params.calibration_text == OWN

    def _n_tokens(self, n_parameters: int) -> int:
        return self.params.calibration_tokens or tokens_for(n_parameters)

    def claim(self) -> Mapping[str, Any]:
        """That the graph is the model: the options that shape it, and what keeps a part of it from being proven."""
        return {"asked": self.params.model_dump(mode="json", include={"precision", *PARTS, "metadata_only"})} | {
            "params": self._provable().model_dump(mode="json"),
            "options": sorted(self.params.extra_options),
        }

    def prove(self, model: Model, context: Context) -> Mapping[str, Any]:
        """See Pass: the same options in fp32 on the CPU, on a small random model."""
        from olivine.exporting import proving, speech_proof

        if self.params.metadata_only:
            return {"lengths": [], "largest_difference": 0.0, "unproven": list(self._unproven(context.machine))}
        config = proving.config_of(model)
        prove = speech_proof.prove if _speech.is_speech(config) else proving.prove
        proof = prove(config, Build(self._provable()).export, context)
        return {**proof, "unproven": [*self._unproven(context.machine), *proof["unproven"]]}

    def _provable(self) -> "Build.Params":
        """These params without what is a matter of numbers, and with the whole graph."""
        kept = {key: value for key, value in self.params.extra_options.items() if key in PROVEN_OPTIONS}
        return self.Params(precision="fp32", extra_options=kept)

    def _unproven(self, machine: Machine) -> Iterator[str]:
        """What of the asked for graph the proof leaves out, in a sentence each."""
        if self.params.metadata_only:
            yield "metadata_only makes no graph, so there is nothing to prove"
            return
        if machine.execution_provider != CPU:
            yield f"the graph is proven as it is made for the CPU, not for {machine.execution_provider}"
        elif self.params.precision in ("fp16", "bf16"):
            yield f"the graph is proven in fp32; in {self.params.precision} it has other operators on the CPU"
        for name, part in PARTS.items():
            if getattr(self.params, name):
                yield f"{name}: the graph is proven with its {part}, not without"
        if left := sorted(set(self.params.extra_options) - PROVEN_OPTIONS - UNSHAPING_OPTIONS):
            yield f"the graph is proven without extra_options {', '.join(left)}"

    def run(self, model: Model, context: Context) -> Model:
        """Write the folder; raises Unsupported when the builder does not know the model."""
        from olivine.exporting import delivered_template, delivered_tokenizer, speech_folder

        opened = Opened(model)
        try:
            built = self._export(opened, context)
        except NotFiniteError as error:
            raise explain(error, opened.weights) from error
        if _speech.is_speech(read_config(model.path)):
            speech_folder.complete(model.path, built.path)
            return built
        theirs = delivered_tokenizer.of_runtime(built.path, context.report)
        if theirs is not None:
            delivered_tokenizer.compare(opened.tokenizer, theirs, context.report)
            delivered_template.settle(opened.tokenizer, theirs, built.path, context.report)
        return built

    def export(self, model: Model, context: Context) -> Model:
        """The folder as it is made of any model, of the small one of the proof too."""
        return self._export(Opened(model), context)

    def _export(self, opened: Opened, context: Context) -> Model:
        from olivine.exporting import genai_graph

        model = opened.model
        provider = PROVIDERS.get(context.machine.execution_provider)
        if provider is None:
            raise Unsupported(f"no model can be built for '{context.machine.execution_provider}'")
        self._refuse(model, context.machine)
        genai_graph.prepare(model)
        config = read_config(model.path)
        streamed, reads_text = self._streams(config), not _speech.is_speech(config)
        calibrated = self._calibrated(opened, context) if streamed and self.searches and reads_text else None
        source = calibrated.folding.apply(opened.weights) if calibrated is not None else None
        settings = self._settings(context, calibrated) if streamed else None
        if settings is not None and not reads_text:
            settings = self._of_sounds(settings, opened, context.machine)
        if settings is not None and calibrated is not None and self._is_mixed:
            settings = replace(settings, mixed=self._goal(opened, calibrated, context))
        target = genai_graph.Target(self.params.precision, provider, self.options(streamed=streamed))
        progress = context.report.progress
        context.written.update(
            genai_graph.build(opened, context.output, context.scratch, target, settings, progress, source)
        )
        if not self.params.metadata_only and settings is None:
            genai_graph.refuse_broken_scales(context.output)
        genai_graph.complete_config(
            opened, context.output, self.params.max_length or DEFAULT_MAX_LENGTH, self._search()
        )
        context.report.record(
            streamed=settings is not None,
            size_bytes=sum(file.stat().st_size for file in context.output.rglob("*") if file.is_file()),
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

    def _refuse(self, model: Model, machine: Machine) -> None:
        """What `plan` refuses, of a model that it could not see: one from the hub, or that an earlier step made."""
        if not (model.path / "config.json").is_file():
            return
        for problem in self.check(read_facts(model.path), machine, {}):
            raise Unsupported(f"{problem.message} {problem.fix}".strip())

    def _settings(self, context: Context, calibrated: "_Calibrated | None") -> "Settings":
        """How the matrices are quantized."""
        from olivine.exporting import rounding

        on_cpu = context.machine.execution_provider == CPU
        return rounding.Settings(
            bits=4 if self.params.precision == "int4" else 8,
            group=self.params.int4_block_size or 32,
            symmetric=self._symmetric(context.machine),
            search=self.searches,
            importance=calibrated.folding.importances if calibrated is not None else None,
            given=calibrated.codes if calibrated is not None else None,
            head_bits=self._head_bits,
            embedding_bits=self._embedding_bits(context.machine),
            int8_share=self._int8_share,
            half_scales=self.searches and on_cpu,
            excluded=frozenset(_as_list(self.params.extra_options.get("nodes_to_exclude"))),
        )

    def _of_sounds(self, settings: "Settings", opened: Opened, machine: Machine) -> "Settings":
        """Every input counts the same; on CPUs the embedding, half of a small Whisper, is in 8 bits too."""
        importance = _alike(opened) if self.searches else None
        on_cpu = self._is_quantized and machine.execution_provider == CPU
        bits = self.params.embedding_bits or (8 if on_cpu else None)
        return replace(settings, importance=importance, embedding_bits=bits)

    def _symmetric(self, machine: Machine) -> bool:
        """Zero points cost nothing on CPUs; GPUs have their fastest kernels for weights without."""
        if self.params.int4_is_symmetric is not None:
            return self.params.int4_is_symmetric
        return not (self.searches and machine.execution_provider == CPU)

    def _embedding_bits(self, machine: Machine) -> int | None:
        """Of an embedding that is not tied: onnxruntime's CPU kernel reads quantized rows."""
        if self.params.embedding_bits is not None:
            return self.params.embedding_bits
        if "Gather" in (self.params.int4_op_types_to_quantize or ()):
            return 4
        return 8 if self.searches and machine.execution_provider == CPU else None

    def _streams(self, config: Mapping[str, Any]) -> bool:
        """False where only the builder's own code can do what is asked for; config: the content of config.json."""
        if (
            self.params.metadata_only
            or self.params.use_qdq
            or not set(builder_options.given(self.params.extra_options)) <= STREAMED_OPTIONS
        ):
            return False
        # experts are packed by the builder while it makes the graph
        return not any(config.get(key) for key in ("num_experts", "num_local_experts", "n_routed_experts"))

    def _calibrated(self, opened: Opened, context: Context) -> "_Calibrated | None":
        """The mean square of every input, from the user's rows, or from `calibration_text`.

        Strong inputs are also weakened where a norm or the layer before can make up for it (AWQ, Lin et al. 2023,
        arXiv:2306.00978). In a checkpoint whose layers are quantized already nothing is folded, as their codes are
        taken over; what it holds in floats is weighed by what reaches it through them, and the head is rounded by GPTQ.
        None when it holds no such floats.
        """
        from olivine.calibration.folding import Folding, find_folds
        from olivine.calibration.importances import importances
        from olivine.calibration.refined import refined
        from olivine.calibration.tokens import TooFewTokens
        from olivine.kernels.blockwise import Format

        model, own = opened.model, opened.weights
        taken_over = any(tensor.blockwise and ".layers." in name for name, tensor in own.items())
        if taken_over and not self._left_to_search(opened):
            return None
        data = context.data.get(self.params.calibration_data_config or "")
        try:
            source, tokens = self._tokens(opened, context, data)
        except TooFewTokens as error:
            if data is None or not self.params.calibration_may_be_short:
                raise
            data = None
            source, tokens = self._tokens(opened, context, data)
            context.report.warn(f"calibrated with {source}: {error.counted}")
        context.report.record(calibration={"tokens": tokens.numel(), "source": source})
        if taken_over:
            device, report = context.machine.device, context.report
            measured = importances(model, tokens, device=device, report=report, source=own, head="full")
            return _Calibrated(tokens, Folding({}, measured))
        fmt, device = Format(4, self.block_size or 32, self._symmetric(context.machine)), context.machine.device
        if self.params.int4_algo_config == "best":
            codes = refined(
                model,
                tokens,
                context.scratch / "codes",
                bits=self._mixed_bits(context.machine),
                symmetric=fmt.symmetric,
                head=not self.params.exclude_lm_head and self._head_bits is None,
                device=device,
                report=context.report,
                source=own,
            )
            return _Calibrated(tokens, Folding({}, {}), codes)
        folding = find_folds(model, tokens, fmt, device=device, report=context.report, source=own)
        return _Calibrated(tokens, folding)

    def _goal(self, opened: Opened, calibrated: "_Calibrated", context: Context) -> "Goal":
        """What `mixed` is held to, with what it predicts by."""
        from olivine.calibration.sensitivity import sensitivity
        from olivine.exporting.mixed import Goal

        report, source = context.report, calibrated.folding.apply(opened.weights)
        known = sensitivity(
            opened.model,
            calibrated.tokens,
            context.scratch,
            device=context.machine.device,
            report=report,
            source=source,
        )
        bits, divergence = self._mixed_bits(context.machine), self.params.mixed_divergence
        return Goal(known, bits, divergence, lambda facts: report.record(mixed=facts))

    def _mixed_bits(self, machine: Machine) -> float:
        """Bits a weight that are asked for; by default those that `search` takes in its groups."""
        return self.params.mixed_bits or self._bits_in_groups(self.block_size or 32, machine)

    def _left_to_search(self, opened: Opened) -> bool:
        """Whether a checkpoint with quantized layers holds floats whose scales are searched: of a head, of a layer."""
        from olivine.calibration.decoder import HEAD, linear_weights

        stored = opened.weights
        names = linear_weights(opened.model, head=not self.params.exclude_lm_head and self._head_bits is None)
        if HEAD in names and HEAD not in stored:  # the head is the embedding
            tied = [name for name in stored if name.endswith("embed_tokens.weight")]
            names = {name: 0 for name in (*names, *tied) if name != HEAD}
        return any(name in stored and stored[name].blockwise is None for name in names)

    def _tokens(self, opened: Opened, context: Context, data: DataConfig | None) -> tuple[str, Any]:
        """Tokens to calibrate with, and whose text they are, in words."""
        from olivine.runtimes.own_text import calibration_tokens

        n_parameters = sum(math.prod(tensor.shape) for tensor in opened.weights.values())
        source = f"data config '{data.name}'" if data is not None else in_words(self.params.calibration_text)
        return source, calibration_tokens(
            opened.model,
            opened=opened,
            data=data,
            text=self.params.calibration_text,
            held_out=self.params.calibration_held_out if data is not None else None,
            n_tokens=self._n_tokens(n_parameters),
            seed=self.params.calibration_seed,
            device=context.machine.device,
        )

    def ensures(self, model: Model) -> None:
        """The folder is complete, and onnxruntime-genai runs it as it is delivered where its provider is here."""
        from olivine.exporting import genai_graph, speech_folder, trial

        if not self.params.metadata_only and hears(model.path):
            provider = model.attributes["execution_provider"]
            for graph in speech_folder.graphs_of(model.path):
                genai_graph.refuse_slow_forms(graph, provider)
            speech_folder.check_transcribes(model.path, provider)
        elif not self.params.metadata_only:
            graph, provider = genai_graph.check_folder(model.path), model.attributes["execution_provider"]
            genai_graph.refuse_slow_forms(graph, provider)
            if not (self.params.exclude_embeds or self.params.exclude_lm_head):
                trial.check_generates(model.path, graph, provider)

    def options(self, *, streamed: bool) -> dict[str, str]:
        """What the builder is told, as its KEY=VALUE options; where we quantize, how is not its business."""
        given: dict[str, Any] = {
            "block_size": self.params.int4_block_size,
            "accuracy_level": self.params.int4_accuracy_level,
            "exclude_embeds": self.params.exclude_embeds or None,
            "exclude_lm_head": self.params.exclude_lm_head or None,
            "enable_cuda_graph": self.params.enable_cuda_graph or None,
            "use_qdq": self.params.use_qdq or None,
            "config_only": self.params.metadata_only or None,
            "windowed_kv_cache": False,
        }
        if not streamed:
            algo = self.params.int4_algo_config
            given |= {
                "algo_config": "k_quant" if algo == "search" else algo,
                "op_types_to_quantize": "/".join(self.params.int4_op_types_to_quantize or ()) or None,
                "is_symmetric": self.params.int4_is_symmetric,
            }
        options = {key: _text(value) for key, value in given.items() if value is not None}
        return options | {key: _text(value) for key, value in builder_options.given(self.params.extra_options).items()}

    def _search(self) -> dict[str, Any]:
        search = dict(self.params.search)
        if self.params.max_length is not None:
            search["max_length"] = self.params.max_length
        return search


@dataclass(frozen=True)
class _Calibrated:
    """The tokens that were calibrated with, int64 [n_rows, length], and what they say of scales, or of codes."""

    tokens: Any
    folding: "Folding"
    codes: "Quantized | None" = None


def _alike(opened: Opened) -> dict[str, Any]:
    """An importance of one for every input of every matrix: the search then has the least error of the weights."""
    import torch

    shapes = {name: tensor.shape for name, tensor in opened.weights.items() if len(tensor.shape) == 2}
    ones = {name: torch.ones(shape[1]) for name, shape in shapes.items()}
    head = next(one for name, one in ones.items() if name.endswith("decoder.embed_tokens.weight"))
    return {**ones, "lm_head.weight": head}  # a tied head's name


def _as_list(value: Any) -> list[str]:
    """The builder's lists: names with commas between them, or a list."""
    if value is None:
        return []
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)


def _is_yes(value: Any) -> bool:
    """Whether an option of the builder is on."""
    return value is not None and _text(value).lower() in ("true", "1")


def _text(value: Any) -> str:
    """A value as the builder reads it from a command line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)

"""QuaRot: turn a model so that outliers are spread over all channels (Ashkboos et al. 2024, arXiv:2404.00456)."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from olivine.config.schema import DataConfig
from olivine.errors import ModelError, Problem, Unsupported
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.inspect import read_config
from olivine.passes._base import Pass, PassParams
from olivine.passes.quantize._params import FRAMEWORK_BYTES
from olivine.work import Context, Estimate, Machine

if TYPE_CHECKING:
    from olivine.calibration.rotating import Turned

# Modules of a decoder layer that a rotation goes through.
KNOWN = (
    *("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj"),
    *("input_layernorm", "post_attention_layernorm", "q_norm", "k_norm", "rotary_emb"),
)
TOLERANCE = 1e-3  # of logits in float32, as a share of their largest


class Quarot(Pass):
    """Turn a model by orthogonal matrices, which spreads outliers over all channels; it computes what it did.

    1. The residual stream is turned by one matrix, the values of each head by another; norms before them go into what
    reads them. Weights in 4 bits lose less then; nothing is computed at run time. 2. A head that is the embedding
    becomes one of its own. 3. Whether that leaves the model's architecture as it was is tried on a small random one
    first; one with norms after its blocks (Gemma 2, OLMo 2), or that subtract a mean, is refused. 4. A quantizing pass
    comes after it.
    """

    class Params(PassParams):
        """Names are those of Olive's QuaRot."""

        rotate_mode: Literal["hadamard", "random"] = Field(
            "hadamard", description="entries of one size with random signs, or a random orthogonal matrix"
        )
        seed: int = Field(0, description="of the signs, or of the matrix")

    aliases: ClassVar[tuple[str, ...]] = ("QuaRot",)
    example: ClassVar[Mapping[str, Any]] = {"rotate_mode": "hadamard"}
    accepts: ClassVar[frozenset[str]] = frozenset({"hf"})
    produces: ClassVar[str] = "hf"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    works_with: ClassVar[tuple[str, ...]] = ("torch",)
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """A quantized model's codes belong to the channels that it has."""
        if facts.config.get("quantization_config"):
            message = "a quantized model is not turned: its codes belong to the channels that it has."
            yield Problem("unsupported", self.name, message, "Put this pass before the one that quantizes.")
        modules = (name.rpartition(".")[0] for name in facts.shapes if ".layers." in name)
        unknown = next((name for name in modules if name.rpartition(".")[2] not in KNOWN), None)
        if unknown is not None:
            message = f"a model with '{unknown}' cannot be turned."
            yield Problem("unsupported", self.name, message, "Leave it out; AutoAWQQuantizer scales what matters.")

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """The largest tensor a few times; the model in its own type on the disk."""
        decoder = facts.as_decoder
        size = facts.n_parameters + (decoder.embedding_size if decoder.tied_embeddings else 0)
        largest = max(decoder.embedding_size * facts.bytes_per_weight, 3 * 4 * decoder.hidden_size**2 * 4)
        return Estimate(
            memory_bytes=int(FRAMEWORK_BYTES + 3 * largest), disk_bytes=int(size * max(2, facts.bytes_per_weight))
        )

    def forecast(self, facts: ModelFacts) -> ModelFacts:
        """The head stands on its own."""
        decoder = facts.as_decoder
        if not decoder.tied_embeddings:
            return facts
        n_parameters = facts.n_parameters + decoder.embedding_size
        return replace(facts, decoder=replace(decoder, tied_embeddings=False), n_parameters=n_parameters)

    def run(self, model: Model, context: Context) -> Model:
        """Try it on a small model of the same config, and write the turned checkpoint tensor by tensor."""
        from olivine.models.materialize import copy_companions, write_weights
        from olivine.models.weights import weights

        source = weights(model)
        if any(tensor.blockwise is not None for tensor in source.values()):
            raise Unsupported("a quantized model is not turned: put QuaRot before the pass that quantizes")
        turned = self._turned(model, source)
        difference = self._tried(model, context)
        copy_companions(model.path, context.output)
        _untie(context.output)
        write_weights(list(turned.weights().values()), context.output)
        context.report.record(
            n_turned=turned.n_changed,
            largest_difference=difference,
            summary=f"{turned.n_changed} tensors turned ({self.params.rotate_mode})",
        )
        return Model("hf", context.output, task=model.task, trust_remote_code=model.trust_remote_code)

    def _turned(self, model: Model, source: Any) -> "Turned":
        from olivine.calibration.rotating import Turned
        from olivine.kernels.rotation import rotations
        from olivine.models.config import load_config

        config = load_config(model.path, trust_remote_code=model.trust_remote_code)
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return Turned(model, source, *rotations(config.hidden_size, head, self.params.rotate_mode, self.params.seed))

    def _tried(self, model: Model, context: Context) -> float:
        """How far logits of a small random model of this config are from those of it turned, as a share of them.

        Raises ModelError where that is more than rounding.
        """
        import torch

        from olivine.exporting.proving import small_model
        from olivine.models.weights import weights

        made = small_model(read_config(model.path), context.scratch / "small")
        if isinstance(made, str):
            raise ModelError(f"whether this model can be turned could not be tried: {made}")
        folder, module = made
        small = Model("hf", folder)
        tokens = torch.arange(8, 72)[None] % module.config.vocab_size
        with torch.inference_mode():
            before = module(tokens, use_cache=False).logits
        module.config.tie_word_embeddings = False
        turned = {name: tensor.read().float() for name, tensor in self._turned(small, weights(small)).weights().items()}
        head = module.get_output_embeddings()
        head.weight = torch.nn.Parameter(torch.empty_like(head.weight))
        missing, unexpected = module.load_state_dict(turned, strict=False)
        if missing or unexpected:
            raise ModelError(
                f"a model of this architecture has other tensors: {', '.join([*missing, *unexpected][:3])}"
            )
        with torch.inference_mode():
            after = module(tokens, use_cache=False).logits
        share = float((after - before).abs().max() / before.abs().max())
        if not share <= TOLERANCE:
            raise ModelError(
                f"a model of this architecture gives something else when it is turned (logits differ by {share:.2g} of "
                "their size): leave QuaRot out"
            )
        return share


def _untie(folder: Any) -> None:
    """The config of a model whose head is a matrix of its own."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tie_word_embeddings"] = False
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

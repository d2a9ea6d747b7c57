"""LoRA: train a small low-rank update of the weights (Hu et al. 2021, arXiv:2106.09685)."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.errors import Problem
from olivine.kernels.chunk_sizes import HIGHEST_FUSED_RANK
from olivine.models import Model
from olivine.models.adapter_files import BASE_FILE, ROUNDING
from olivine.models.facts import ModelFacts
from olivine.models.nf4 import Rounding
from olivine.passes._base import TrainingRows
from olivine.passes.finetune import _adapters, _checks
from olivine.passes.finetune._params import AdapterParams
from olivine.passes.finetune._training import Training
from olivine.training import adapter_starts, memory, training_arguments
from olivine.training.learning_rates import LoraPlus
from olivine.training.optimizers import OWN_GROUPS
from olivine.training.precision import choose_dtype
from olivine.work import Context, Estimate, Machine

if TYPE_CHECKING:
    from olivine.passes.finetune import _session
else:
    _session = lazy.module("olivine.passes.finetune._session")

FP8_FROM = 8.9  # compute capability of the first GPUs that multiply 8-bit floats: Ada Lovelace


class Lora(Training):
    """Fine-tune with LoRA: the base stays as it is, a low-rank update of its linear layers is trained.

    1. Rows become samples as the data config says; with `eval_dataset_size` some rows are held out before anything is
    packed. 2. All linear layers of the decoder are trained unless `target_modules` names some. 3. The base is held in
    bfloat16 where the processor computes in it and the model is large enough to gain, else in float32; the adapter
    always trains in float32. 4. An interrupted training goes on from its last checkpoint and ends with the same
    adapter. 5. The result is a PEFT adapter of the base as it lies on disk, wherever it started (`init_lora_weights`).
    """

    class Params(AdapterParams):
        """Names are those of Olive's LoRA pass and of PEFT."""

        lora_dropout: float = Field(0.0, ge=0, lt=1, description="share of the update's inputs dropped while training")
        bias: Literal["none", "all", "lora_only"] = Field("none", description="which biases of the base are trained")
        use_rslora: bool = Field(False, description="scale by alpha / sqrt(r), so that high ranks keep learning")
        use_dora: bool = Field(False, description="train the magnitude of each output as well (DoRA)")
        init_lora_weights: bool | str = Field(
            True,
            description="where to start: true from no change; pissa (or pissa_niter_16, faster) from the largest "
            "singular directions of each weight; loftq, on a base in 4 bits, from what the rounding lost; gaussian, "
            "orthogonal",
        )
        base_precision: Literal["auto", "fp8"] = Field(
            "auto",
            description="what the base multiplies in: torch_dtype's, or 8-bit floats in both directions (NVIDIA's "
            "compute capability 8.9 or later)",
        )
        loraplus_lr_ratio: float | None = Field(
            None, ge=1, description="LoRA+: learning rate of B over that of A; 16 is usual, with half of LoRA's own"
        )
        loraplus_lr_embedding: float = Field(
            1e-6, ge=0, description="LoRA+: learning rate of the embedding's adapter, where it has one"
        )

    aliases: ClassVar[tuple[str, ...]] = ("LoRA",)
    example: ClassVar[Mapping[str, Any]] = {
        "r": 16,
        "alpha": 32,
        "train_data_config": "rows",
        "eval_dataset_size": 0.2,
        "training_args": {"num_train_epochs": 3, "learning_rate": 2e-4},
    }
    is_usual_way: ClassVar[bool] = True
    version: ClassVar[int] = 2
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """training_args by name and type, target modules against the model, and methods that exclude others."""
        yield from _checks.check_adapter(self.params, facts, machine, self.name)
        yield from self._check_start()
        if self.params.base_precision == "fp8":
            yield from self._check_fp8(machine)
        if self.params.use_dora and self.params.sharding != "none":
            message = "with sharding, 'use_dora' cannot see the whole rows whose length it trains."
            yield Problem("unsupported", self.name, message, "Remove one of the two.", ("use_dora",))
        optimizer = training_arguments.today(self.params.training_args).get("optim")
        if self.params.loraplus_lr_ratio is not None and optimizer in OWN_GROUPS:
            message = f"loraplus_lr_ratio sets learning rates that training_args.optim '{optimizer}' does not take."
            fix = "Use adamw_torch, or remove one of the two."
            yield Problem("unsupported", self.name, message, fix, ("loraplus_lr_ratio",))

    def _check_fp8(self, machine: Machine) -> Iterator[Problem]:
        """The GPU must multiply 8-bit floats; what looks at the base as it lies on disk goes without them."""
        key = ("base_precision",)
        if machine.device != "cuda":
            message = "base_precision 'fp8' multiplies on an NVIDIA GPU, and this step runs on the processor."
            yield Problem("unsupported", self.name, message, "Remove it, or choose a host with a GPU.", key)
        elif 0 < machine.compute_capability < FP8_FROM:
            message = f"base_precision 'fp8' needs compute capability {FP8_FROM}; this GPU has "
            message += f"{machine.compute_capability}."
            yield Problem("unsupported", self.name, message, "Remove it, or use QLoRA to save memory.", key)
        for name, is_used in (
            ("sharding", self.params.sharding != "none"),
            ("use_dora", self.params.use_dora),
            ("init_lora_weights", adapter_starts.changes_base(self.params.init_lora_weights)),
        ):
            if is_used:
                message = f"base_precision 'fp8' does not go with {name}, which looks at the base as it lies on disk."
                yield Problem("unsupported", self.name, message, "Remove one of the two.", (name,))

    def _check_start(self) -> Iterator[Problem]:
        start = self.params.init_lora_weights
        if not adapter_starts.is_known(start):
            message = f"init_lora_weights has no '{start}'."
            fix = f"There are: true, false, {', '.join(adapter_starts.NAMES)}."
            yield Problem("invalid-value", self.name, message, fix, ("init_lora_weights",))
        elif start == "loftq" and self._rounding is None:
            message = "init_lora_weights 'loftq' makes up for a base in 4 bits, and this one is not rounded."
            fix = "Use the pass LoftQ or QLoRA, or 'pissa'."
            yield Problem("invalid-value", self.name, message, fix, ("init_lora_weights",))

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:
        """Weights, adapter with its gradients and both moments, activations and logits of one micro-batch."""
        dora = self.params.use_dora
        fused, saved = self._fuses(facts), 0
        if self.params.base_precision == "fp8" and machine.device == "cuda":
            saved = facts.n_in_layers  # a byte of two
        return _adapters.estimate(
            self.params,
            facts,
            machine,
            data,
            saved_bytes=saved,
            writes_update=dora,
            scales_outputs=dora,
            fused=fused,
        )

    def trains_on(self) -> TrainingRows:
        """The rows that the params name, and whether the base is rounded."""
        return replace(super().trains_on(), base_is_rounded=self._rounding is not None)

    def _fuses(self, facts: ModelFacts) -> bool:
        """Whether a GPU runs this adapter's layers in their fused form, as far as the config tells."""
        params = self.params
        plain = not (params.use_dora or params.lora_dropout or params.bias != "none")
        return plain and params.r <= HIGHEST_FUSED_RANK and memory.has_fused_layers(facts)

    def run(self, model: Model, context: Context) -> Model:
        """Train and save the adapter beside the tokenizer it was trained with."""
        return _session.run(self, self.params, model, context, self._ready)

    def _ready(self, model: Model, context: Context) -> "_session.Ready":
        from olivine.training.setup import Settings

        dtype = self._dtype(model, context.machine)
        starts = self._start_of(context)
        base = _adapters.load_base(self.params, model, context, dtype, self._stored_layer(starts))
        adapted = _adapters.put_on(base, self._config(base))
        if starts is not None:
            starts.put(adapted)
            if not context.rank:
                starts.keep()
        adapted = _adapters.make_ready(adapted, self.params, context, dtype)
        ratio = self.params.loraplus_lr_ratio
        settings = Settings(
            **_session.base_settings(self.params, context),
            sharded=_adapters.is_sharded(self.params, context),
            loraplus=LoraPlus(ratio, self.params.loraplus_lr_embedding) if ratio is not None else None,
        )

        def save(tokenizer: Any) -> None:
            _adapters.save(adapted, tokenizer, context)
            if starts is not None:
                starts.finish(context.output)
            self._save_more(context)

        return _session.Ready(adapted, _adapters.result(model, context, self._attributes()), save, settings)

    def _start_of(self, context: Context) -> adapter_starts.Starts | None:
        """Where the adapter starts, when that is not at zero."""
        params = self.params
        if not adapter_starts.changes_base(params.init_lora_weights):
            return None
        return adapter_starts.Starts(
            name=str(params.init_lora_weights),
            rank=params.r,
            scaling=params.alpha / (math.sqrt(params.r) if params.use_rslora else params.r),
            rounding=self._rounding,
            n_iterations=self._n_iterations,
            is_trained=lambda name: _adapters.is_trained(params, name),
            kept=context.scratch / "start.safetensors",
        )

    @property
    def _rounding(self) -> Rounding | None:
        """How the base is stored while it trains; None for as it is."""
        return Rounding("fp8", double=False) if self.params.base_precision == "fp8" else None

    @property
    def _n_iterations(self) -> int:
        """Turns of rounding and decomposing that LoftQ takes."""
        return 1

    def _stored_layer(self, starts: adapter_starts.Starts | None = None) -> Callable[[str, Any], None] | None:
        """What is done to every decoder layer of the base as soon as it is loaded."""
        if self.params.base_precision == "fp8":
            from olivine.kernels.linear8bit import round_layer

            def to_eight_bits(_: str, layer: Any) -> None:
                round_layer(layer)

            return to_eight_bits
        if starts is None:
            return None

        def take_away(name: str, layer: Any) -> None:
            for inner, shift in starts.take(name, layer).items():
                weight = layer.get_submodule(inner).weight
                weight.data = (weight.data.float() - shift).to(weight.dtype)

        return take_away

    def _attributes(self) -> Mapping[str, Any]:
        """What later steps need to know of how the adapter was trained."""
        return {} if self._rounding is None else {ROUNDING: self._rounding.to_json()}

    def _save_more(self, context: Context) -> None:
        """What lies beside PEFT's files: the rounding of the base, for those who have the folder alone."""
        if self._rounding is not None:
            text = json.dumps(self._rounding.to_json()) + "\n"
            (context.output / BASE_FILE).write_text(text, encoding="utf-8")

    def _config(self, base: Any) -> Any:
        from peft import LoraConfig

        start = self.params.init_lora_weights
        return LoraConfig(
            r=self.params.r,
            lora_alpha=self.params.alpha,  # type: ignore[arg-type] # PEFT computes with any number
            lora_dropout=self.params.lora_dropout,
            bias=self.params.bias,
            use_rslora=self.params.use_rslora,
            use_dora=self.params.use_dora,
            init_lora_weights=True if adapter_starts.changes_base(start) else start,  # type: ignore[arg-type] # names of PEFT
            **_adapters.trained_modules(self.params, base),
        )

    def _dtype(self, model: Model, machine: Machine) -> str:
        return choose_dtype(self.params.torch_dtype, model, machine)

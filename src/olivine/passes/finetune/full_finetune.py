"""FullFinetune: train every weight of a small model."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.errors import Problem, RequestError
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.loading import load_causal_lm, tied_names
from olivine.models.materialize import copy_companions, write_weights
from olivine.models.tensors import LazyTensor
from olivine.models.turns import name_end_tokens
from olivine.passes.finetune import _checks
from olivine.passes.finetune._params import TrainingParams
from olivine.passes.finetune._training import Training
from olivine.training import memory, training_arguments
from olivine.training.optimizers import OWN_GROUPS, SCHEDULE_FREE
from olivine.training.precision import choose_dtype
from olivine.work import Context, Estimate, Machine

if TYPE_CHECKING:
    import torch

    from olivine.passes.finetune import _session
else:
    _session = lazy.module("olivine.passes.finetune._session")
    torch = lazy.module("torch")


class FullFinetune(Training):
    """Fine-tune every weight of the model: embeddings, norms and head included.

    1. Where the model computes in bfloat16, the optimizer works on float32 copies: no update is rounded away. 2. A tied
    head stays tied. 3. Every weight takes 16 bytes (itself, its gradient and two moments; 18 with a copy), which `plan`
    counts; a model that cannot fit is refused. 4. Several devices hold it as replicas. 5. An interrupted training goes
    on from its last checkpoint. 6. The result is a Hugging Face folder in the type that it was trained in; there is
    nothing to merge.
    """

    class Params(TrainingParams):
        """What every training takes, without the types that whole weights cannot be trained in."""

        torch_dtype: Literal["auto", "float32", "bfloat16"] = Field(  # without float16: it needs scaled losses
            "auto", description="what is computed in; the optimizer always works in float32"
        )

    aliases: ClassVar[tuple[str, ...]] = ("FullFinetune",)
    example: ClassVar[Mapping[str, Any]] = {
        "train_data_config": "rows",
        "eval_dataset_size": 0.2,
        "training_args": {"num_train_epochs": 1, "learning_rate": 1e-5},
    }
    produces: ClassVar[str] = "hf"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "accelerate")
    # A learning rate that an adapter needs ruins a whole model; its checkpoints are three times the model each.
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({"learning_rate": 2e-5, "save_steps": 0.25})
    works_with: ClassVar[tuple[str, ...]] = ("datasets", "olivine.training.trainer")
    when_too_large: ClassVar[str] = "Use LoRA, which trains a small part of the weights, or a larger machine."
    params: Params

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """training_args by name and type, and what works in 16 bits alone."""
        yield from _checks.check_training(self.params, machine, self.name, self.defaults)
        arguments = training_arguments.today(self.params.training_args)
        if arguments.get("fp16") is True and machine.device != "cpu":
            message = "training_args.fp16 is for adapters: updates of whole weights are lost in 16 bits."
            fix = "Remove it; torch_dtype: bfloat16 keeps float32 copies."
            yield Problem("unsupported", self.name, message, fix, ("training_args", "fp16"))
        if (optimizer := arguments.get("optim")) in OWN_GROUPS | SCHEDULE_FREE:
            message = f"training_args.optim '{optimizer}' works on the weights themselves, not on float32 copies."
            yield Problem(
                "unsupported", self.name, message, "Use adamw_torch or adafactor.", ("training_args", "optim")
            )

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:
        """16 or 18 bytes a weight, and the micro-batch that training falls back to where memory is short."""
        n = facts.n_parameters
        size = 2 if machine.device == "cuda" else 4
        shape = memory.Shape.of_facts(facts, n, size, machine.device)
        shape = replace(shape, weight_bytes=n * (_bytes_per_weight(size) - memory.BYTES_PER_TRAINED_WEIGHT))
        rows = -(-training_arguments.rows_per_step(self.params.training_args) // machine.n_processes)
        n_words = facts.as_decoder.vocab_size
        longest, n_tokens = memory.tokens_of(data.get(self.params.train_data_config), rows, n_words)
        # two checkpoints and the one that is being written, each with the moments (and the copies in float32)
        disk_bytes = n * size + 3 * n * (12 if size == 4 else 14) + 20e6
        estimate = memory.estimate(shape, machine, longest, n_tokens, disk_bytes)
        if machine.device == "cuda":  # the weights on their way to the GPU, and back from it
            more = max(0, 2 * size * n - shape.weight_bytes)
            estimate = replace(estimate, memory_bytes=estimate.memory_bytes + more)
        return estimate

    def run(self, model: Model, context: Context) -> Model:
        """Train and save the model beside the tokenizer it was trained with."""
        return _session.run(self, self.params, model, context, self._ready, self.defaults)

    def _ready(self, model: Model, context: Context) -> "_session.Ready":
        from olivine.training.setup import Settings

        dtype = choose_dtype(self.params.torch_dtype, model, context.machine)
        module = load_causal_lm(model, dtype=dtype, device=context.machine.device)
        module.requires_grad_(True)
        n_trained = sum(parameter.numel() for parameter in module.parameters())
        _refuse_too_large(n_trained, module)
        context.report.record(n_trained_parameters=n_trained, n_parameters=n_trained, trained_share=1.0, dtype=dtype)
        settings = Settings(**_session.base_settings(self.params, context), master_weights=dtype != "float32")

        def save(tokenizer: Any) -> None:
            _save(module, model, tokenizer, context)

        result = Model("hf", context.output, task=model.task, trust_remote_code=model.trust_remote_code)
        return _session.Ready(module.train(), result, save, settings)


def _bytes_per_weight(size: int) -> int:
    """Of a weight of so many bytes with all that its training needs."""
    return memory.BYTES_PER_TRAINED_WEIGHT if size == 4 else memory.BYTES_WITH_MASTER


def _refuse_too_large(n_trained: int, module: Any) -> None:
    """Raise RequestError when a GPU has no room for what the optimizer will hold, before the first step finds out."""
    if module.device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info()
    there = free + torch.cuda.memory_reserved()
    needed = n_trained * _bytes_per_weight(module.dtype.itemsize)
    if needed > there:
        raise RequestError(
            f"training all {n_trained:,} weights needs {needed / 1e9:.1f} GB, and this GPU has {there / 1e9:.1f} GB; "
            "use LoRA, which trains a small part of them"
        )


def _save(module: Any, source: Model, tokenizer: Any, context: Context) -> None:
    """A checkpoint as `source` is one: its config and code, the trained weights under the same names."""
    copy_companions(source.path, context.output)
    config = json.loads((context.output / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = str(module.dtype).removeprefix("torch.")
    (context.output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shared = tied_names(module)
    write_weights(
        [_lazy(name, tensor) for name, tensor in module.state_dict().items() if name not in shared], context.output
    )
    tokenizer.save_pretrained(context.output)
    name_end_tokens(tokenizer, context.output)


def _lazy(name: str, tensor: "torch.Tensor") -> LazyTensor:
    return LazyTensor(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.cpu)

"""What the adapters have in common: the base is loaded, PEFT puts the adapter on, and a PEFT folder comes out."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.errors import RequestError
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.passes.finetune._params import AdapterParams
from olivine.training import memory, sharding, target_modules, training_arguments
from olivine.training.precision import BF16_FROM
from olivine.work import Context, Estimate, Machine

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")


def load_base(
    params: AdapterParams, model: Model, context: Context, dtype: str, stored: Callable[[str, Any], None] | None = None
) -> Any:
    """The frozen base, on the device; sharded where that is asked for. stored: what is done to each of its layers.

    Raises RequestError for a name in the params that matches nothing.
    """
    from olivine.models.loading import load_causal_lm

    sharded = is_sharded(params, context)
    if context.machine.device == "cuda" and params.compile:
        from olivine.training import acceleration

        acceleration.warm_compiler()

    def each_layer(name: str, layer: Any) -> None:
        if stored is not None:
            stored(name, layer)
        if sharded:
            sharding.shard_layer(layer)

    on_layer = each_layer if stored is not None or sharded else None
    base = load_causal_lm(model, dtype=dtype, device=context.machine.device, each_layer=on_layer)
    _refuse_unmatched(params, base)
    if training_arguments.checkpoints_activations(params.training_args):
        base.enable_input_require_grads()
    return base


def is_sharded(params: AdapterParams, context: Context) -> bool:
    """Whether this process holds a part of the base."""
    return params.sharding == "fsdp" and context.rank is not None


def put_on(base: Any, config: Any) -> Any:
    """The base with the adapter of a PEFT config; RequestError with PEFT's words when it cannot be made."""
    from peft import get_peft_model

    try:
        return get_peft_model(base, config)
    except ValueError as error:
        raise RequestError(f"the adapter cannot be made: {' '.join(str(error).split())}") from error


def make_ready(adapted: Any, params: AdapterParams, context: Context, dtype: str) -> Any:
    """The adapted model in training mode, with what it trains on record."""
    n_trained, n_all = adapted.get_nb_trainable_parameters()
    n_all += sum(
        module.in_features * module.out_features for module in adapted.modules() if hasattr(module, "rounding")
    )
    if n_trained == 0:
        raise RequestError("nothing would be trained: no parameter of the model belongs to the adapter")
    if is_sharded(params, context):
        sharding.shard_rest(adapted)
    context.report.record(
        n_trained_parameters=n_trained, n_parameters=n_all, trained_share=n_trained / n_all, dtype=dtype
    )
    return adapted.train()


def trained_modules(params: AdapterParams, base: Any) -> dict[str, Any]:
    """The fields of a PEFT config that say which modules are trained."""
    targets = target_modules.as_list(params.target_modules)
    excluded = target_modules.as_list(params.exclude_modules) or ([] if targets else ["lm_head"])
    every = sorted({name.rpartition(".")[2] for name in _linear_names(base)})
    return {
        "target_modules": target_modules.for_peft(targets or every),
        "exclude_modules": target_modules.for_peft(excluded) or None,
        "modules_to_save": params.modules_to_save,
        "task_type": "CAUSAL_LM",
    }


def is_trained(params: AdapterParams, name: str) -> bool:
    """Whether the linear layer of that full name gets an adapter, as `trained_modules` says for all of them."""
    return target_modules.chooses(
        target_modules.as_list(params.target_modules),
        [*(target_modules.as_list(params.exclude_modules) or ()), *(params.modules_to_save or ())],
        name,
    )


def _linear_names(model: Any) -> list[str]:
    """Full names of every linear layer but the head, fused ones included."""
    head = model.get_output_embeddings()
    return [
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    ]


def _refuse_unmatched(params: AdapterParams, base: Any) -> None:
    """A name that matches nothing is a mistake in each of the three lists; PEFT passes over most of them."""
    every = [name for name, _ in base.named_modules() if name]
    kinds = (torch.nn.Linear, torch.nn.Embedding)
    trainable = [name for name, module in base.named_modules() if isinstance(module, kinds)]
    for key, patterns, names in (
        ("target_modules", target_modules.as_list(params.target_modules), trainable),
        ("exclude_modules", target_modules.as_list(params.exclude_modules), every),
        ("modules_to_save", params.modules_to_save, every),
    ):
        if missing := target_modules.unmatched(patterns or (), names):
            raise RequestError(target_modules.sentence(missing, names, key))


def save(adapted: Any, tokenizer: Any, context: Context) -> None:
    """PEFT's format, without the place where the base lay on this machine."""
    adapted.save_pretrained(context.output, save_embedding_layers=False)
    path = context.output / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    for key, value in config.items():
        if isinstance(value, list):  # PEFT keeps some as sets, whose order changes from process to process
            config[key] = sorted(value, key=str)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (context.output / "README.md").unlink(missing_ok=True)
    tokenizer.save_pretrained(context.output)


def result(model: Model, context: Context, attributes: Mapping[str, Any] | None = None) -> Model:
    """The record of an adapter of that model."""
    return Model(
        "adapter",
        context.output,
        base=model,
        task=model.task,
        trust_remote_code=model.trust_remote_code,
        attributes=attributes or {},
    )


def estimate(
    params: AdapterParams,
    facts: ModelFacts,
    machine: Machine,
    data: Mapping[str, DataConfig],
    *,
    saved_bytes: int = 0,
    factors: int = 2,
    writes_update: bool = False,
    scales_outputs: bool = False,
    fused: bool = False,
) -> Estimate:
    """Weights, adapter with its gradients and both moments, activations and logits of one micro-batch.

    On several devices: the GPU memory is that of each of them, the machine's memory that of all processes. saved_bytes:
    what the base takes less than its parameters in the type that is computed in. factors: how many matrices of the rank
    a layer has. writes_update, scales_outputs: how PEFT's own layers compute (LoHa, LoKr, DoRA), see `memory.Shape`.
    fused: whether a GPU runs the layers in their fused form, unless the params say otherwise.
    """
    decoder = facts.as_decoder
    n_processes = machine.n_processes
    targets = target_modules.as_list(params.target_modules)
    if targets is not None:  # a pattern may mean any of them
        targets = (
            None if any(map(target_modules.is_pattern, targets)) else [name.rpartition(".")[2] for name in targets]
        )
    n_adapter = params.r * memory.adapter_size(facts, targets) * factors // 2
    size = 2 if facts.n_parameters >= BF16_FROM and machine.device == "cuda" else 4
    arguments = params.training_args
    checkpointed = decoder.n_layers if training_arguments.checkpoints_activations(arguments) else 0
    shape = memory.Shape.of_facts(facts, n_adapter, size, machine.device)
    shape = replace(
        shape,
        checkpointed=checkpointed,
        compiled=machine.device == "cuda" and bool(params.compile) and not writes_update,
        update_bytes=4 * max(0, facts.n_parameters - 2 * decoder.embedding_size) if writes_update else 0,
        scales_outputs=scales_outputs,
        fused=fused and machine.device == "cuda" and bool(params.compile),
    )
    shape = replace(shape, weight_bytes=shape.weight_bytes - saved_bytes)
    if params.sharding == "fsdp":
        shape = replace(shape, weight_bytes=shape.weight_bytes // n_processes)
    rows = -(-training_arguments.rows_per_step(arguments) // n_processes)
    longest, n_tokens = memory.tokens_of(data.get(params.train_data_config), rows, decoder.vocab_size)
    estimate = memory.estimate(shape, machine, longest, n_tokens, n_adapter * 4 + 3 * n_adapter * 12 + 20e6)
    if machine.device == "cuda":  # the whole base on its way to the GPU
        more = max(0, facts.n_parameters * size - shape.weight_bytes)
        estimate = replace(estimate, memory_bytes=estimate.memory_bytes + more)
    return estimate

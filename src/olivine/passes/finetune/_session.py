"""A training from rows to result, whatever is trained: what the passes of this folder share of their `run`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.data import Prepared, SampleSet, prepare, split
from olivine.models import Model
from olivine.models.context import context_of
from olivine.models.loading import load_tokenizer
from olivine.passes._base import Pass
from olivine.passes.finetune import _launch
from olivine.passes.finetune._params import TrainingParams
from olivine.training import training_arguments
from olivine.work import Context

if TYPE_CHECKING:
    import torch

    from olivine.training.setup import Settings
else:
    torch = lazy.module("torch")


@dataclass(frozen=True)
class Ready:
    """A model that can be trained. save: fills the context's output with what was trained, given the tokenizer.

    result: the record of what that will be. settings: how it is trained, beside the training arguments.
    """

    module: Any
    result: Model
    save: Callable[[Any], None]
    settings: "Settings"


def run(
    step: Pass,
    params: TrainingParams,
    model: Model,
    context: Context,
    make: Callable[[Model, Context], Ready],
    defaults: Mapping[str, Any] | None = None,
) -> Model:
    """Train what `make` makes of the model, here or on all devices together, and save it beside its tokenizer.

    defaults: training arguments where the config is silent, over those of every training.
    """
    if context.machine.n_processes > 1 and context.rank is None:
        _samples(params, context, model, load_tokenizer(model))  # prepared once, found by every rank
        return _launch.run_on_all(step, model, context)
    return _train(params, model, context, make, defaults or {})


def _train(
    params: TrainingParams,
    model: Model,
    context: Context,
    make: Callable[[Model, Context], Ready],
    defaults: Mapping[str, Any],
) -> Model:
    """In this process: all of it, or the share of a rank."""
    from transformers import set_seed

    from olivine.training import trainer

    arguments = training_arguments.today(params.training_args)
    set_seed(int(arguments.get("seed", training_arguments.SEED)))
    tokenizer = load_tokenizer(model)
    train_set, held_out = _samples(params, context, model, tokenizer)
    _tell(train_set, held_out, arguments, context)
    args = trainer.arguments(
        {**defaults, **arguments},
        context.scratch / "checkpoints",
        on_cpu=context.machine.device == "cpu",
        has_eval=held_out is not None,
        early_stopping=params.early_stopping_patience is not None,
    )
    if context.machine.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = params.allow_tf32
    ready = make(model, context)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)
    history = trainer.train(ready.module, train_set, held_out, args, pad, context.report, ready.settings)
    _record(context, train_set, held_out, history)
    if not context.rank:
        ready.save(tokenizer)
    return ready.result


def base_settings(params: TrainingParams, context: Context) -> dict[str, Any]:
    """The fields of `setup.Settings` that follow from what every training takes."""
    return {
        "compile": params.compile,
        "fuse": "auto" if params.compile else False,
        "early_stopping_patience": params.early_stopping_patience,
        "rank": context.rank or 0,
        "world_size": 1 if context.rank is None else context.machine.n_processes,
        "n_here": 1 if context.rank is None else context.machine.n_devices,
        "memory_limit": context.machine.device_memory_bytes or context.machine.memory_bytes,
    }


def _tell(train_set: SampleSet, held_out: SampleSet | None, arguments: Mapping[str, Any], context: Context) -> None:
    """What became of the rows, and of an evaluation without any."""
    context.report.record(samples=train_set.summary())
    if train_set.statistics.n_truncated or train_set.statistics.n_dropped:
        context.report.warn(train_set.summary())
    if held_out is None and arguments.get("eval_strategy", "no") != "no":
        context.report.warn(
            f"eval_strategy '{arguments['eval_strategy']}' has no rows to evaluate on and is left out; "
            "set eval_dataset_size or eval_data_config"
        )


def _samples(
    params: TrainingParams, context: Context, model: Model, tokenizer: Any
) -> tuple[SampleSet, SampleSet | None]:
    """What is trained on, and what is held out; rows are split before they are packed."""
    rows = _prepared(context.data[params.train_data_config], context, model, tokenizer)
    if params.eval_data_config is not None:
        other = _prepared(context.data[params.eval_data_config], context, model, tokenizer)
        return rows.samples(), other.samples()
    if params.eval_dataset_size is None:
        return rows.samples(), None
    seed = training_arguments.split_seed(params.training_args)
    train, held_out = split(len(rows), params.eval_dataset_size, seed)
    return rows.samples(train), rows.samples(held_out)


def _prepared(config: DataConfig, context: Context, model: Model, tokenizer: Any) -> Prepared:
    """The tokens of the rows; they lie beside the scratch folders, so that other steps and runs find them too."""
    return prepare(config, tokenizer, context.scratch.parent, context.report.progress, context_of(model))


def _record(context: Context, train_set: SampleSet, held_out: SampleSet | None, history: list[dict[str, Any]]) -> None:
    context.report.record(
        data=train_set.statistics.to_json(),
        eval_data=held_out.statistics.to_json() if held_out else None,
        loss_curve=[[entry["step"], entry["loss"]] for entry in history if "loss" in entry],
        eval_curve=[[entry["step"], entry["eval_loss"]] for entry in history if "eval_loss" in entry],
    )

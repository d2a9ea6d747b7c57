"""transformers.TrainingArguments by name, known without importing it: today's fields and earlier names.

The table is tested against the installed release.
"""

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from olivine.errors import Problem
from olivine.training.optimizers import OPTIMIZERS

_INT, _FLOAT, _BOOL, _TEXT = (int,), (int, float), (bool,), (str,)
_DICT, _LIST, _NONE = (dict,), (list,), (type(None),)

# field -> the JSON types it takes
FIELDS: dict[str, tuple[type, ...]] = {
    "accelerator_config": (*_DICT, *_TEXT, *_NONE),
    "activation_checkpointing": (*_BOOL, *_NONE),
    "activation_checkpointing_kwargs": (*_DICT, *_TEXT, *_NONE),
    "adam_beta1": _FLOAT,
    "adam_beta2": _FLOAT,
    "adam_epsilon": _FLOAT,
    "auto_find_batch_size": _BOOL,
    "average_tokens_across_devices": _BOOL,
    "batch_eval_metrics": _BOOL,
    "bf16": _BOOL,
    "bf16_full_eval": _BOOL,
    "data_seed": (*_INT, *_NONE),
    "dataloader_drop_last": _BOOL,
    "dataloader_in_order": _BOOL,
    "dataloader_multiprocessing_context": (*_TEXT, *_NONE),
    "dataloader_num_workers": _INT,
    "dataloader_persistent_workers": _BOOL,
    "dataloader_pin_memory": _BOOL,
    "dataloader_prefetch_factor": (*_INT, *_NONE),
    "ddp_backend": (*_TEXT, *_NONE),
    "ddp_broadcast_buffers": (*_BOOL, *_NONE),
    "ddp_bucket_cap_mb": (*_INT, *_NONE),
    "ddp_find_unused_parameters": (*_BOOL, *_NONE),
    "ddp_static_graph": (*_BOOL, *_NONE),
    "ddp_timeout": _INT,
    "debug": (*_TEXT, *_LIST),
    "deepspeed": (*_DICT, *_TEXT, *_NONE),
    "disable_tqdm": (*_BOOL, *_NONE),
    "do_eval": _BOOL,
    "do_predict": _BOOL,
    "do_train": _BOOL,
    "enable_jit_checkpoint": _BOOL,
    "eval_accumulation_steps": (*_INT, *_NONE),
    "eval_delay": _FLOAT,
    "eval_do_concat_batches": _BOOL,
    "eval_on_start": _BOOL,
    "eval_steps": (*_FLOAT, *_NONE),
    "eval_strategy": _TEXT,
    "eval_use_gather_object": _BOOL,
    "fp16": _BOOL,
    "fp16_full_eval": _BOOL,
    "fsdp": (*_TEXT, *_NONE),
    "fsdp_config": (*_DICT, *_TEXT, *_NONE),
    "full_determinism": _BOOL,
    "gradient_accumulation_steps": _INT,
    "gradient_checkpointing": (*_BOOL, *_NONE),
    "gradient_checkpointing_kwargs": (*_DICT, *_TEXT, *_NONE),
    "greater_is_better": (*_BOOL, *_NONE),
    "hub_always_push": _BOOL,
    "hub_model_id": (*_TEXT, *_NONE),
    "hub_private_repo": (*_BOOL, *_NONE),
    "hub_revision": (*_TEXT, *_NONE),
    "hub_strategy": _TEXT,
    "hub_token": (*_TEXT, *_NONE),
    "ignore_data_skip": _BOOL,
    "include_for_metrics": _LIST,
    "include_num_input_tokens_seen": (*_BOOL, *_TEXT),
    "label_names": (*_LIST, *_NONE),
    "label_smoothing_factor": _FLOAT,
    "learning_rate": _FLOAT,
    "length_column_name": _TEXT,
    "liger_kernel_config": (*_DICT, *_NONE),
    "load_best_model_at_end": _BOOL,
    "local_rank": _INT,
    "log_level": _TEXT,
    "log_level_replica": _TEXT,
    "log_on_each_node": _BOOL,
    "logging_first_step": _BOOL,
    "logging_nan_inf_filter": _BOOL,
    "logging_steps": _FLOAT,
    "logging_strategy": _TEXT,
    "lr_scheduler_kwargs": (*_DICT, *_TEXT, *_NONE),
    "lr_scheduler_type": _TEXT,
    "max_grad_norm": _FLOAT,
    "max_steps": _INT,
    "metric_for_best_model": (*_TEXT, *_NONE),
    "neftune_noise_alpha": (*_FLOAT, *_NONE),
    "num_train_epochs": _FLOAT,
    "optim": _TEXT,
    "optim_args": (*_TEXT, *_NONE),
    "optim_target_modules": (*_TEXT, *_LIST, *_NONE),
    "output_dir": (*_TEXT, *_NONE),
    "parallelism_config": (*_DICT, *_NONE),
    "per_device_eval_batch_size": _INT,
    "per_device_train_batch_size": _INT,
    "prediction_loss_only": _BOOL,
    "project": _TEXT,
    "push_to_hub": _BOOL,
    "remove_unused_columns": _BOOL,
    "report_to": (*_TEXT, *_LIST, *_NONE),
    "restore_callback_states_from_checkpoint": _BOOL,
    "resume_from_checkpoint": (*_TEXT, *_NONE),
    "run_name": (*_TEXT, *_NONE),
    "save_on_each_node": _BOOL,
    "save_only_model": _BOOL,
    "save_steps": _FLOAT,
    "save_strategy": _TEXT,
    "save_total_limit": (*_INT, *_NONE),
    "seed": _INT,
    "skip_memory_metrics": _BOOL,
    "tf32": (*_BOOL, *_NONE),
    "torch_compile": _BOOL,
    "torch_compile_backend": (*_TEXT, *_NONE),
    "torch_compile_mode": (*_TEXT, *_NONE),
    "torch_empty_cache_steps": (*_INT, *_NONE),
    "trackio_bucket_id": (*_TEXT, *_NONE),
    "trackio_space_id": (*_TEXT, *_NONE),
    "trackio_static_space_id": (*_TEXT, *_BOOL, *_NONE),
    "train_sampling_strategy": _TEXT,
    "use_cache": _BOOL,
    "use_cpu": _BOOL,
    "use_liger_kernel": _BOOL,
    "warmup_steps": _FLOAT,
    "weight_decay": _FLOAT,
}

# field -> the texts it takes
CHOICES: dict[str, tuple[str, ...]] = {
    "eval_strategy": ("no", "steps", "epoch"),
    "hub_strategy": ("end", "every_save", "checkpoint", "all_checkpoints"),
    "log_level": ("detail", "debug", "info", "warning", "error", "critical", "passive"),
    "log_level_replica": ("detail", "debug", "info", "warning", "error", "critical", "passive"),
    "logging_strategy": ("no", "steps", "epoch"),
    "lr_scheduler_type": (
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
        "reduce_lr_on_plateau",
        "cosine_with_min_lr",
        "cosine_warmup_with_min_lr",
        "warmup_stable_decay",
        "greedy",
    ),
    "optim": tuple(OPTIMIZERS),
    "save_strategy": ("no", "steps", "epoch", "best"),
    "train_sampling_strategy": ("random", "sequential", "group_by_length", "batch_rebalance"),
}

# field -> the least that makes sense; max_steps may be anything, as below 1 it leaves the count to the epochs
AT_LEAST: dict[str, float] = {
    "adam_beta1": 0,
    "adam_beta2": 0,
    "adam_epsilon": 0,
    "data_seed": 0,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": 1,
    "eval_accumulation_steps": 1,
    "eval_delay": 0,
    "eval_steps": 0,
    "gradient_accumulation_steps": 1,
    "label_smoothing_factor": 0,
    "learning_rate": 0,
    "logging_steps": 0,
    "max_grad_norm": 0,
    "neftune_noise_alpha": 0,
    "per_device_eval_batch_size": 1,
    "per_device_train_batch_size": 1,
    "save_steps": 0,
    "seed": 0,
    "torch_empty_cache_steps": 1,
    "warmup_steps": 0,
    "weight_decay": 0,
}

# field -> the most that the library takes, and whether it takes that itself
AT_MOST: dict[str, tuple[float, bool]] = {
    "adam_beta1": (1, False),
    "adam_beta2": (1, False),
    "data_seed": (2**32 - 1, True),
    "label_smoothing_factor": (1, True),
    "seed": (2**32 - 1, True),
}

# names that people know from other tools -> the field
SYNONYMS = {
    "accumulation": "gradient_accumulation_steps",
    "batch_size": "per_device_train_batch_size",
    "bs": "per_device_train_batch_size",
    "decay": "weight_decay",
    "epoch": "num_train_epochs",
    "epochs": "num_train_epochs",
    "eval_batch_size": "per_device_eval_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "grad_accumulation": "gradient_accumulation_steps",
    "gradient_accumulation": "gradient_accumulation_steps",
    "gradient_clipping": "max_grad_norm",
    "iters": "max_steps",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "max_iters": "max_steps",
    "micro_batch_size": "per_device_train_batch_size",
    "n_epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "num_steps": "max_steps",
    "optimizer": "optim",
    "random_seed": "seed",
    "scheduler": "lr_scheduler_type",
    "steps": "max_steps",
    "train_batch_size": "per_device_train_batch_size",
    "warmup": "warmup_steps",
    "wd": "weight_decay",
}

# old name -> today's name of the same thing
RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
}

# old boolean -> the field and the value that it means when true; false is the default and says nothing
FLAGS = {
    "group_by_length": ("train_sampling_strategy", "group_by_length"),
    "include_inputs_for_metrics": ("include_for_metrics", ["inputs"]),
    "include_tokens_per_second": ("include_num_input_tokens_seen", "non_padding"),
}

# names of earlier releases that asked for what happens anyway, or for nothing on today's machines
WITHOUT_EFFECT = frozenset(
    {
        "overwrite_output_dir",  # results never overwrite anything
        "save_safetensors",  # the only form there is
        "fp16_backend",
        "half_precision_backend",
        "use_legacy_prediction_loop",
        "past_index",
        "ray_scope",
        "tpu_num_cores",
        "tpu_metrics_debug",
        "use_mps_device",
        "dispatch_batches",
        "split_batches",
        "jit_mode_eval",
        "mp_parameters",
    }
)

_SEVERAL = "set 'devices' in the host's accelerator, and 'sharding' in the pass, to train on several devices"
# what olivine decides itself, and where the user says it instead
OWNED = {
    "output_dir": "set the workflow's output_dir",
    "resume_from_checkpoint": "remove it: an interrupted training always goes on from its last checkpoint",
    "push_to_hub": "upload the folder `output_dir/adapter` when it is good",
    "do_predict": "remove it: scores come after the step",
    "local_rank": "remove it: it belongs to a launcher",
    "deepspeed": _SEVERAL,
    "fsdp": _SEVERAL,
    "fsdp_config": _SEVERAL,
    "parallelism_config": _SEVERAL,
    "hub_token": "remove it: tokens come from the environment",
    "use_ipex": "remove it: PyTorch itself is as fast on today's processors",
    "fp16_opt_level": "remove it: NVIDIA's apex is not used",
    "torchdynamo": "use torch_compile_backend",
    "logging_dir": "remove it: the reporting tool's own environment variable says where it writes",
    "fsdp_min_num_params": _SEVERAL,
    "fsdp_transformer_layer_cls_to_wrap": _SEVERAL,
    "tp_size": _SEVERAL,
}


@dataclass(frozen=True)
class Defaults:
    """What training does when the config is silent; a config's own value always wins."""

    per_device_train_batch_size: int = 8
    learning_rate: float = 2e-4
    num_train_epochs: float = 3.0
    lr_scheduler_type: str = "linear"
    warmup_steps: float = 0.03  # below 1: a share of all steps
    logging_steps: float = 1
    save_strategy: str = "steps"
    save_steps: float = 0.1
    save_total_limit: int = 2
    report_to: str = "none"
    disable_tqdm: bool = True
    logging_nan_inf_filter: bool = False
    dataloader_pin_memory: bool = False
    use_cache: bool = False


SEED = 42  # transformers' own
_DECIDING = (
    "per_device_train_batch_size",
    "learning_rate",
    "num_train_epochs",
    "lr_scheduler_type",
    "warmup_steps",
    "seed",
)


def today(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments under today's names; what had no effect is left out."""
    named: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in FLAGS:
            if value:
                field, meaning = FLAGS[name]
                named.setdefault(field, meaning)
        elif name == "warmup_ratio":
            if value:
                named.setdefault("warmup_steps", value)
        elif name not in WITHOUT_EFFECT and not (name in OWNED and not value):
            named[RENAMED.get(name, name)] = value
    return named


_JSON_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string", dict: "object", list: "array"}
_PAGE = "https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments"


def json_schema() -> dict[str, Any]:
    """JSON schema of training_args: the fields that are taken, under today's names and old ones."""
    fields = {name: _field_schema(name) for name in FIELDS if name not in OWNED}
    old = {
        name: _field_schema(today_s) | {"description": f"today {today_s}", "deprecated": True}
        for name, today_s in RENAMED.items()
    }
    flags = {name: f"today {field}: {value}" for name, (field, value) in FLAGS.items()}
    flags |= {"warmup_ratio": "today warmup_steps, as a share"} | dict.fromkeys(sorted(WITHOUT_EFFECT), "has no effect")
    rest = {name: {"description": told, "deprecated": True} for name, told in flags.items()}
    return {"type": "object", "properties": fields | old | rest, "additionalProperties": False}


def _field_schema(name: str) -> dict[str, Any]:
    kinds = ["null" if kind is type(None) else _JSON_TYPES[kind] for kind in FIELDS[name]]
    if {"integer", "number"} <= set(kinds):
        kinds.remove("integer")
    schema: dict[str, Any] = {"type": kinds, "description": f"see {_PAGE}.{name}"}
    if name in CHOICES:
        schema["enum"] = list(CHOICES[name])
    if name in AT_LEAST:
        schema["minimum"] = AT_LEAST[name]
    if name in AT_MOST:
        most, takes_it = AT_MOST[name]
        schema["maximum" if takes_it else "exclusiveMaximum"] = most
    return schema


def effective(
    given: Mapping[str, Any], *, on_cpu: bool, has_eval: bool, early_stopping: bool = False
) -> dict[str, Any]:
    """The arguments as training takes them, by today's names: those of the config over our defaults.

    Reading the loss of every step makes a GPU wait for it: there it is logged every tenth step unless the config says
    otherwise. early_stopping: evaluate as often as checkpoints are written, and end with the best of them. Where the
    best of them is asked for and one of the two rhythms is left open, it is that of the other. The only step of a
    training is no warm-up.
    """
    told = today(given)
    named = asdict(Defaults()) | ({} if on_cpu else {"logging_steps": 10}) | told
    if named.get("max_steps") == 1:
        named["warmup_steps"] = told.get("warmup_steps", 0)
    if has_eval and early_stopping:
        best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False}
        named = _same_rhythm(named, told) | best | told
    elif has_eval and named.get("load_best_model_at_end"):
        named = _same_rhythm(named, told) | told
    if not has_eval:
        named["eval_strategy"] = "no"
    if on_cpu:
        named["use_cpu"] = True
    return named


def deciding(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, and those that decide what is learnt where they are silent: training takes the two for the same.

    defaults: of the pass, over those of every training.
    """
    told, right = today(given), today(without_wrong(given))
    n_steps = right.get("max_steps") or 0
    without = {"num_train_epochs"} if n_steps > 0 else set()  # max_steps wins
    if n_steps == 1:  # which is no warm-up
        without.add("warmup_steps")
    silent = {**asdict(Defaults()), "seed": SEED, **defaults}
    return {**given, **{name: silent[name] for name in _DECIDING if name not in without and name not in told}}


def _same_rhythm(named: dict[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Checkpoints and evaluations at the same steps, as far as the config leaves one of them open."""
    evaluates = told.get("eval_strategy", "no") != "no"
    saves = not {"save_strategy", "save_steps"}.isdisjoint(told)
    if evaluates and not saves:
        every = told.get("eval_steps") or named["logging_steps"]
        return named | {"save_strategy": told["eval_strategy"], "save_steps": every}
    every = "epoch" if named["save_strategy"] == "best" else named["save_strategy"]
    return {"eval_strategy": every, "eval_steps": named["save_steps"]} | named


def written_names(given: Mapping[str, Any]) -> dict[str, str]:
    """Today's name of each argument that the config names -> the name that it uses."""
    flags = {name: FLAGS[name][0] for name in given if name in FLAGS}
    fields = {**RENAMED, **flags, "warmup_ratio": "warmup_steps"}
    return {fields.get(name, name): name for name in given}


def without_wrong(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without those that `check` reports, so that one mistake gives one message."""
    return {name: value for name, value in given.items() if not any(check({name: value}, ""))}


def check(arguments: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """Names that no release knows, values of the wrong type, and what olivine decides itself."""
    for name, value in arguments.items():
        field, key = RENAMED.get(name, name), ("training_args", name)
        if name in OWNED:
            if value:
                fix = f"{OWNED[name][0].upper()}{OWNED[name][1:]}."
                yield Problem("unsupported", where, f"training_args.{name} is not taken over.", fix, key)
        elif name in FLAGS or name in WITHOUT_EFFECT:
            continue
        elif name == "warmup_ratio":
            if not _is_share(value):
                message = f"training_args.warmup_ratio must be a share of all steps below 1, but is {value!r}."
                yield Problem("invalid-value", where, message, "Write 0.03, or a number of warmup_steps.", key)
        elif field not in FIELDS:
            yield _unknown(name, where)
        elif not _fits(value, FIELDS[field]):
            kinds = " or ".join(kind.__name__ for kind in FIELDS[field] if kind is not type(None))
            yield Problem("invalid-value", where, f"training_args.{name} must be {kinds}, but is {value!r}.", key=key)
        else:
            yield from _check_value(name, field, value, where)


def _is_share(value: Any) -> bool:
    """Whether it is none of all, or some of it: what older releases took but for all, in which nothing is trained."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1)


def _check_value(name: str, field: str, value: Any, where: str) -> Iterator[Problem]:
    """A value of the right type that no release takes."""
    key = ("training_args", name)
    if field in CHOICES and value not in CHOICES[field]:
        close = difflib.get_close_matches(value, CHOICES[field], n=1)
        hint = f"Did you mean '{close[0]}'?" if close else f"There are: {', '.join(CHOICES[field])}."
        yield Problem("invalid-value", where, f"training_args.{name} has no '{value}'.", hint, key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    most, takes_it = AT_MOST.get(field, (math.inf, False))
    message = ""
    if not value >= AT_LEAST.get(field, -math.inf):
        message = f"at least {AT_LEAST[field]}" if field in AT_LEAST else "a finite number"
    elif not math.isfinite(value):
        message = "a finite number"
    elif value > most or (value == most and not takes_it):
        message = f"at most {most}" if takes_it else f"below {most}"
    if message:
        yield Problem("invalid-value", where, f"training_args.{name} must be {message}, but is {value!r}.", key=key)


def nearest(name: str) -> str | None:
    """The argument that was probably meant."""
    plain = name.lower().replace("-", "_")
    if plain in SYNONYMS:
        return SYNONYMS[plain]
    close = difflib.get_close_matches(plain, [*FIELDS, *RENAMED, *FLAGS, "warmup_ratio"], n=1)
    return close[0] if close else None


def _unknown(name: str, where: str) -> Problem:
    near = nearest(name)
    hint = f"Did you mean '{near}'?" if near else "See transformers.TrainingArguments."
    return Problem("unknown-key", where, f"training_args has no '{name}'.", hint, ("training_args", name))


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):  # bool is an int in Python, but not in a config
        return bool in kinds
    return isinstance(value, kinds)


def rows_per_step(arguments: Mapping[str, Any]) -> int:
    """Rows of one micro-batch, under any name; the default where the config's value is wrong (`check` reports that)."""
    given = today(arguments).get("per_device_train_batch_size")
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return given
    return Defaults.per_device_train_batch_size


def checkpoints_activations(arguments: Mapping[str, Any]) -> bool:
    """Whether activations are computed again in the backward pass, under the old or the new name."""
    return bool(arguments.get("activation_checkpointing") or arguments.get("gradient_checkpointing"))


def split_seed(arguments: Mapping[str, Any]) -> int:
    """The seed that chooses the rows held out: data_seed, else seed, else transformers' default 42."""
    for name in ("data_seed", "seed"):
        if isinstance(arguments.get(name), int):
            return int(arguments[name])
    return SEED

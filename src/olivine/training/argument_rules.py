"""What transformers refuses in training_args beside names and types: relations between them, packages, schedules.

The library says it inside of the step, after the base was scored; a plan says it before. Each rule is held against the
installed release in the tests, which try many values on both.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from olivine import lazy
from olivine.errors import Problem, ProblemKind
from olivine.training.optimizers import OPTIMIZERS
from olivine.work import Machine

# reporting tool -> the modules that it needs, one of each group, and what to install
REPORTERS: Mapping[str, tuple[tuple[tuple[str, ...], ...], str]] = {
    "azure_ml": ((("azureml",),), "azureml-sdk"),
    "clearml": ((("clearml",),), "clearml"),
    "codecarbon": ((("codecarbon",),), "codecarbon"),
    "comet_ml": ((("comet_ml",),), "comet-ml"),
    "dagshub": ((("dagshub",), ("mlflow",)), "dagshub mlflow"),
    "dvclive": ((("dvclive",),), "dvclive"),
    "flyte": ((("flytekit",),), "flytekit"),
    "kubeflow": ((), ""),
    "mlflow": ((("mlflow",),), "mlflow"),
    "neptune": ((("neptune",),), "neptune"),
    "swanlab": ((("swanlab",),), "swanlab"),
    "tensorboard": ((("tensorboard", "tensorboardX"),), "tensorboard"),
    "trackio": ((("trackio",),), "trackio"),
    "wandb": ((("wandb",),), "wandb"),
}

_PLATEAU = frozenset({"mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps"})
_MIN_LR = frozenset({"num_cycles", "min_lr", "min_lr_rate"})
# scheduler -> what lr_scheduler_kwargs may hold; those that are not named ignore it
SCHEDULERS: Mapping[str, frozenset[str]] = {
    "linear": frozenset(),
    "cosine": frozenset({"num_cycles"}),
    "cosine_with_restarts": frozenset({"num_cycles"}),
    "polynomial": frozenset({"lr_end", "power"}),
    "inverse_sqrt": frozenset({"timescale"}),
    "reduce_lr_on_plateau": _PLATEAU,
    "cosine_with_min_lr": _MIN_LR,
    "cosine_warmup_with_min_lr": _MIN_LR | {"warmup_lr_rate"},
    "warmup_stable_decay": frozenset(
        {"num_decay_steps", "num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles"}
    ),
    "greedy": _PLATEAU | {"warmup", "max_lr", "verbose", "smooth", "window_size", "reset_start"},
}
_SHAPES = ("linear", "cosine", "1-sqrt")
_SCHEDULE_TEXTS = {
    "mode": ("min", "max"),
    "threshold_mode": ("rel", "abs"),
    "warmup_type": _SHAPES,
    "decay_type": _SHAPES,
}
ACCELERATOR_KEYS = frozenset(
    {
        "split_batches",
        "dispatch_batches",
        "even_batches",
        "use_seedable_sampler",
        "non_blocking",
        "gradient_accumulation_kwargs",
        "use_configured_state",
    }
)
CHECKPOINT_KEYS = frozenset({"use_reentrant", "preserve_rng_state", "determinism_check", "debug", "early_stop"})
DEBUG = ("underflow_overflow", "tpu_metrics_debug")
# what an evaluation gives: there are no metrics beside the loss
EVAL_METRICS = ("loss", "eval_loss")
_JSON_TEXTS = ("accelerator_config", "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs")


@dataclass(frozen=True)
class Arguments:
    """training_args as training takes them, and how the config wrote them.

    values: by today's names, with olivine's defaults. written: today's name -> the name in the config, for those that
    the config names. where: as in Problem.
    """

    values: Mapping[str, Any]
    written: Mapping[str, str]
    where: str

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name)

    def problem(self, name: str, message: str, fix: str = "", kind: ProblemKind = "invalid-value") -> Problem:
        """A problem at the field of that name; `{}` in the message is the name that the config uses."""
        written = self.written.get(name, name)
        told = message.replace("{}", f"training_args.{written}", 1)
        key = ("training_args", written) if name in self.written else ("training_args",)
        return Problem(kind, self.where, told, fix, key)


def check(arguments: Arguments, machine: Machine, *, evaluates: bool) -> Iterator[Problem]:
    """Everything that the library would refuse later. evaluates: whether there are rows to evaluate on."""
    for rule in _RULES:
        yield from rule(arguments)
    yield from _evaluation(arguments, evaluates=evaluates)
    yield from _hardware(arguments, machine)


def _steps(arguments: Arguments) -> Iterator[Problem]:
    """Counts of steps are whole numbers from 1, shares below it."""
    for kind, usual in (("logging", "steps"), ("eval", "no"), ("save", "steps")):
        name = f"{kind}_steps"
        value = arguments[name]
        if (arguments[f"{kind}_strategy"] or usual) != "steps" or value is None:
            continue
        if value > 1 and value != int(value):
            fix = "Write a whole number, or a share below 1."
            yield arguments.problem(name, f"{{}} must be a whole number of steps, but is {value!r}.", fix)
    if arguments["logging_strategy"] in (None, "steps") and arguments["logging_steps"] == 0:
        yield arguments.problem("logging_steps", "{} is 0.", "Write 1 or more, or logging_strategy: no.")


def _training(arguments: Arguments) -> Iterator[Problem]:
    """At least one step with a learning rate above 0."""
    n_steps, n_epochs = arguments["max_steps"] or 0, arguments["num_train_epochs"]
    if arguments["learning_rate"] == 0:
        yield arguments.problem("learning_rate", "{} is 0: nothing would be trained.", "2e-4 is usual for adapters.")
    if n_steps <= 0 and n_epochs is not None and n_epochs <= 0:
        yield arguments.problem("num_train_epochs", f"{{}} is {n_epochs:g}: nothing would be trained.", "Write 1.")
    if n_steps == 1 and arguments["warmup_steps"]:
        message = "{} leaves the only step with a learning rate of 0."
        yield arguments.problem("warmup_steps", message, "Remove it, or raise max_steps.")


def _precision(arguments: Arguments) -> Iterator[Problem]:
    for other, name in (("fp16", "bf16"), ("fp16_full_eval", "bf16_full_eval")):
        if arguments[other] and arguments[name]:
            yield arguments.problem(name, f"{{}} and training_args.{other} exclude each other.", "Remove one of them.")


def _loader(arguments: Arguments) -> Iterator[Problem]:
    if arguments["dataloader_prefetch_factor"] is not None and not arguments["dataloader_num_workers"]:
        message = "{} needs processes that load data."
        yield arguments.problem("dataloader_prefetch_factor", message, "Set dataloader_num_workers, or remove it.")


def _reports(arguments: Arguments) -> Iterator[Problem]:
    """The tools that report_to names are known and installed."""
    given = arguments["report_to"]
    names = given if isinstance(given, list) else [given]
    if names in (["none"], ["all"]):
        return
    for name in names:
        if not isinstance(name, str) or name not in REPORTERS:
            fix = f"There are: none, all, {', '.join(REPORTERS)}."
            yield arguments.problem("report_to", f"{{}} has no '{name}'.", fix)
            continue
        groups, package = REPORTERS[name]
        if not all(any(map(lazy.installed, group)) for group in groups):
            fix = f"Run: pip install {package}; or write report_to: none."
            yield arguments.problem("report_to", f"{{}} '{name}' needs the package {package}.", fix, "missing-extra")


def _schedule(arguments: Arguments) -> Iterator[Problem]:
    """What lr_scheduler_kwargs holds fits the schedule, and what the schedule needs is there."""
    name, field = arguments["lr_scheduler_type"], "lr_scheduler_kwargs"
    given = _mapping(arguments[field])
    if given is None:
        yield arguments.problem(field, "{} must be a mapping.", 'Write {"num_cycles": 2}, for example.')
        return
    known = SCHEDULERS.get(name)
    if known is None:  # constant ones take nothing and ignore what is there
        return
    for key, value in given.items():
        if key not in known:
            fix = f"It takes {', '.join(sorted(known))}." if known else "Remove it."
            yield arguments.problem(field, f"'{key}' in {{}} is nothing that '{name}' takes.", fix)
        elif (message := _schedule_value(key, value)) is not None:
            yield arguments.problem(field, f"'{key}' in {{}} {message}, but is {value!r}.")
    yield from _schedule_needs(arguments, name, given)


def _schedule_value(key: str, value: Any) -> str | None:
    """What is wrong with a value of lr_scheduler_kwargs."""
    if key in _SCHEDULE_TEXTS:
        return None if value in _SCHEDULE_TEXTS[key] else f"must be {' or '.join(_SCHEDULE_TEXTS[key])}"
    if key in ("verbose", "smooth"):
        return None if isinstance(value, bool) else "must be true or false"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "must be a number"
    return "must be below 1" if key == "factor" and value >= 1 else None


def _schedule_needs(arguments: Arguments, name: str, given: Mapping[str, Any]) -> Iterator[Problem]:
    at = "lr_scheduler_kwargs" if "lr_scheduler_kwargs" in arguments.written else "lr_scheduler_type"
    if name in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        n_given = sum(given.get(key) is not None for key in ("min_lr", "min_lr_rate"))
        if n_given != 1:
            message = f"the schedule '{name}' needs one of min_lr and min_lr_rate in lr_scheduler_kwargs."
            fix = 'Write lr_scheduler_kwargs: {"min_lr_rate": 0.1}, for example.'
            yield arguments.problem(at, message, fix)
    if name == "warmup_stable_decay" and "num_decay_steps" not in given:
        message = f"the schedule '{name}' needs num_decay_steps in lr_scheduler_kwargs."
        yield arguments.problem(at, message, 'Write lr_scheduler_kwargs: {"num_decay_steps": 10}, for example.')
    end = given.get("lr_end", 1e-7)
    if name == "polynomial" and isinstance(end, int | float) and not arguments["learning_rate"] > end:
        message = f"lr_end {end:g} of the schedule 'polynomial' must be below the learning rate."
        yield arguments.problem(at, message, "Lower it, or raise learning_rate.")


def _optimizer(arguments: Arguments) -> Iterator[Problem]:
    text, name = arguments["optim_args"], arguments["optim"] or ""
    if text and any(part.count("=") != 1 for part in text.replace(" ", "").split(",")):
        fix = "Write 'name=value', with commas between several."
        yield arguments.problem("optim_args", f"{{}} must be pairs, but is {text!r}.", fix)
    if arguments["adam_epsilon"] == 0 and "adam" in (name or "adamw"):
        message = "{} is 0: an update whose gradient is 0, as those of new adapters are, would be divided by 0."
        yield arguments.problem("adam_epsilon", message, "1e-8 is usual.")
    needs_targets = name.startswith(("galore_", "apollo_")) and lazy.installed(OPTIMIZERS.get(name) or "")
    if needs_targets and arguments["optim_target_modules"] is None:
        yield arguments.problem("optim", f"{{}} '{name}' needs optim_target_modules.", 'Write "all-linear".')


def _texts(arguments: Arguments) -> Iterator[Problem]:
    """Texts and mappings with a closed list of words in them."""
    debug = arguments["debug"]
    for word in debug.split() if isinstance(debug, str) else debug or ():
        if word not in DEBUG:
            yield arguments.problem("debug", f"{{}} has no '{word}'.", f"There are: {', '.join(DEBUG)}.")
    seen = arguments["include_num_input_tokens_seen"]
    if isinstance(seen, str) and seen not in ("all", "non_padding", "no"):
        yield arguments.problem("include_num_input_tokens_seen", f"{{}} has no '{seen}'.", "Write all or non_padding.")
    for name in _JSON_TEXTS:
        keys = ACCELERATOR_KEYS if name == "accelerator_config" else CHECKPOINT_KEYS
        yield from _keys(arguments, name, keys)


def _keys(arguments: Arguments, name: str, known: frozenset[str]) -> Iterator[Problem]:
    value = arguments[name]
    if name == "accelerator_config" and isinstance(value, str) and not value.startswith("{"):
        if not os.path.isfile(value):  # noqa: PTH113 - the text as the library opens it
            yield arguments.problem(name, f"the file '{value}' of {{}} does not exist.", kind="missing-file")
        return
    given = _mapping(value)
    if given is None:
        yield arguments.problem(name, f"{{}} must be a mapping, but is {value!r}.")
        return
    for key in given:
        if key not in known:
            yield arguments.problem(name, f"{{}} has no '{key}'.", f"There are: {', '.join(sorted(known))}.")


def _mapping(value: Any) -> Mapping[str, Any] | None:
    """A mapping, also one that is written as JSON in a text; None when it is neither."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, Mapping) else {} if value is None else None


def _evaluation(arguments: Arguments, *, evaluates: bool) -> Iterator[Problem]:
    """What needs an evaluation, and how often the best is looked for."""
    rows = "Set eval_dataset_size or eval_data_config."
    schedule, best = arguments["lr_scheduler_type"], arguments["load_best_model_at_end"]
    by_loss = schedule in ("reduce_lr_on_plateau", "greedy")
    wishes = [
        ("lr_scheduler_type", f"the schedule '{schedule}'" if by_loss else ""),
        ("load_best_model_at_end", "{}" if best else ""),
        ("eval_on_start", "{}" if arguments["eval_on_start"] else ""),
        ("save_strategy", "{} 'best'" if arguments["save_strategy"] == "best" else ""),
    ]
    for name, wish in wishes:
        if wish and not evaluates:
            yield arguments.problem(name, f"{wish} needs rows to evaluate on.", rows)
    if not evaluates:
        return
    never = arguments["eval_strategy"] in (None, "no")
    if never and (by_loss or best or arguments["save_strategy"] == "best"):
        name, wish = next(wish for wish in wishes if wish[1] and wish[0] != "eval_on_start")
        yield arguments.problem(name, f"{wish} needs evaluations.", "Set eval_strategy: epoch, or steps.")
        return
    if arguments["save_strategy"] == "best" and arguments["metric_for_best_model"] is None and not (best or by_loss):
        fix = "Write metric_for_best_model: loss."
        yield arguments.problem("save_strategy", "{} 'best' needs metric_for_best_model.", fix)
    metric = arguments["metric_for_best_model"]
    if metric is not None and not never and metric not in EVAL_METRICS:
        message = f"{{}} '{metric}' is not measured while training."
        yield arguments.problem("metric_for_best_model", message, "Write loss: it is the only one.")
    if best and arguments["save_strategy"] != "best":
        yield from _best(arguments)


def _best(arguments: Arguments) -> Iterator[Problem]:
    """Every checkpoint that may be the best one has been evaluated."""
    save, evaluate = arguments["save_strategy"], arguments["eval_strategy"]
    if save != evaluate:
        message = f"{{}} needs save_strategy and eval_strategy to be alike, but they are '{save}' and '{evaluate}'."
        yield arguments.problem("load_best_model_at_end", message, f"Set save_strategy: {evaluate}.")
        return
    if save != "steps":
        return
    saved, evaluated = arguments["save_steps"], arguments["eval_steps"] or arguments["logging_steps"]
    if not evaluated or not saved % evaluated:
        return
    if not (saved < 1 and evaluated < 1) or (saved * 1_000_000) % (evaluated * 1_000_000):  # 0.3 % 0.1 is not 0
        name = "save_steps" if "save_steps" in arguments.written else "eval_steps"
        message = f"load_best_model_at_end needs save_steps ({saved:g}) to be a multiple of eval_steps ({evaluated:g})."
        yield arguments.problem(name, message, "Set save_steps and eval_steps to the same number.")


def _hardware(arguments: Arguments, machine: Machine) -> Iterator[Problem]:
    """What this step's device does not have."""
    on_cpu = machine.device == "cpu"
    if arguments["fp16"] and on_cpu:
        message = "{} needs a GPU, and this step runs on the CPU."
        yield arguments.problem("fp16", message, "Remove it, or set torch_dtype: bfloat16.", "hardware")
    if arguments["tf32"] and on_cpu:
        message = "{} needs an NVIDIA GPU, and this step runs on the CPU."
        yield arguments.problem("tf32", message, "Remove it.", "hardware")
    if arguments["ddp_backend"] and machine.n_devices == 1:
        message = "{} is for a training on several devices, and this step has one."
        yield arguments.problem("ddp_backend", message, "Remove it.", "hardware")
    if arguments["use_liger_kernel"] and not lazy.installed("liger_kernel"):
        fix = "Run: pip install liger-kernel; or remove it."
        yield arguments.problem("use_liger_kernel", "{} needs the package liger-kernel.", fix, "missing-extra")


_RULES: tuple[Callable[[Arguments], Iterator[Problem]], ...] = (
    _steps,
    _training,
    _precision,
    _loader,
    _reports,
    _schedule,
    _optimizer,
    _texts,
)

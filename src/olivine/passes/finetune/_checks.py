"""What a plan finds wrong with a training before it runs."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from packaging.version import Version

from olivine import lazy
from olivine.errors import Problem
from olivine.models.facts import ModelFacts
from olivine.passes.finetune._params import AdapterParams, LycorisParams, TrainingParams
from olivine.training import argument_rules, sharding, target_modules, training_arguments
from olivine.training.optimizers import check_package
from olivine.work import Machine

# learning rates that train adapters, and all weights of a model
ADAPTER_RATES, WEIGHT_RATES = (1e-5, 1e-3), (1e-6, 1e-4)


def check_training(
    params: TrainingParams, machine: Machine, where: str, defaults: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[Problem]:
    """training_args by name, type and value, as the library would refuse them; the rows that an evaluation needs.

    defaults: arguments of the pass where the config is silent.
    """
    given = params.training_args
    yield from training_arguments.check(given, where)
    yield from check_package(training_arguments.today(given).get("optim"), where)
    yield from _check_evaluation(params, where)
    right = training_arguments.without_wrong(given)
    values = training_arguments.effective(
        {**defaults, **right},
        on_cpu=machine.device == "cpu",
        has_eval=params.evaluates,
        early_stopping=params.early_stopping_patience is not None,
    )
    arguments = argument_rules.Arguments(values, training_arguments.written_names(given), where)
    yield from argument_rules.check(arguments, machine, evaluates=params.evaluates)


def check_adapter(params: AdapterParams, facts: ModelFacts, machine: Machine, where: str) -> Iterator[Problem]:
    """As `check_training`, and target modules against the layers that the model has."""
    yield from check_training(params, machine, where)
    yield from _check_targets(params, facts, where)
    if params.sharding != "none":
        yield from _check_sharding(params, machine, where)


def notes_on(params: TrainingParams, facts: ModelFacts, *, usual: tuple[float, float]) -> Iterator[str]:
    """Values that are taken and hardly meant. usual: learning rates that train the kind of weights that is trained."""
    decoder = facts.as_decoder
    arguments = training_arguments.today(training_arguments.without_wrong(params.training_args))
    rate, (least, most) = arguments.get("learning_rate"), usual
    if rate and not least / 10 <= rate <= most * 10:
        side = "above" if rate > most else "below"
        yield f"learning_rate {rate:g} is far {side} what trains: {least:g} to {most:g} is usual"
    n_steps, warmup = arguments.get("max_steps", 0), arguments.get("warmup_steps", 0)
    if 1 < n_steps <= warmup:
        yield f"all {n_steps} steps are warm-up (warmup_steps {warmup:g}): the learning rate is never reached"
    rank = getattr(params, "r", 0)
    if decoder.hidden_size and rank > decoder.hidden_size:
        yield f"r {rank} is more than the layers are wide ({decoder.hidden_size}): training every weight costs less"


def _check_sharding(params: AdapterParams, machine: Machine, where: str) -> Iterator[Problem]:
    if machine.n_processes == 1:
        message = f"sharding '{params.sharding}' spreads the base over several devices, and this step has one."
        fix = "Remove it, or set 'devices' in the host's accelerator."
        yield Problem("invalid-value", where, message, fix, ("sharding",))
    if (version := lazy.version("torch")) != "none" and Version(version) < sharding.LEAST_TORCH:
        message = f"sharding needs torch {sharding.LEAST_TORCH}, and {version} is installed."
        fix = f"Run: pip install 'torch>={sharding.LEAST_TORCH}'."
        yield Problem("missing-extra", where, message, fix, ("sharding",))
    whole = [name.rpartition(".")[2] for name in params.modules_to_save or ()]
    bias = getattr(params, "bias", "none")
    if bias != "none" or set(whole) - {"embed_tokens", "lm_head"}:
        key = "bias" if bias != "none" else "modules_to_save"
        message = f"with sharding, '{key}' cannot train parts of the decoder's layers: they are spread and frozen."
        yield Problem("unsupported", where, message, "Remove one of the two.", (key,))


def _check_targets(params: AdapterParams, facts: ModelFacts, where: str) -> Iterator[Problem]:
    """The three lists of modules, each name of which must match something, and what is left to train."""
    decoder = facts.as_decoder
    lists = {
        "target_modules": target_modules.as_list(params.target_modules) or [],
        "exclude_modules": target_modules.as_list(params.exclude_modules) or [],
        "modules_to_save": params.modules_to_save or [],
    }
    broken = {key: target_modules.broken_patterns(names) for key, names in lists.items()}
    for key, patterns in broken.items():
        for pattern in patterns:
            message = f"the module pattern {pattern!r} is no regular expression."
            yield Problem("invalid-value", where, message, "Mend or remove it.", (key,))
    if params.target_modules is not None and target_modules.as_list(params.target_modules) == []:
        message = "target_modules is empty: nothing would be trained."
        yield Problem(
            "invalid-value", where, message, "Name layers, or remove it for all of them.", ("target_modules",)
        )
    modules = target_modules.Modules.of(facts)
    if modules is None:
        leaves = [*decoder.linear_modules, "embed_tokens", "lm_head"]
        if decoder.linear_modules and (missing := target_modules.unmatched_leaves(lists["target_modules"], leaves)):
            yield Problem("invalid-value", where, target_modules.sentence(missing, leaves), key=("target_modules",))
        return
    missed = False
    for key, patterns in lists.items():
        names = modules.trainable if key == "target_modules" else modules.every
        missing = target_modules.unmatched([name for name in patterns if name not in broken[key]], names)
        if missing:
            missed = True
            yield Problem("invalid-value", where, target_modules.sentence(missing, names, key), key=(key,))
    if not missed and not any(broken.values()):
        yield from _check_something_left(params, modules, lists, where)


def _check_something_left(
    params: AdapterParams, modules: target_modules.Modules, lists: Mapping[str, list[str]], where: str
) -> Iterator[Problem]:
    """An adapter on no layer trains nothing."""
    without = [*lists["exclude_modules"], *lists["modules_to_save"]]
    usual = [name for name in modules.trainable if ".layers." in name]
    names = modules.trainable if lists["target_modules"] else usual
    if names and not any(target_modules.chooses(lists["target_modules"] or None, without, name) for name in names):
        key = "exclude_modules" if params.exclude_modules else "modules_to_save"
        yield Problem("invalid-value", where, f"{key} leaves no layer to train.", "Name fewer.", (key,))


def check_lycoris(params: LycorisParams, facts: ModelFacts, where: str) -> Iterator[Problem]:
    """What PEFT's LoHa and LoKr refuse, or take and put on no layer."""
    decoder = facts.as_decoder
    targets = target_modules.as_list(params.target_modules) or []
    if any(name.rpartition(".")[2] == "embed_tokens" for name in targets):
        message = "target_modules 'embed_tokens' is an embedding, which this adapter cannot be put on."
        yield Problem("unsupported", where, message, "Remove it, or use LoRA.", ("target_modules",))
    numbers = params.layers_to_transform
    for number in [numbers] if isinstance(numbers, int) else numbers or []:
        if decoder.n_layers and not 0 <= number < decoder.n_layers:
            message = f"layers_to_transform names layer {number}, but the model has {decoder.n_layers}, from 0."
            yield Problem("invalid-value", where, message, "Name layers that it has.", ("layers_to_transform",))
    if params.layers_pattern is not None and numbers is None:
        message = "layers_pattern says nothing without layers_to_transform."
        yield Problem("invalid-value", where, message, "Set layers_to_transform, or remove it.", ("layers_pattern",))
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern, value in getattr(params, key).items():
            if target_modules.broken_patterns([pattern]):
                message = f"the pattern {pattern!r} of {key} is no regular expression."
                yield Problem("invalid-value", where, message, "Mend or remove it.", (key, pattern))
            if value <= 0:
                message = f"{key} gives {pattern!r} {value:g}, which must be above 0."
                yield Problem("invalid-value", where, message, key=(key, pattern))


def _check_evaluation(params: TrainingParams, where: str) -> Iterator[Problem]:
    size = params.eval_dataset_size
    if size is not None and size > 1 and size % 1:
        message = f"eval_dataset_size must be a share below 1 or a whole number of rows, but is {size:g}."
        yield Problem("invalid-value", where, message, key=("eval_dataset_size",))
    if params.early_stopping_patience is not None and not params.evaluates:
        message = "early_stopping_patience needs rows to evaluate on."
        fix = "Set eval_dataset_size or eval_data_config."
        yield Problem("invalid-value", where, message, fix, ("early_stopping_patience",))

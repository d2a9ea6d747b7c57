"""Params of LoRA and its kin: `lora_r` and `lora_alpha` until 2025-02, `evaluation_strategy` until 2025-04."""

from olivine.config.dialects._edit import Findings, Note, drop, lift, named, rename, text_of
from olivine.config.nodes import Object
from olivine.errors import Problem

_KIN = {"lora", "qlora", "loftq", "dora", "loha", "lokr"}
_LYCORIS = {"loha", "lokr"}
_ORT_TRAINING = ("use_ort_trainer", "ort_args")
_QLORA = '{"type": "QLoRA", "quant_type": "nf4", "double_quant": true}'


def translate(config: Object) -> Findings:
    """Give the params today's names, and warn where the old text promised something else."""
    for name, step in named(config, "passes"):
        kind = text_of(step, "type")
        if kind in _KIN:
            yield from rename(step, "lora_r", "r")
            yield from rename(step, "lora_alpha", "alpha")
            yield from _ort_training(step)
            yield from _training_args(name, step)
        if kind == "lora":
            yield from _double_quant(name, step)
        if kind in _LYCORIS:
            yield from _lora_dropout(name, step)


def _double_quant(name: str, step: Object) -> Findings:
    if "double_quant" not in step:
        return
    if step["double_quant"] is True:
        message = (
            f"'double_quant' is dropped: it was never a param of LoRA, and pass '{name}' trains on the unquantized "
            f"model. Where the text meant QLoRA, write {_QLORA}."
        )
        yield from drop(step, "double_quant", message, warning=True)
    else:
        yield from drop(step, "double_quant", "'double_quant' is dropped: it was never a param of LoRA.")


def _lora_dropout(name: str, step: Object) -> Findings:
    """Olive's LoHa and LoKr took it from LoRA and did nothing with it."""
    if step.get("lora_dropout"):
        message = (
            f"'lora_dropout' is dropped: pass '{name}' has no such dropout, and never had; its own are 'rank_dropout' "
            "and 'module_dropout'."
        )
        yield from drop(step, "lora_dropout", message, warning=True)
    elif "lora_dropout" in step:
        yield from drop(step, "lora_dropout", "'lora_dropout' is dropped: it asked for nothing.")


def _ort_training(step: Object) -> Findings:
    for key in _ORT_TRAINING:
        if key in step and not step[key]:
            yield from drop(step, key, f"'{key}' is dropped: it asked for nothing.")
        elif key in step:
            _, place = step.take(key)
            message = f"'{key}' asks for training in ONNX Runtime, which is discontinued."
            yield Problem("unsupported", str(place), message, "Remove it: training runs in PyTorch.")


def _training_args(name: str, step: Object) -> Findings:
    arguments = step.mapping("training_args")
    if arguments is None:
        return
    yield from lift(arguments, "extra_args")
    yield from rename(arguments, "evaluation_strategy", "eval_strategy")
    message = "'output_dir' of training_args is dropped: checkpoints lie in the cache, and the result in output_dir."
    yield from drop(arguments, "output_dir", message)
    if arguments.get("group_by_length") is True:
        message = "'group_by_length: true' is 'train_sampling_strategy: group_by_length' in today's transformers."
        yield Note(arguments.where("group_by_length"), "group_by_length", "train_sampling_strategy", message)
    steps, epochs = arguments.get("max_steps"), arguments.get("num_train_epochs")
    if isinstance(steps, int) and steps > 0 and epochs is not None:
        message = (
            f"'max_steps' wins over 'num_train_epochs': pass '{name}' trains for {steps} optimizer steps, "
            f"not for {epochs} epochs."
        )
        yield Note(arguments.where("max_steps"), "num_train_epochs", "max_steps", message, warning=True)

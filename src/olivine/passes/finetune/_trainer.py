"""The training loop: transformers' Trainer with our collator, our reports, and checkpoints that survive a kill."""

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from olivine.data import SampleSet
from olivine.data._samples import IGNORED
from olivine.errors import RequestError
from olivine.passes._base import Reporter
from olivine.passes.finetune._training_arguments import Defaults, today

# Trainer writes trainer_state.json last, so a checkpoint that has it (and all the rest) is whole.
_WHOLE = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


def arguments(given: Mapping[str, Any], folder: Path, *, on_cpu: bool, has_eval: bool) -> TrainingArguments:
    """TrainingArguments of a config's training_args over our defaults."""
    named = asdict(Defaults()) | today(given)
    if not has_eval:
        named["eval_strategy"] = "no"
    if on_cpu:
        named["use_cpu"] = True
    with _as_request():
        return TrainingArguments(output_dir=str(folder), **named)


@contextmanager
def _as_request() -> Iterator[None]:
    """What the libraries refuse in training_args before the first step is the config's mistake, in their words."""
    try:
        yield
    except torch.OutOfMemoryError:  # a RuntimeError as well, and not the config's
        raise
    except (ImportError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise RequestError(f"training_args are refused: {' '.join(str(error).split())}") from error


def train(
    model: Any, samples: SampleSet, held_out: SampleSet | None, args: TrainingArguments, pad: int, report: Reporter
) -> list[dict[str, Any]]:
    """Train in place, going on from the last whole checkpoint; gives the log (loss, eval_loss by step)."""
    with _as_request():
        trainer = _Trainer(
            model=model,
            args=args,
            train_dataset=samples,
            eval_dataset=held_out,
            data_collator=Collator(pad),
            callbacks=[_Reports(report)],
        )
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(Path(str(args.output_dir))))
    _refuse_unusable(model)
    history: list[dict[str, Any]] = trainer.state.log_history
    return history


def _refuse_unusable(model: Any) -> None:
    """The last step has no loss after it: look at what it left, and whether any step changed anything at all."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in trained.items():
        if not bool(torch.isfinite(parameter).all()):
            raise ArithmeticError(f"'{name}' is not finite after the last step; lower training_args.learning_rate")
    # the update is B times A and B starts at zero; with full layers among the trained ones B says nothing
    if all("lora_" in name for name in trained) and not any(
        bool(parameter.any()) for name, parameter in trained.items() if "lora_B" in name or "lora_embedding_B" in name
    ):
        raise RequestError(
            "training changed nothing: there was no step with a learning rate above 0; raise max_steps or "
            "num_train_epochs, or lower warmup_steps"
        )


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; those that were not are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for checkpoint in reversed(found):
        if _is_whole(checkpoint):
            return str(checkpoint)
        shutil.rmtree(checkpoint)
    return None


def _is_whole(checkpoint: Path) -> bool:
    if not all((checkpoint / name).is_file() for name in _WHOLE):
        return False
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


class Collator:
    """Samples to a batch, padded on the right to the longest of them; padding has no label and no attention."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, batch: Sequence[Mapping[str, list[int]]]) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask and labels, each [samples, longest]."""
        width = max(len(sample["input_ids"]) for sample in batch)
        ids = torch.full((len(batch), width), self._pad, dtype=torch.long)
        labels = torch.full((len(batch), width), IGNORED, dtype=torch.long)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for row, sample in enumerate(batch):
            n_tokens = len(sample["input_ids"])
            ids[row, :n_tokens] = torch.tensor(sample["input_ids"])
            labels[row, :n_tokens] = torch.tensor(sample["labels"])
            mask[row, :n_tokens] = torch.tensor(sample.get("attention_mask") or [1] * n_tokens)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class _Trainer(Trainer):  # type: ignore[misc]
    """A loss that is not a number ends the training at once: every later step would be wasted."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        value = float(loss)
        if not math.isfinite(value):
            raise ArithmeticError(
                f"the loss became {value} at step {self.state.global_step + 1}; lower training_args.learning_rate"
            )
        return loss


class _Reports(TrainerCallback):  # type: ignore[misc]
    """Progress for the screen: step, loss, tokens a second."""

    def __init__(self, report: Reporter) -> None:
        self._report, self._started, self._first = report, 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - its signature
        self._started, self._first = time.monotonic(), state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - its signature
        loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), None)
        speed = (state.global_step - self._first) / max(1e-9, time.monotonic() - self._started)
        metrics = {"loss": round(float(loss), 4)} if loss is not None else {}
        self._report.progress(state.global_step, state.max_steps, **metrics, steps_per_second=round(speed, 2))

"""The training loop: transformers' Trainer with our collator, our reports, and checkpoints that survive a kill."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, rotate_checkpoints

from olivine.data import IGNORED, SampleSet
from olivine.errors import RequestError
from olivine.kernels.averaging import Averaged
from olivine.kernels.master_weights import MasterWeights
from olivine.training import acceleration, checkpoints, nodes, sharding
from olivine.training.batches import MicroBatch, StepSet
from olivine.training.reports import Reports, Watch, Work
from olivine.training.setup import Settings, Setup, prepare, token_counts
from olivine.training.training_arguments import effective
from olivine.work import Reporter

_ALONE = Settings()


def arguments(
    given: Mapping[str, Any], folder: Path, *, on_cpu: bool, has_eval: bool, early_stopping: bool = False
) -> TrainingArguments:
    """TrainingArguments of a config's training_args over our defaults, see `training_arguments.effective`."""
    named = effective(given, on_cpu=on_cpu, has_eval=has_eval, early_stopping=early_stopping)
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
    model: Any,
    samples: SampleSet,
    held_out: SampleSet | None,
    args: TrainingArguments,
    pad: int,
    report: Reporter,
    settings: Settings = _ALONE,
) -> list[dict[str, Any]]:
    """Train in place, going on from the last whole checkpoint; gives the log (loss, eval_loss by step).

    Every process of a run over several devices calls this alike. A step holds per_device_train_batch_size times
    gradient_accumulation_steps rows, over all of them, whatever the micro-batches are; its loss is the mean over its
    trained tokens.
    """
    setup = prepare(model, samples, args, pad, report, settings)
    callbacks: list[TrainerCallback] = [Reports(report, Work.of(model, setup.lengths, torch.device(args.device)))]
    if settings.early_stopping_patience is not None and held_out is not None:
        callbacks.append(EarlyStoppingCallback(settings.early_stopping_patience))
    with _as_request():
        trainer = _Trainer(
            model=model,
            args=args,
            train_dataset=samples,
            eval_dataset=held_out,
            data_collator=Collator(pad),
            callbacks=callbacks,
            setup=setup,
            report=report,
        )
    if settings.rank:  # each rank drops others of its activations
        torch.manual_seed(args.seed + settings.rank)
    before = _marks(model)
    trainer.train(
        resume_from_checkpoint=_checkpoint(Path(str(args.output_dir)), settings, torch.device(args.device), report)
    )
    _refuse_unusable(model, before)
    history: list[dict[str, Any]] = trainer.state.log_history
    return history


def _marks(model: Any) -> dict[str, tuple[float, float]]:
    """Two sums over each trained parameter: they tell whether it is still what it was, without a copy of it."""
    return {
        name: (float(parameter.detach().double().sum()), float(parameter.detach().double().square().sum()))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _refuse_unusable(model: Any, before: Mapping[str, tuple[float, float]]) -> None:
    """The last step has no loss after it: look at what it left, and whether any step changed anything at all."""
    after = _marks(model)
    for name, sums in after.items():
        if not math.isfinite(sums[0]):
            raise ArithmeticError(f"'{name}' is not finite after the last step; lower training_args.learning_rate")
    if after == before:
        raise RequestError(
            "training changed nothing: there was no step with a learning rate above 0; raise max_steps or "
            "num_train_epochs, or lower warmup_steps"
        )


def _checkpoint(folder: Path, settings: Settings, device: torch.device, report: Reporter) -> str | None:
    """Where all ranks go on from: the first of them looks and tidies up, before any of them writes."""
    if settings.world_size == 1:
        return checkpoints.last_whole(folder, 1, report.warn)
    checkpoint = checkpoints.last_whole(folder, settings.world_size, report.warn) if settings.rank == 0 else None
    step = torch.tensor(int(checkpoint.rpartition("-")[2]) if checkpoint else -1, device=device)
    distributed.broadcast(step, src=0)
    if step < 0:
        return None
    shared = folder / f"checkpoint-{int(step)}"
    if nodes.spans_nodes(settings):
        nodes.share(shared, settings, device)
    return str(shared)


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


class _Loader(DataLoader):  # type: ignore[misc] # torch is not read by the type checker
    """A loader of steps that tells them the epoch."""

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)


class _OneByOne(BatchSampler):  # type: ignore[misc] # as above
    """Steps in their order; when a resumed epoch wraps this sampler, the epoch still reaches the steps."""

    def __init__(self, steps: StepSet) -> None:
        super().__init__(SequentialSampler(steps), batch_size=1, drop_last=False)
        self._steps = steps

    def set_epoch(self, epoch: int) -> None:
        self._steps.set_epoch(epoch)


def _only(batch: list[dict[str, Any]]) -> dict[str, Any]:
    return batch[0]


class _Trainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer, for which a batch is all of a step: its micro-batches are run here.

    The loss is summed over the trained tokens of the step and divided by their number, as Trainer does for unpacked
    rows. A loss that is not a number ends the training: every later step would be wasted.
    """

    def __init__(self, *, setup: Setup, report: Reporter, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._setup, self._report, self._watch = setup, report, Watch()

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Steps as they were laid out; each rank has its own share, so nothing is sharded again."""
        return self._loader(self._setup.steps)

    def _loader(self, steps: StepSet) -> DataLoader[Any]:
        return _Loader(
            steps,
            batch_sampler=_OneByOne(steps),
            collate_fn=_only,
            num_workers=self.args.dataloader_num_workers,
            generator=torch.Generator(),  # its own: the loader draws a seed, which must not move the dropout's
        )

    def num_examples(self, dataloader: DataLoader[Any]) -> int:
        """Rows of an epoch, over all ranks."""
        steps = getattr(dataloader.dataset, "steps", None)
        return sum(len(step.rows) for step in steps) if steps is not None else super().num_examples(dataloader)

    def get_total_train_batch_size(self, args: TrainingArguments) -> int:  # noqa: ARG002 - its signature
        """Rows of an optimizer step, over all ranks and micro-batches."""
        return self._setup.steps.rows_per_step

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Trained tokens of the step, over all ranks; of a batch of the model's own loss as Trainer counts them."""
        if "micro_batches" not in batch_samples[0]:
            return super()._get_num_items_in_batch(batch_samples, device)
        n_trained = sum(step["n_trained"] for step in batch_samples)
        if self.args.world_size > 1:
            return self.accelerator.gather(torch.tensor(n_trained, device=device)).sum().clamp_min(1)
        return max(1, n_trained)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As Trainer's, with learning rates by kind of parameter or float32 masters where the settings ask for them."""
        settings, optimizer = self._setup.settings, getattr(self, "optimizer", None)
        if optimizer is not None or not (settings.loraplus or settings.master_weights):
            return super().create_optimizer(model)
        if settings.loraplus is not None:
            trained = self.model if model is None else model
            kind, named = self.get_optimizer_cls_and_kwargs(self.args, trained)
            optimizer = settings.loraplus.optimizer(trained, kind, named, self.args.weight_decay)
        else:
            optimizer = MasterWeights(super().create_optimizer(model))
        self.optimizer = optimizer
        return optimizer

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """Of the step's forward and backward pass, from its tokens."""
        return int(self._reports.work.per_token * inputs["input_ids"].numel())

    @property
    def _reports(self) -> Reports:
        return next(callback for callback in self.callback_handler.callbacks if isinstance(callback, Reports))

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward passes of all micro-batches; when memory runs out, once more in smaller ones."""
        model.train()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()
        self._reports.count(inputs)
        while True:
            try:
                loss = self._accumulate(model, inputs, num_items_in_batch)
            except torch.OutOfMemoryError:
                self._lower_limit(inputs)
            except torch._dynamo.exc.TorchDynamoException as error:  # noqa: SLF001 - torch has no public name for it
                self._stop_compiling(error)
            else:
                self._watch.add(loss, self.state.global_step + 1)
                if isinstance(model, Averaged):
                    model.average_gradients()
                return loss
            model.zero_grad(set_to_none=True)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """Replicas whose gradients we average; nothing is left for accelerate to wrap then."""
        if self._setup.settings.world_size == 1 or not training or isinstance(model, Averaged):
            return super()._wrap_model(model, training, dataloader)
        return Averaged(model)

    def _accumulate(self, model: Any, step: Mapping[str, Any], n_items: Any) -> torch.Tensor:
        total = torch.zeros((), device=self.args.device)
        micro_batches = self._setup.micro_batches(step)
        for rows in micro_batches:
            loss = self.micro_batch_loss(model, self._setup.collate(rows), n_items, len(micro_batches))
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def micro_batch_loss(self, model: Any, batch: MicroBatch, n_items: Any, n_micro_batches: int) -> torch.Tensor:
        """The share of the step's loss that this micro-batch has."""
        if self._setup.head is None:
            loss: torch.Tensor = self.compute_loss(model, {**batch.inputs, "labels": batch.labels}, False, n_items)
            return loss if self.model_accepts_loss_kwargs else loss / n_micro_batches
        return self._summed_loss(model, batch) * (self.args.world_size / n_items)  # ranks are averaged

    def _summed_loss(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        head = self._setup.head
        assert head is not None  # noqa: S101 - for the type checker
        return head.loss(head.hidden_states(model, **batch.inputs), batch.where, batch.targets)

    def _lower_limit(self, step: Mapping[str, Any]) -> None:
        """Halve the micro-batch after memory ran out; the step's rows stay the same."""
        sizes = [sum(len(row.ids) for row in rows) for rows in self._setup.micro_batches(step)]
        # ranks of a sharded base gather its layers together: none can run a step again by itself
        if self._setup.settings.sharded or all(len(rows) == 1 for rows in self._setup.micro_batches(step)):
            raise RequestError(
                f"memory ran out with {max(sizes)} tokens in a micro-batch; lower max_seq_len, or set "
                "training_args.gradient_checkpointing"
            )
        self._setup.lower_limit(min(self._setup.limit, max(sizes)) // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        message = (
            f"memory ran out in step {self.state.global_step + 1}: micro-batches have {self._setup.limit} tokens now"
        )
        self._report.warn(f"{message}, and the step is run again")

    def _stop_compiling(self, error: Exception) -> None:
        if not acceleration.is_compiled(self.model) or self._setup.settings.sharded:
            raise error
        acceleration.give_up_compiling(self.model)
        self._report.record(not_compiled_because=" ".join(str(error).split())[:300])

    def evaluation_loop(self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """The mean loss over the trained tokens of all held-out rows, in the same way as it is trained."""
        if self._setup.head is None:
            return super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        steps = self._evaluated()
        self.model_wrapped.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        with torch.no_grad():
            for step in self._loader(steps):
                for rows in step["micro_batches"]:
                    total[0] += self._summed_loss(self.model_wrapped, self._setup.collate(rows))
                total[1] += step["n_trained"]
        if self.args.world_size > 1:
            total = self.accelerator.reduce(total, reduction="sum")
        loss = float(total[0] / total[1].clamp_min(1))
        return EvalLoopOutput(None, None, {f"{metric_key_prefix}_loss": loss}, len(self.eval_dataset))

    def _evaluated(self) -> StepSet:
        """The held-out rows in their order, in micro-batches as large as those of training."""
        setup, lengths = self._setup, token_counts(self.eval_dataset)
        return StepSet(
            self.eval_dataset,
            lengths,
            max(1, self.args.per_device_eval_batch_size),
            max(setup.limit, *lengths),
            order="sequential",
            packed=setup.packed,
            rank=setup.settings.rank,
            world_size=setup.settings.world_size,
        )

    def _save_rng_state(self, output_dir: str) -> None:
        """A checkpoint is whole on node 0 alone: a node that is lost takes nothing with it."""
        super()._save_rng_state(output_dir)
        if nodes.spans_nodes(self._setup.settings):
            nodes.gather_random_state(Path(output_dir), self._setup.settings)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """No checkpoint holds weights that came from a loss which is not a number."""
        self._watch.close()
        if self._setup.settings.sharded:
            sharding.drop_gathered(self.model)  # writing does it on the first rank: the others must follow
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # none goes before the new one is safe
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            folder = Path(str(self.args.output_dir))
            checkpoints.seal(folder / f"checkpoint-{self.state.global_step}")
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(folder), save_total_limit=limit, best_model_checkpoint=best, use_mtime=True)

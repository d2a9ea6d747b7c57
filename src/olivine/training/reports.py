"""What a training says while it runs, and when its loss is no number."""

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from olivine.training import acceleration
from olivine.work import Reporter


class Watch:
    """Ends the training at a loss that is not a number, without making the device wait for each.

    On a GPU a step's loss is copied while the next step is queued, and looked at then.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, torch.Tensor, Any]] = deque()

    def add(self, loss: torch.Tensor, step: int) -> None:
        """Look at this loss as soon as that costs nothing."""
        if loss.device.type != "cuda":
            _refuse_no_number(float(loss), step)
            return
        copied = torch.empty((), dtype=loss.dtype, pin_memory=True).copy_(loss, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._waiting.append((step, copied, event))
        self._look(keep=1)

    def close(self) -> None:
        """Look at all that are left."""
        self._look(keep=0)

    def _look(self, keep: int) -> None:
        while len(self._waiting) > keep:
            step, copied, event = self._waiting.popleft()
            event.synchronize()
            _refuse_no_number(float(copied), step)


def _refuse_no_number(value: float, step: int) -> None:
    if not math.isfinite(value):
        raise ArithmeticError(f"the loss became {value} at step {step}; lower training_args.learning_rate")


@dataclass(frozen=True)
class Work:
    """Floating point operations that a token takes, and those that the device does in a second at its best."""

    per_token: float
    peak: float

    @staticmethod
    def of(model: Any, lengths: Sequence[int], device: torch.device) -> "Work":
        """Two for each weight in the forward pass and two for the input's gradient; two more for a trained weight.

        Attention: 7 products over the tokens before it (2 forward, 5 backward), of which a causal mask leaves half.
        """
        base = acceleration.base_of(model)
        config = base.config.get_text_config()
        embedding = base.get_input_embeddings().weight.numel()
        tied = bool(getattr(config, "tie_word_embeddings", False))
        n_all = sum(p.numel() for p in model.parameters()) - (0 if tied else embedding)
        n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        before = sum(length * length for length in lengths) / max(1, sum(lengths))
        attention = 7 * before * config.hidden_size * config.num_hidden_layers
        return Work(4 * n_all + 2 * n_trained + attention, acceleration.measured_peak(device, base.dtype))


class Reports(TrainerCallback):  # type: ignore[misc]
    """Progress for the screen: loss, tokens a second, share of the device's peak, memory, time left."""

    def __init__(self, report: Reporter, work: Work) -> None:
        self._report, self.work = report, work
        self._started, self._first, self._n_tokens, self._is_warm = 0.0, 0, 0, False

    def count(self, step: Mapping[str, Any]) -> None:
        """Tokens that are being trained on, by all ranks."""
        self._n_tokens += step["n_tokens"]

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - its signature
        """Start the clock, at the step that training goes on from."""
        self._started, self._first, self._n_tokens = time.monotonic(), state.global_step, 0
        if state.global_step:
            self._report.note(f"going on from step {state.global_step} of {state.max_steps}")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - its signature
        """Show the step; the speed is counted from the second one on."""
        loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), None)
        seconds, n_steps = max(1e-9, time.monotonic() - self._started), state.global_step - self._first
        metrics: dict[str, float] = {"loss": round(float(loss), 4)} if loss is not None else {}
        per_device = self._n_tokens / seconds / args.world_size
        metrics |= {
            "tokens_per_second": round(self._n_tokens / seconds),
            "share_of_peak": round(per_device * self.work.per_token / self.work.peak, 3),
            "memory_gb": round(_used_bytes(args.device) / 1e9, 2),
            "seconds_left": round((state.max_steps - state.global_step) * seconds / n_steps),
        }
        self._report.progress(state.global_step, state.max_steps, **metrics)
        if not self._is_warm:  # compiling and the first allocations are not the speed of the rest
            self._started, self._first, self._n_tokens = time.monotonic(), state.global_step, 0
            self._is_warm = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 - its signature
        """Record the speed, and on a GPU the peak of its memory."""
        seconds, n_steps = max(1e-9, time.monotonic() - self._started), state.global_step - self._first
        if n_steps:
            self._report.record(tokens_per_second=round(self._n_tokens / seconds, 1))
        if torch.device(args.device).type == "cuda":
            self._report.record(device_peak_bytes=torch.cuda.max_memory_allocated(args.device))


def _used_bytes(device: Any) -> int:
    """Memory of the device at its peak, or of this process now."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)

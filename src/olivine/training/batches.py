"""Micro-batches as tensors: packed rows or padded ones, with the positions that enter the loss and their targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.data import IGNORED
from olivine.kernels.packed_attention import Segments
from olivine.training.packing import Step, plan_batches, split_step

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")


@dataclass(frozen=True)
class Row:
    """A sample without padding: its tokens, and for each of them the token to predict (-100 where none is trained)."""

    ids: list[int]
    targets: list[int]


def row_of(sample: Mapping[str, list[int]], length: int) -> Row:
    """The first `length` tokens of a sample; the last one has nothing to predict."""
    return Row(sample["input_ids"][:length], [*sample["labels"][1:length], IGNORED])


@dataclass(frozen=True)
class MicroBatch:
    """What goes through the model at once.

    inputs: keyword arguments of the model. where: int64 [trained], the trained positions in the flattened batch;
    targets: int64 [trained], the token that each should predict. labels: as the model's own loss takes them, [rows,
    tokens], None in a packed batch.
    """

    inputs: dict[str, Any]
    where: "torch.Tensor"
    targets: "torch.Tensor"
    labels: "torch.Tensor | None" = None


def multiple_of(largest: int) -> int:
    """Tokens to a multiple of which micro-batches are padded when the largest has so many."""
    return 512 if largest >= 4096 else 64


@dataclass
class Packer:
    """Rows to one packed row [1, tokens], padded to a multiple (or more) so that few shapes occur.

    The padding is a segment of its own, without targets. n_segments and longest only grow: compiled layers see one
    number of segments. with_lengths: whether the attention needs the lengths on the host.
    """

    pad: int
    device: "torch.device"
    multiple: int = 1
    least: int = 0
    with_lengths: bool = True
    n_segments: int = 0
    longest: int = 0

    def __call__(self, rows: Sequence[Row]) -> MicroBatch:
        """input_ids and position_ids [1, tokens], and the segments as the attention takes them."""
        lengths = [len(row.ids) for row in rows]
        n_tokens = max(sum(lengths), self.least)
        if rest := n_tokens + -n_tokens % self.multiple - sum(lengths):
            lengths.append(rest)
        ids = [token for row in rows for token in row.ids] + [self.pad] * rest
        targets = [token for row in rows for token in row.targets]
        where = [index for index, token in enumerate(targets) if token != IGNORED]
        if self.multiple > 1:
            self._grow(len(lengths), max(lengths))
        segments = Segments.of(lengths, self.device, self.n_segments, self.longest).arguments()
        if not self.with_lengths:
            del segments["segment_lengths"]
        positions = torch.cat([torch.arange(length) for length in lengths])
        inputs = {"input_ids": torch.tensor([ids]), "position_ids": positions[None]}
        trained = {
            "where": torch.tensor(where, dtype=torch.long),
            "targets": torch.tensor([targets[index] for index in where], dtype=torch.long),
        }
        return MicroBatch(_on(self.device, inputs) | segments, **_on(self.device, trained))

    def fix(self, sizes: Sequence[int], n_rows: int, longest: int) -> bool:
        """Let micro-batches of these sizes, of up to `n_rows` rows, look alike to compiled layers.

        All are padded to the largest when that adds less than a fifth; gives whether they are.
        """
        largest = max(sizes)
        self.multiple = multiple_of(largest)
        if largest * len(sizes) <= 1.2 * sum(sizes):
            self.least = largest
        self._grow(n_rows + 1, max(longest, self.least - min(sizes), self.multiple - 1))
        return bool(self.least)

    def _grow(self, n_segments: int, longest: int) -> None:
        self.n_segments = max(self.n_segments, -(-n_segments // 16) * 16)
        self.longest = max(self.longest, -(-longest // 64) * 64)


@dataclass(frozen=True)
class Padder:
    """Rows to a batch padded on the right to the longest of them; padding has no target and no attention."""

    pad: int
    device: "torch.device"

    def __call__(self, rows: Sequence[Row]) -> MicroBatch:
        """input_ids, attention_mask and labels, each [rows, longest]."""
        width = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), width), self.pad, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        following = torch.full((len(rows), width), IGNORED, dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = torch.tensor(row.ids)
            mask[index, : len(row.ids)] = 1
            following[index, : len(row.ids)] = torch.tensor(row.targets)
        where = (following.flatten() != IGNORED).nonzero()[:, 0]
        labels = torch.nn.functional.pad(following[:, :-1], (1, 0), value=IGNORED)  # the model shifts them itself
        inputs = _on(self.device, {"input_ids": ids, "attention_mask": mask})
        targets = following.flatten()[where].to(self.device)
        return MicroBatch(inputs, where.to(self.device), targets, labels.to(self.device))


def _on(device: "torch.device", tensors: Mapping[str, "torch.Tensor"]) -> dict[str, Any]:
    """The tensors on the device; from pinned memory, as a copy from any other waits until the device has no work."""
    if device.type == "cuda":
        tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}


class StepSet:
    """The steps of an epoch as one rank sees them; item i is the rows of its micro-batches in step i.

    A map-style data set for torch's loader: the samples are read when a step is asked for, in its worker if any.
    An item has "micro_batches" (lists of Row), "input_ids" (all of their tokens), "n_trained" of them, and "n_tokens"
    of the step over all ranks.
    """

    def __init__(
        self,
        samples: Sequence[Mapping[str, list[int]]],
        lengths: Sequence[int],
        rows_per_step: int,
        tokens_per_micro_batch: int,
        **how: Any,
    ) -> None:
        """The keyword arguments are those of `plan_batches` that do not change with the epoch, and `rank`."""
        self._samples, self._lengths = samples, lengths
        self.rows_per_step, self.limit = rows_per_step, tokens_per_micro_batch
        self._rank, self._seed = how.pop("rank", 0), how.pop("seed", 0)
        self._how = how
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Lay the rows out anew."""
        self.steps: list[Step] = plan_batches(
            self._lengths, self.rows_per_step, self.limit, self._seed, epoch, **self._how
        )

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> dict[str, Any]:
        mine = self.steps[index].ranks[self._rank]
        micro_batches = [
            [row_of(self._samples[row], self._lengths[row]) for row in rows] or [self._nothing()] for rows in mine
        ]
        rows = [row for micro_batch in micro_batches for row in micro_batch]
        return {
            "micro_batches": micro_batches,
            "input_ids": torch.tensor([token for row in rows for token in row.ids]),
            "n_trained": sum(target != IGNORED for row in rows for target in row.targets),
            "n_tokens": sum(self._lengths[row] for row in self.steps[index].rows),
        }

    def _nothing(self) -> Row:
        """A rank that is left without rows still takes part in the step, and trains nothing."""
        ids = self._samples[0]["input_ids"][:2]
        return Row(ids, [IGNORED] * len(ids))


def split_rows(micro_batches: Sequence[Sequence[Row]], limit: int, *, packed: bool) -> list[list[Row]]:
    """The same rows in micro-batches of a lower limit."""
    rows = [row for micro_batch in micro_batches for row in micro_batch]
    (split,) = split_step([len(row.ids) for row in rows], range(len(rows)), limit, packed=packed).ranks
    return [[rows[index] for index in indices] for indices in split]

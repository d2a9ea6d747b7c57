"""Text to training samples, and the numbers that say what became of it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, overload

from olivine.config.schema import DataConfig, PreProcess
from olivine.data._encoder import Encoder
from olivine.data._settings import check_settings
from olivine.data.strategies import STRATEGIES, Block
from olivine.data.strategies._block import longest
from olivine.errors import ConfigError, DataError

IGNORED = -100  # the label that the losses of torch and transformers leave out
Sample = dict[str, list[int]]


@dataclass(frozen=True)
class Statistics:
    """What became of the rows.

    n_rows: texts given; n_empty_rows of them had no text and were left out.
    n_samples: samples made; n_truncated of them were cut; n_dropped more were too short (`drop_short_sequences`) or had
      nothing to train on.
    n_tokens: tokens of the samples without padding; n_trained_tokens: those that enter the loss.
    """

    n_rows: int
    n_empty_rows: int
    n_samples: int
    n_truncated: int
    n_dropped: int
    n_tokens: int
    n_trained_tokens: int

    def to_json(self) -> dict[str, int]:
        """The fields by name."""
        return asdict(self)


class SampleSet(Sequence[Sample]):
    """Samples for a causal language model, made when they are asked for.

    A sample maps "input_ids", "labels" (-100 where nothing is trained) and, unless the config leaves it out,
    "attention_mask" to lists of one length. Labels are not shifted: the model does that. Padding stands on the right.
    """

    def __init__(
        self, blocks: Sequence[Block], statistics: Statistics, settings: PreProcess, pad_token_id: int
    ) -> None:
        self._blocks, self.statistics, self._settings, self._pad_token_id = blocks, statistics, settings, pad_token_id

    def __len__(self) -> int:
        return len(self._blocks)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self._sample(block) for block in self._blocks[index]]
        return self._sample(self._blocks[index])

    def lengths(self) -> list[int]:
        """Tokens of each sample without padding."""
        return [len(block.ids) for block in self._blocks]

    def summary(self) -> str:
        """What became of how many rows, in a sentence."""
        numbers, lengths = self.statistics, self.lengths()
        kind = "block" if self._settings.strategy.startswith("join") else "sample"
        kind += "s" * (len(self) > 1)
        size = str(lengths[0]) if len(set(lengths)) == 1 else f"{min(lengths)} to {max(lengths)}"
        text = f"{numbers.n_rows:,} rows became {numbers.n_samples:,} {kind} of {size} tokens"
        if self._settings.strategy == "join" and len(lengths) > 1 and lengths[-1] < lengths[0]:
            text = f"{numbers.n_rows:,} rows became {numbers.n_samples:,} blocks: "
            text += f"{numbers.n_samples - 1:,} of {lengths[0]} tokens and a last one of {lengths[-1]}"
        notes = [
            (numbers.n_truncated, "cut to the maximum length"),
            (numbers.n_dropped, "dropped as too short"),
            (numbers.n_empty_rows, "rows left out as empty"),
        ]
        return "; ".join([text, *(f"{count:,} {what}" for count, what in notes if count)])

    def _sample(self, block: Block) -> Sample:
        ids = block.ids.tolist()
        n_masked = min(block.n_masked, len(ids))
        n_pad = max(0, longest(self._settings) - len(ids)) if self._settings.pad_to_max_len else 0
        sample = {
            "input_ids": ids + [self._pad_token_id] * n_pad,
            "labels": [IGNORED] * n_masked + ids[n_masked:] + [IGNORED] * n_pad,
        }
        if self._settings.use_attention_mask:
            sample["attention_mask"] = [1] * len(ids) + [0] * n_pad
        return sample


def samples(config: DataConfig, texts: Sequence[str], tokenizer: Any) -> SampleSet:
    """Training samples by the strategy of the config.

    Begin and end tokens stand exactly once round each text, unless the config turns them off; the end token is trained,
    padding is not, even where they are the same token. Texts without any character but white space are left out. A
    sample in which nothing would be trained (one token; a prompt that fills the length) is dropped and counted.

    Raises ConfigError for settings that do not hold together and DataError, which says why, when no sample is left.
    """
    if problems := list(check_settings(config)):
        raise ConfigError(problems)
    settings = config.pre_process_data_config
    given = [text for text in texts if text.strip()]
    if not given:
        reason = f"all {len(texts)} rows have an empty text" if texts else "there are no rows"
        raise DataError(f"data config '{config.name}' gives no sample: {reason}")
    encoder = Encoder(tokenizer, add_special_tokens=settings.add_special_tokens)
    made = list(STRATEGIES[settings.strategy](given, settings, encoder))
    kept = list(islice(_kept(made, settings), settings.max_samples))
    if not kept:
        raise DataError(f"data config '{config.name}' gives no sample: {_why_none(made, settings)}")
    dropped = sum(1 for _ in made) - sum(1 for _ in _kept(made, settings))
    statistics = Statistics(
        n_rows=len(texts),
        n_empty_rows=len(texts) - len(given),
        n_samples=len(kept),
        n_truncated=sum(block.is_truncated for block in kept),
        n_dropped=dropped,
        n_tokens=sum(len(block.ids) for block in kept),
        n_trained_tokens=sum(block.n_trained for block in kept),
    )
    return SampleSet(kept, statistics, settings, _pad_token_id(tokenizer))


def _kept(made: Sequence[Block], settings: PreProcess) -> Iterator[Block]:
    shortest = longest(settings) if settings.drop_short_sequences else 1
    return (block for block in made if block.n_trained and len(block.ids) >= shortest)


def _why_none(made: Sequence[Block], settings: PreProcess) -> str:
    length = max((len(block.ids) for block in made), default=0)
    if settings.drop_short_sequences and length < longest(settings):
        return (
            f"'drop_short_sequences' drops samples of less than {longest(settings)} tokens, and the longest has "
            f"{length}; lower 'max_seq_len' or remove 'drop_short_sequences'"
        )
    if settings.strategy == "pair":
        return f"every prompt fills the maximum length of {longest(settings)} tokens; raise 'max_seq_len'"
    return f"the longest has {length} token, and at least two are needed to train on; raise 'max_seq_len' or join rows"


def _pad_token_id(tokenizer: Any) -> int:
    """Any token will do, as padding is neither read nor trained on."""
    wanted = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return int(next(token for token in wanted if token is not None))

"""Tokens of rows to training samples, and the numbers that say what became of them."""

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, overload

from olivine import lazy
from olivine.config.schema import DataConfig, PreProcess
from olivine.data._detect import resolved
from olivine.data._encoder import Encoder, Tokens
from olivine.data._settings import check_settings
from olivine.data._store import TokenStore, Writer
from olivine.data.forms import Text
from olivine.data.strategies import Layout, Source, longest, strategy_of
from olivine.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]
else:
    np = lazy.module("numpy")

IGNORED = -100  # the label that the losses of torch and transformers leave out
MAX_LOST = 0.05  # share of rows that may lose all that was to be trained in them
Sample = dict[str, list[int]]


@dataclass(frozen=True)
class Statistics:
    """What became of the rows.

    n_rows: texts given; n_empty_rows of them had no text and were left out.
    n_samples: samples made; n_truncated of them were cut; n_dropped more were too short (`drop_short_sequences`) or had
      nothing to train on; of n_lost of these the cut took everything that was to be trained.
    n_tokens: tokens of the samples without padding; n_trained_tokens: those that enter the loss.
    """

    n_rows: int
    n_empty_rows: int
    n_samples: int
    n_truncated: int
    n_dropped: int
    n_lost: int
    n_tokens: int
    n_trained_tokens: int

    def to_json(self) -> dict[str, int]:
        """The fields by name."""
        return asdict(self)


class SampleSet(Sequence[Sample]):
    """Samples for a causal language model, made when they are asked for.

    A sample maps "input_ids", "labels" (-100 where nothing is trained) and, unless the config leaves it out,
    "attention_mask" to lists of one length. Labels are not shifted: the model does that. Padding stands on the right.

    kept: which samples of the layout these are.
    """

    def __init__(
        self, layout: Layout, kept: "Integers", statistics: Statistics, settings: PreProcess, pad_token_id: int
    ) -> None:
        self._layout, self._kept, self._settings = layout, kept, settings
        self.statistics, self._pad_token_id = statistics, pad_token_id
        self._lengths: Integers = layout.lengths[kept]

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self._sample(place) for place in range(len(self))[index]]
        return self._sample(range(len(self))[index])

    @property
    def lengths(self) -> "Integers":
        """Tokens of each sample without padding, int64 [samples]."""
        return self._lengths

    def row(self, index: int) -> int | None:
        """The row of the store that a sample was made of; None for a block of the stream of all rows."""
        rows = getattr(self._layout, "rows", None)
        return int(rows[self._kept[index]]) if rows is not None else None

    def cut_rows(self) -> set[int]:
        """Rows of the store that a sample has without their end; none where rows are joined."""
        rows = getattr(self._layout, "rows", None)
        return set(rows[self._layout.is_truncated].tolist()) if rows is not None else set()

    def arrays(self, index: int) -> "tuple[npt.NDArray[np.int32], Integers]":
        """Ids (int32) and labels (int64) of a sample, without padding: what packing takes."""
        block = self._layout.read(int(self._kept[index]))
        return block.ids, np.where(block.trained, block.ids, IGNORED).astype(np.int64)

    def summary(self) -> str:
        """What became of how many rows, in a sentence."""
        numbers, lengths = self.statistics, self._lengths
        kind = "block" if strategy_of(self._settings).joins else "sample"
        kind += "s" * (len(self) > 1)
        low, high = int(lengths.min()), int(lengths.max())
        size = str(low) if low == high else f"{low} to {high}"
        text = f"{numbers.n_rows:,} rows became {numbers.n_samples:,} {kind} of {size} tokens"
        if self._settings.strategy == "join" and len(lengths) > 1 and lengths[-1] < lengths[0]:
            text = f"{numbers.n_rows:,} rows became {numbers.n_samples:,} blocks: "
            text += f"{numbers.n_samples - 1:,} of {lengths[0]} tokens and a last one of {lengths[-1]}"
        notes = [
            (numbers.n_truncated, "cut to the maximum length"),
            (numbers.n_lost, "left out as the cut took all that was to be trained"),
            (numbers.n_dropped - numbers.n_lost, "dropped as too short"),
            (numbers.n_empty_rows, "rows left out as empty"),
        ]
        return "; ".join([text, *(f"{count:,} {what}" for count, what in notes if count)])

    def _sample(self, index: int) -> Sample:
        ids, labels = self.arrays(index)
        n_pad = max(0, longest(self._settings) - len(ids)) if self._settings.pad_to_max_len else 0
        sample = {
            "input_ids": ids.tolist() + [self._pad_token_id] * n_pad,
            "labels": labels.tolist() + [IGNORED] * n_pad,
        }
        if self._settings.use_attention_mask:
            sample["attention_mask"] = [1] * len(ids) + [0] * n_pad
        return sample


def samples(config: DataConfig, texts: Sequence[str], tokenizer: Any) -> SampleSet:
    """Training samples of texts that are in memory, by the strategy of the config.

    Begin and end tokens stand exactly once round each text, unless the config turns them off; the end token is trained,
    padding is not, even where they are the same token. Texts without any character but white space are left out. A
    sample in which nothing would be trained (one token; a prompt that fills the length) is dropped and counted. Of a
    `Text` with spans, nothing else is trained, unless the config says `train_on: all`.

    Raises ConfigError for settings that do not hold together and DataError, which says why, when no sample is left or
    more than 5 % of the rows lose all that was to be trained in them.
    """
    if problems := list(check_settings(config)):
        raise ConfigError(problems)
    config = resolved(config)
    encoder = Encoder.of(tokenizer, config.pre_process_data_config)
    writer = Writer()
    if texts:
        writer.add(encoded(texts, encoder, config.pre_process_data_config), texts, [(0, 0)] * len(texts))
    return laid_out(config, writer.finish(), None, tokenizer, encoder)


def encoded(texts: Sequence[str], encoder: Encoder, settings: PreProcess) -> list[Tokens]:
    """Tokens of each text, none for a blank one; with the joiner after it where tokens may span the two."""
    joiner = settings.joiner if joins_text(settings, encoder) else ""
    wanted = [_with_joiner(text, joiner) for text in texts if text.strip()]
    made = iter(encoder.encode(wanted))
    return [next(made) if text.strip() else Tokens(array("i")) for text in texts]


def joins_text(settings: PreProcess, encoder: Encoder) -> bool:
    """Whether a text is tokenised together with the joiner after it: then no end token stands between the two."""
    return strategy_of(settings).joins and encoder.end is None


def _with_joiner(text: str, joiner: str) -> str:
    if not joiner:
        return text
    spans = text.spans if isinstance(text, Text) else None
    return Text(text + joiner, spans=spans)


def laid_out(
    config: DataConfig,
    store: TokenStore,
    rows: "Sequence[int] | Integers | None",
    tokenizer: Any,
    encoder: Encoder,
    context: int | None = None,
) -> SampleSet:
    """The samples of some rows of a store, all of them by default, in that order; raises as `samples` does.

    context: tokens that the model reads, where that is known.
    """
    found, fault = with_fault(config, store, rows, tokenizer, encoder, context)
    if fault is not None:
        raise DataError(f"data config '{config.name}' {fault}")
    return found


def with_fault(
    config: DataConfig,
    store: TokenStore,
    rows: "Sequence[int] | Integers | None",
    tokenizer: Any,
    encoder: Encoder,
    context: int | None = None,
) -> tuple[SampleSet, str | None]:
    """The samples, and what is wrong with them as a whole; then there may be none. DataError when no row has a text."""
    settings = config.pre_process_data_config
    chosen = np.arange(len(store)) if rows is None else np.asarray(rows, np.int64)
    full = chosen[store.lengths(chosen) > 0] if len(chosen) else chosen
    if not len(full):
        reason = f"all {len(chosen)} rows have an empty text" if len(chosen) else "there are no rows"
        raise DataError(f"data config '{config.name}' gives no sample: {reason}")
    layout = strategy_of(settings)().layout(_source(store, full, settings, encoder), settings)
    shortest = longest(settings) if settings.drop_short_sequences else 1
    n_trained, lengths = layout.n_trained, layout.lengths
    is_kept = (n_trained > 0) & (lengths >= shortest)
    n_lost = int(layout.is_lost.sum())
    kept = np.flatnonzero(is_kept)[: settings.max_samples]
    fault = None if len(kept) else f"gives no sample: {_why_none(layout, settings, context)}"
    statistics = Statistics(
        n_rows=len(chosen),
        n_empty_rows=len(chosen) - len(full),
        n_samples=len(kept),
        n_truncated=int(layout.is_truncated[kept].sum()),
        n_dropped=len(lengths) - int(is_kept.sum()),
        n_lost=n_lost,
        n_tokens=int(lengths[kept].sum()),
        n_trained_tokens=int(n_trained[kept].sum()),
    )
    if fault is None and n_lost > MAX_LOST * len(lengths):
        fault = f"has rows that are too long: {too_many_lost(layout, settings, context)}"
    return SampleSet(layout, kept, statistics, settings, _pad_token_id(tokenizer)), fault


def _source(store: TokenStore, rows: "Integers", settings: PreProcess, encoder: Encoder) -> Source:
    everything = settings.train_on == "all"
    if not strategy_of(settings).joins:
        return Source(store, rows, everything=everything)
    joiner = tuple(encoder.joiner(settings.joiner)) if settings.joiner else ()
    if not joins_text(settings, encoder):
        return Source(store, rows, joiner, everything=everything)
    stop = int(store.stops[rows[-1]])
    ends = tuple(store.ids[max(0, stop - len(joiner)) : stop].tolist())
    return Source(store, rows, everything=everything, cut_last=len(joiner) if ends == joiner else 0)


def too_many_lost(layout: Layout, settings: PreProcess, context: int | None) -> str:
    """What to say when the cut takes all that is to be trained of too many rows: how many, and what length would do.

    context: tokens that the model reads; a greater length would change nothing.
    """
    n_lost, n_rows = int(layout.is_lost.sum()), len(layout.lengths)
    some, every = enough(layout)
    limit = f"at a maximum of {longest(settings)} tokens"
    lost = f"{n_lost:,} of {n_rows:,} rows lose every token that is to be trained {limit}"
    kept = f"keeps some of {1 - MAX_LOST:.0%} of the rows"
    if context is not None and some > context:
        return (
            f"{lost}; {some} {kept}, but the model reads {context}: shorten what stands before the answers, leave "
            "these rows out, or start from a model that reads more"
        )
    most = f"the model reads {context}" if context is not None and every > context else f"{every} cuts none"
    return f"{lost}; 'max_seq_len: {some}' {kept}, {most}"


def enough(layout: Layout) -> tuple[int, int]:
    """The maximum length with which 95 % of the rows keep a trained token, and the one that cuts no row."""
    source = layout.source  # type: ignore[attr-defined] # only rows lose anything: a stream goes on in the next block
    starts, stops = source.starts, source.starts + source.lengths
    order = np.argsort(starts, kind="stable")
    before = source.store.first_trained(starts[order] + 1, np.maximum(stops, starts + 1)[order])
    needed = np.sort(np.where(before + 1 < (stops - starts)[order], before + 2, 0))
    needed = needed[needed > 0]
    at = int(np.ceil((1 - MAX_LOST) * len(needed))) - 1
    return int(needed[max(at, 0)]) if len(needed) else 0, int(source.lengths.max())


def _why_none(layout: Layout, settings: PreProcess, context: int | None) -> str:
    length = int(layout.lengths.max(initial=0))
    if settings.drop_short_sequences and length < longest(settings):
        return (
            f"'drop_short_sequences' drops samples of less than {longest(settings)} tokens, and the longest has "
            f"{length}; lower 'max_seq_len' or remove 'drop_short_sequences'"
        )
    if length > 1 and layout.is_lost.any():
        return too_many_lost(layout, settings, context)
    if length > 1:
        return "no token of any row is to be trained; write 'train_on: all', or look at the rows with 'olivine data'"
    return f"the longest has {length} token, and at least two are needed to train on; raise 'max_seq_len' or join rows"


def _pad_token_id(tokenizer: Any) -> int:
    """Any token will do, as padding is neither read nor trained on."""
    wanted = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return int(next(token for token in wanted if token is not None))

"""Settings of pre-processing that cannot hold together: found before any row is read."""

from collections.abc import Iterator

from olivine.config.schema import DataConfig, PreProcess
from olivine.data._split import slices
from olivine.data.forms import form_of
from olivine.errors import DataError, Problem

_PACKED = ("join", "join-random", "join-sliding-window")


def check_settings(config: DataConfig) -> Iterator[Problem]:
    """Every setting that does not hold, whatever the rows are."""
    settings, where = config.pre_process_data_config, f"data config '{config.name}'"
    for message, fix in _conflicts(settings):
        yield Problem("invalid-value", where, message, fix)
    for reading in (lambda: form_of(settings), lambda: slices(config.load_dataset_config.split)):
        try:
            reading()
        except DataError as error:
            yield Problem("invalid-value", where, f"{error}.")


def _conflicts(settings: PreProcess) -> Iterator[tuple[str, str]]:
    strategy = settings.strategy or ""
    if strategy.endswith("-random") and settings.max_samples is None:
        yield f"the strategy '{strategy}' needs 'max_samples'.", "Write how many samples are to be drawn."
    if strategy == "join-sliding-window" and not 0 < (settings.stride or 0) <= settings.max_seq_len:
        stride, length = settings.stride, settings.max_seq_len
        message = f"the strategy '{strategy}' needs a 'stride' from 1 to 'max_seq_len' ({length}), but got {stride}."
        yield message, f"Write stride: {max(1, length // 2)}, for example."
    if settings.chat_template and settings.text_template is not None:
        yield "'chat_template' and 'text_template' both say how a row becomes text.", "Remove one of them."
    if settings.train_on == "assistant" and (strategy == "pair" or _is_no_chat(settings)):
        yield "'train_on: assistant' is for chats, which have turns.", "Write train_on: completion."
    if settings.train_on == "completion" and not settings.ignore_source_in_labels:
        yield (
            "'train_on: completion' and 'ignore_source_in_labels: false' contradict each other.",
            "Remove one of them.",
        )
    if settings.pad_to_max_len and not settings.use_attention_mask and strategy not in _PACKED:
        yield (
            f"'use_attention_mask: false' with padding is only for the join strategies, not for '{strategy}'.",
            "Remove 'use_attention_mask' or 'pad_to_max_len'.",
        )


def _is_no_chat(settings: PreProcess) -> bool:
    """Whether the settings themselves say that rows are no chats; where they are silent, the columns tell."""
    told = (settings.text_template, settings.text_cols, settings.pair_format)
    return not settings.chat_template and any(value is not None for value in told)

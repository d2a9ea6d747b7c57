"""Settings of pre-processing that cannot hold together: found before any row is read."""

import difflib
from collections.abc import Iterator

from olivine.config.schema import DataConfig, LoadDataset, PreProcess
from olivine.data._files import locate
from olivine.data._split import slices
from olivine.data.forms import form_of, kind_of
from olivine.data.sources import is_encoding, is_kind, is_separator, kinds, near_encoding
from olivine.data.strategies import strategies, strategy_of
from olivine.errors import DataError, Problem, sentence
from olivine.jinja import syntax_fault

# Names for what olivine does not read, and other names for what it does.
_TABLES = frozenset(("excel", "xlsx", "xls", "ods", "spreadsheet", "pandas", "pickle", "sql", "sqlite", "xml", "html"))
_SPELLINGS = {
    **dict.fromkeys(("jsonl", "ndjson", "jsonlines", "json_lines"), "json"),
    **dict.fromkeys(("tsv",), "csv"),
    **dict.fromkeys(("txt", "plain", "plain_text"), "text"),
    **dict.fromkeys(("pq",), "parquet"),
}
_FORM_KEYS = ("chat_template", "text_template", "text_cols", "pair_format", "prompt_col")


def check_settings(config: DataConfig) -> Iterator[Problem]:
    """Every setting that does not hold, whatever the rows are."""
    settings, where = config.pre_process_data_config, f"data config '{config.name}'"
    is_folder = not is_kind(config.load_dataset_config.data_name) and locate(config) is not None
    for key, message, fix in () if is_folder else _unreadable(config.load_dataset_config):
        yield Problem("invalid-value", where, message, fix, ("load_dataset_config", key))
    for message, fix in _conflicts(settings):
        yield Problem("invalid-value", where, message, fix)
    if isinstance(settings.chat_template, str) and (fault := syntax_fault(settings.chat_template)):
        message = f"'chat_template' is no template: {fault}."
        yield Problem("invalid-value", where, message, key=("pre_process_data_config", "chat_template"))
    try:
        form_of(settings)
    except DataError as error:
        yield Problem("invalid-value", where, sentence(error), key=_form_key(settings))
    try:
        slices(config.load_dataset_config.split)
    except DataError as error:
        yield Problem("invalid-value", where, sentence(error))


def _form_key(settings: PreProcess) -> tuple[str, ...]:
    """The key that is wrong where no form can be made of the settings; empty where they name none."""
    if settings.form is None:
        return ()
    try:
        kind_of(settings)
    except DataError:
        return ("pre_process_data_config", "form")
    return ("pre_process_data_config", "form_params")


def _unreadable(load: LoadDataset) -> Iterator[tuple[str, str, str]]:
    """Keys of the source that name no way of reading files."""
    if load.data_name.lower() in _TABLES:
        there = f"there are {', '.join(kinds())}, a folder or a data set of the hub"
        message = f"'data_name: {load.data_name}' is not read; {there}."
        yield "data_name", message, "Export the rows as CSV or Parquet."
    elif (kind := _SPELLINGS.get(load.data_name.lower())) is not None:
        yield "data_name", f"'data_name: {load.data_name}' is no kind of file.", f"Write data_name: {kind}."
    elif load.data_files and (near := _misspelt_kind(load.data_name)) is not None:
        yield "data_name", f"'data_name: {load.data_name}' is no kind of file.", f"Did you mean '{near}'?"
    if load.sep is not None and not is_separator(load.sep):
        yield "sep", f"'sep' is {load.sep!r}, but must be one character.", "Write ';' or '\\t', for example."
    if load.encoding is not None and not is_encoding(load.encoding):
        near = near_encoding(load.encoding)
        fix = f"Did you mean '{near}'?" if near else "Write cp1252 or utf-16, for example."
        yield "encoding", f"'encoding' is '{load.encoding}', which is not known.", fix


def _misspelt_kind(name: str) -> str | None:
    """The kind of file that was meant by a name that is none and that no data set of the hub has: it has no owner."""
    if is_kind(name) or "/" in name:
        return None
    return next(iter(difflib.get_close_matches(name.lower(), kinds(), n=1, cutoff=0.66)), None)


def _conflicts(settings: PreProcess) -> Iterator[tuple[str, str]]:
    strategy = settings.strategy or ""
    try:
        kind = strategy_of(settings)
    except DataError as error:
        near = strategies.nearest(strategy)
        yield sentence(error), f"Did you mean '{near}'?" if near else ""
        return
    yield from kind.check(settings)
    if settings.chat_template and settings.text_template is not None:
        yield "'chat_template' and 'text_template' both say how a row becomes text.", "Remove one of them."
    named = [key for key in _FORM_KEYS if getattr(settings, key) not in (None, False)]
    if settings.form is not None and named:
        yield f"'form' and '{named[0]}' both say how a row becomes text.", "Remove one of them."
    if settings.form is None and settings.form_params:
        yield "'form_params' are those of a 'form', which is not named.", "Name the form."
    others = [key for key in ("text_template", "text_cols", "pair_format") if getattr(settings, key) is not None]
    if settings.prompt_col is not None and others:
        yield f"'prompt_col' and '{others[0]}' both say how a row becomes text.", "Remove one of them."
    if settings.train_on == "assistant" and (strategy == "pair" or _is_no_chat(settings)):
        yield "'train_on: assistant' is for chats, which have turns.", "Write train_on: completion."
    if settings.train_on == "completion" and not settings.ignore_source_in_labels:
        yield (
            "'train_on: completion' and 'ignore_source_in_labels: false' contradict each other.",
            "Remove one of them.",
        )
    if settings.pad_to_max_len and not settings.use_attention_mask and not kind.joins:
        yield (
            f"'use_attention_mask: false' with padding is only for the join strategies, not for '{strategy}'.",
            "Remove 'use_attention_mask' or 'pad_to_max_len'.",
        )


def _is_no_chat(settings: PreProcess) -> bool:
    """Whether the settings themselves say that rows are no chats; where they are silent, the columns tell."""
    told = (settings.form, settings.text_template, settings.text_cols, settings.pair_format)
    return not settings.chat_template and any(value is not None for value in told)


def within_context(settings: PreProcess, context: int) -> tuple[PreProcess, dict[str, str]]:
    """The settings with no sample longer than the model reads, and a sentence for each key that asks for more."""
    reads = f"the {context} tokens that the model reads"
    told: dict[str, str] = {
        key: f"{key} {getattr(settings, key)} is more than {reads}; rows are cut there"
        for key in ("max_seq_len", "source_max_len", "target_max_len")
        if key in settings.model_fields_set and (getattr(settings, key) or 0) > context
    }
    changes: dict[str, int] = {}
    if settings.max_seq_len > context:
        changes["max_seq_len"] = context
        if settings.stride is not None:
            changes["stride"] = min(settings.stride, context)
    n_source, n_target = settings.source_max_len, settings.target_max_len
    if settings.strategy == "pair" and (n_source or n_target):
        n_source, n_target = n_source or settings.max_seq_len, n_target or settings.max_seq_len
        if n_source + n_target > context:
            n_source = min(n_source, context // 2)
            changes |= {"source_max_len": n_source, "target_max_len": min(n_target, context - n_source)}
            if not told:
                sentence = (
                    f"source_max_len and target_max_len are together more than the {context} tokens that the model"
                )
                told["source_max_len"] = f"{sentence} reads; prompts are cut at {n_source}"
    return settings.model_copy(update=changes), told

"""Which form rows have, told by their columns; and what a silent config means. Standard library alone."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from olivine.config.schema import DataConfig, PreProcess
from olivine.data._files import DataFile, locate
from olivine.data._split import slices
from olivine.data.forms import Form, form_of, kind_of, prompt_columns, turn_columns, unwritten_keys
from olivine.data.forms.chat import Chat
from olivine.data.forms.pair import Pair
from olivine.data.sources import Row, source_of
from olivine.errors import DataError

_N_NAMED = 8  # columns that a sentence names
_N_ROWS = 16  # rows whose columns tell the form: one of them may lack a column that may be empty

# The columns that make a form of their own, and the keys that say the same in a config; the first that fits holds.
_CHATS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("messages", {"chat_template": True}),
    ("conversations", {"chat_template": True, "message_col": "conversations"}),
)
# For a model without a chat template.
_PLAIN: tuple[tuple[tuple[str, ...], Mapping[str, Any]], ...] = (
    (("prompt", "completion"), {"pair_format": "self_instruct"}),
    (("instruction", "output"), {"pair_format": "alpaca"}),
    (("input", "output"), {"pair_format": "default"}),
)
_SHOWN = {
    "self_instruct": "{prompt, completion}",
    "alpaca": "{instruction, input, output}",
    "default": "{input, output}",
    "chip2": "{text} with <human> and <bot>",
    "custom": "a pair of its own",
}
# Columns that say something to a model in one data set or another: to leave one out is hardly meant.
_TELLING = frozenset(
    (
        *("system", "system_prompt", "system_message", "history", "tools", "functions", "documents", "context"),
        *("messages", "conversations", "prompt", "instruction", "question", "query", "input", "images", "image"),
        *("audio", "audios", "video", "videos", "reasoning", "reasoning_content", "thinking", "rationale"),
        *("completion", "response", "answer", "output", "label", "target", "chosen", "rejected"),
    )
)
_USUAL_TEXTS = ("text", "sentence", "content", "review", "question")  # of one text, in data sets of classifiers
_CALLS = frozenset(("tool_calls", "function_call"))
_OF_TURNS = frozenset(("weight", "train", "thoughts", "refusal"))  # what else the messages of some data sets hold
# What templates write between texts; a text that holds such a mark went through a template already.
_MARKS = re.compile(r"<[|｜][^<>\s{}]{1,40}[|｜]>|</?[a-z]+_of_[a-z]+>|\[/?[A-Z]{3,16}\]|<</?SYS>>")  # noqa: RUF001


def resolved(config: DataConfig, sample: Sequence[Row] | None = None, template: str = "") -> DataConfig:
    """The config with every key written down that it leaves to the rows: their form, the strategy, what is trained on.

    sample: the first rows; else they are read from the files, where there are files. template: the text of the model's
    chat template, through which questions and answers go unless the config says otherwise. A config in which all of it
    stands comes back as it is.
    """
    settings = config.pre_process_data_config
    if not _says_form(settings) or settings.chat_template or settings.prompt_col:
        rows = sample if sample is not None else sample_of(config) or ()
        settings = settings.model_copy(update=dict(_told(settings, rows, template)))
    changes: dict[str, Any] = {}
    if settings.strategy is None:
        changes["strategy"] = "line-by-line" if _kind(settings).takes_row_apart else "join"
    if settings.train_on is None:
        changes["train_on"] = _trained(settings)
    return config.model_copy(update={"pre_process_data_config": settings.model_copy(update=changes)})


def for_model(config: DataConfig, template: str | None, sample: Sequence[Row] | None = None) -> DataConfig:
    """The config as it reads for a model with that chat template; as it is where rows or template (None) are unknown.

    What is written down here holds for every model that is made of this one, whatever became of its template.
    """
    try:
        if template is None or (sample is None and not is_known(config)) or columns_without_form(config):
            return config
        return resolved(config, sample, template)
    except DataError:  # `check` says what is wrong
        return config


def is_known(config: DataConfig) -> bool:
    """Whether the form of the rows is known here and now: the config says it, or the files are local."""
    return _says_form(config.pre_process_data_config) or locate(config) is not None


def columns_without_form(config: DataConfig) -> list[str]:
    """The columns of the rows, when neither they nor the config say how a row becomes text."""
    settings = config.pre_process_data_config
    if _says_form(settings):
        return []
    sample = sample_of(config) or []
    return [] if _told(settings, sample, "") else _columns(sample)


def text_columns(config: DataConfig, columns: Sequence[str]) -> list[str]:
    """Columns that hold the text of a row for a model that does not write any: those named, or one of the usual."""
    named = config.pre_process_data_config.text_cols
    if named:
        return [named] if isinstance(named, str) else list(named)
    return [column for column in _USUAL_TEXTS if column in columns][:1]


def _says_form(settings: PreProcess) -> bool:
    named = (settings.form, settings.chat_template, settings.text_template, settings.text_cols, settings.pair_format)
    return any(value not in (None, False) for value in (*named, settings.prompt_col, settings.answer_col))


def _told(settings: PreProcess, sample: Sequence[Row], template: str) -> Mapping[str, Any]:
    """What the columns of the rows add to the settings."""
    columns = _columns(sample)
    if settings.prompt_col:
        others = (settings.chat_template, settings.text_template, settings.text_cols, settings.pair_format)
        return {"chat_template": bool(template)} if others == (None,) * 4 else {}
    if settings.message_col in columns and settings.message_col != "messages":
        return {"chat_template": settings.chat_template or True}
    chat = next((keys for column, keys in _CHATS if column in columns), None)
    if chat is not None:
        return {**chat, "chat_template": settings.chat_template or True}
    turns = turn_columns(columns)
    if settings.chat_template:
        return turns or {}
    may_be_chat = template and settings.chat_template is None and settings.strategy != "pair"
    if turns and may_be_chat and not _is_rendered(sample, template):
        return {"chat_template": True, **turns}
    return _plain(settings, columns, {"chat_template": False, **turns} if turns else {})


def _plain(settings: PreProcess, columns: Sequence[str], turns: Mapping[str, Any]) -> Mapping[str, Any]:
    """The form of columns without a chat template."""
    for needed, keys in _PLAIN:
        if set(needed) <= set(columns):
            return keys
    if settings.strategy == "pair":
        return turns or {"pair_format": "default"}
    return {"text_cols": "text"} if "text" in columns else turns or {}


def _is_rendered(sample: Sequence[Row], template: str) -> bool:
    """Whether the rows hold marks of the template: they are finished texts."""
    marks = set(_MARKS.findall(template))
    if "<|" in template:  # written round the role, whatever that is
        marks |= {f"<|{role}|>" for role in ("system", "user", "assistant")}
    texts = (value for row in sample for value in row.values() if isinstance(value, str))
    return any(mark in text for text in texts for mark in marks)


def _trained(settings: PreProcess) -> str:
    if not settings.ignore_source_in_labels:
        return "all"
    return "completion" if settings.strategy == "pair" else _kind(settings).trains_on


def _kind(settings: PreProcess) -> type[Form]:
    """The form of the rows; any other where the config names none that there is, which `check` says."""
    try:
        return kind_of(settings)
    except DataError:
        return Form


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def sample_of(config: DataConfig) -> list[Row] | None:
    """The first rows of the config's local files; None when they are not here, empty when they cannot be read.

    Of Parquet files the columns alone are known, as rows without values.
    """
    local = locate(config)
    if local is None:
        return None
    for part in slices(config.load_dataset_config.split):
        for file in local.splits.get(part.name, []):
            if rows := _sample_of_file(file):
                return rows
    return []


def _sample_of_file(file: DataFile) -> list[Row]:
    try:
        return _sample(file, file.path.stat().st_mtime_ns)
    except OSError:  # `check` names what is wrong with the file
        return []


@lru_cache(maxsize=64)
def _sample(file: DataFile, changed_ns: int) -> list[Row]:  # noqa: ARG001 - a file that changed is read again
    """The first rows; a plan asks many times."""
    try:
        source = source_of(file.kind)
        if (columns := source.columns(file.path)) is not None:
            return [dict.fromkeys(columns)]
        if source.needs_package:
            return []
        return [row for _, row in islice(file.rows(), _N_ROWS) if not isinstance(row, DataError)]
    except (OSError, DataError):  # `check` names what is wrong with the file
        return []


def describe(config: DataConfig, template: str | None = "") -> str:
    """The form of the rows and what of them is trained on, in a sentence.

    DataError where nothing tells the form, or it names one that does not exist.

    Columns that are not read and hardly meant to be left out are told by `doubts`.

    template: the text of the model's chat template; None where it is not known yet.
    """
    if columns := columns_without_form(config):
        raise DataError(f"the form of '{config.name}' is not known from its columns: {', '.join(columns)}")
    if not is_known(config):
        return f"the form of '{config.name}' is told by its columns when the data is read"
    is_told = _says_form(config.pre_process_data_config)
    settings = resolved(config, template=template or "").pre_process_data_config
    kind_of(settings)  # there is such a form
    there = [] if is_told else _columns(sample_of(config) or ())
    if not is_told and not there:
        raise DataError(f"the form of '{config.name}' is not known: no row of it can be read")
    form = _form_sentence(settings, template)
    how = "" if is_told else f" (told by its columns: {', '.join(there)})"
    if template is None and settings.prompt_col and not settings.chat_template:
        how = f", written by the chat template of a model that has one{how}"
    left_out = [column for column in unread(config, template or "") if str(column).lower() not in _TELLING]
    beside = f"; not read: {_some(left_out)}" if left_out else ""
    return f"the rows of '{config.name}' are {form}{how}; {_trained_sentence(settings)}{beside}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_N_NAMED]) + (f" and {len(names) - _N_NAMED} more" if len(names) > _N_NAMED else "")


def unread(config: DataConfig, template: str = "", sample: Sequence[Row] | None = None) -> list[str]:
    """Columns of the rows that the model never sees, where the config does not choose the columns itself.

    sample: the first rows, where they are not here.
    """
    rows = sample if sample is not None else sample_of(config) or ()
    settings = resolved(config, rows, template).pre_process_data_config
    columns = _columns(rows)
    try:
        form = form_of(settings)
    except DataError:  # `check` says what is wrong
        return []
    if isinstance(form, Chat):
        known = form.read(columns, template)
    elif _says_form(config.pre_process_data_config):
        return []
    else:
        known = [*form.columns, "input"] if settings.pair_format == "alpaca" else list(form.columns)
        if settings.prompt_col:
            known += prompt_columns(settings.prompt_col)
    return [column for column in columns if column not in known]


def doubts(config: DataConfig, template: str = "", sample: Sequence[Row] | None = None) -> Iterator[str]:
    """What of the config is hardly meant: telling columns that are not read, a chat model trained without its template.

    template: the text of the model's chat template, where it has one and it is known. sample: the first rows, where
    they are not here.
    """
    if sample is None and not is_known(config):
        return
    rows = sample if sample is not None else sample_of(config) or ()
    if not rows and not _says_form(config.pre_process_data_config):  # `check` says why there is none
        return
    for column in unread(config, template, rows):
        if str(column).lower() in _TELLING:
            why = ": the model's chat template does not use it" if column in ("tools", "documents") else ""
            yield f"the column '{column}' of '{config.name}' is not read{why}"
    settings = resolved(config, rows, template).pre_process_data_config
    for key in _unwritten(settings, rows, template):
        why = ": a turn that only calls tools is not trained on" if key in _CALLS else ""
        yield (
            f"the chat template does not write '{key}' of the messages in '{settings.message_col}' of "
            f"'{config.name}', so the model never sees it{why}; write a chat_template that does, or leave it out"
        )
    if n_silent := _n_silent(settings, rows):
        yield (
            f"in {n_silent} of the first {len(rows)} rows of '{config.name}' a turn of the assistant is empty: it is "
            "read, but not trained on"
        )
    if not template or settings.chat_template is True:
        return
    own = [text for text in (settings.text_template, settings.input_template, settings.chat_template) if text]
    if not _is_rendered([*rows, {value: value for value in own}], template):
        yield (
            f"the model has a chat template, and '{config.name}' trains it on other text: in a chat, it is asked in a "
            "form that it was not trained on; 'prompt_col' and 'answer_col' (or 'chat_template: true' for messages) "
            "write rows by the template"
        )


def _n_silent(settings: PreProcess, rows: Sequence[Row]) -> int:
    """How many of the rows have an answer, and beside it a turn of the assistant that says nothing."""
    try:
        form = form_of(settings)
        if not isinstance(form, Chat):
            return 0
        return sum(form.is_answered(row) and form.n_silent(row) > 0 for row in rows)
    except DataError:  # `check` says what is wrong
        return 0


def _unwritten(settings: PreProcess, rows: Sequence[Row], template: str) -> list[str]:
    """Telling keys of the messages that the template of the config, or else of the model, does not write."""
    if not settings.chat_template or settings.prompt_col is not None:
        return []
    written_by = settings.chat_template if isinstance(settings.chat_template, str) else template
    keys = (key for row in rows for key in unwritten_keys(row.get(settings.message_col), written_by) if written_by)
    return [key for key in dict.fromkeys(keys) if str(key).lower() in _TELLING | _CALLS | _OF_TURNS]


def _form_sentence(settings: PreProcess, template: str | None) -> str:
    if settings.form is not None:
        return f"of the form '{settings.form}'"
    if settings.chat_template:
        of_model = ", written by the model's chat template" if template != "" else ""
        of_config = ", written by a template of the config"
        return f"chats in {_where(settings)}{of_config if isinstance(settings.chat_template, str) else of_model}"
    if settings.prompt_col:
        return f"pairs of {_where(settings)}"
    if issubclass(_kind(settings), Pair):
        return f"pairs {_SHOWN[settings.pair_format or 'default']}"
    if settings.text_template is not None:
        return "text by text_template"
    columns = settings.text_cols or "text"
    return f"plain text in {columns if isinstance(columns, str) else ', '.join(columns)}"


def _where(settings: PreProcess) -> str:
    if settings.prompt_col is None:
        return f"'{settings.message_col}'"
    prompt = " with ".join(f"'{column}'" for column in prompt_columns(settings.prompt_col))
    return f"{prompt} (user) and '{settings.answer_col}' (assistant)"


def _trained_sentence(settings: PreProcess) -> str:
    """What is trained on, and for everything what the completion would be."""
    if settings.train_on == "assistant":
        return "the turns of the assistant are trained on"
    if settings.train_on == "completion":
        return f"the completion alone is trained on, {_completion(settings)}"
    if settings.text_template is None and not _kind(settings).takes_row_apart:
        return "all of it is trained on"
    return f"all of it is trained on; 'train_on: completion' would train on {_completion(settings)} alone"


def _completion(settings: PreProcess) -> str:
    if settings.chat_template:
        return "the last turn of the assistant"
    try:
        column = form_of(settings).target
    except DataError:  # `check` says what is wrong with the template
        return "its end"
    return f"the text from '{column}' on" if settings.text_template else f"'{column}'"

"""Which form rows have, told by their columns; and what a silent config means. Standard library alone."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from olivine.config.schema import DataConfig, PreProcess
from olivine.data._files import DataFile, locate
from olivine.data._split import slices
from olivine.data.forms import form_of, reads_pairs
from olivine.data.sources import READERS, parquet_footer
from olivine.errors import DataError

_N_ROWS = 16  # rows whose columns tell the form: one of them may lack a column that may be empty

# The columns that make a form, and the keys that say the same in a config. The first that fits holds: data sets of
# chats and of instructions often carry the finished text as well.
_FORMS: tuple[tuple[tuple[str, ...], Mapping[str, Any]], ...] = (
    (("messages",), {"chat_template": True}),
    (("conversations",), {"chat_template": True, "message_col": "conversations"}),
    (("prompt", "completion"), {"pair_format": "self_instruct"}),
    (("instruction", "output"), {"pair_format": "alpaca"}),
    (("input", "output"), {"pair_format": "default"}),
    (("text",), {"text_cols": "text"}),
)
_SHOWN = {
    "self_instruct": "{prompt, completion}",
    "alpaca": "{instruction, input, output}",
    "default": "{input, output}",
    "chip2": "{text} with <human> and <bot>",
    "custom": "a pair of its own",
}


def resolved(config: DataConfig, columns: Sequence[str] | None = None) -> DataConfig:
    """The config with every key written down that it leaves to the rows: their form, the strategy, what is trained on.

    columns: those of the rows; else they are read from the first rows of the files, where there are files. A config in
    which all of it stands comes back as it is.
    """
    settings = config.pre_process_data_config
    if not _says_form(settings):
        there = columns if columns is not None else columns_of(config)
        found = _form_of_columns(there or (), settings)
        settings = settings.model_copy(update=dict(found))
    elif settings.chat_template and settings.message_col == "messages":
        there = columns if columns is not None else columns_of(config) or ()
        if "conversations" in there and "messages" not in there:
            settings = settings.model_copy(update={"message_col": "conversations"})
    changes: dict[str, Any] = {}
    if settings.strategy is None:
        changes["strategy"] = "line-by-line" if settings.chat_template or reads_pairs(settings) else "join"
    if settings.train_on is None:
        changes["train_on"] = _trained(settings)
    return config.model_copy(update={"pre_process_data_config": settings.model_copy(update=changes)})


def is_known(config: DataConfig) -> bool:
    """Whether the form of the rows is known here and now: the config says it, or the files are local."""
    return _says_form(config.pre_process_data_config) or locate(config) is not None


def columns_without_form(config: DataConfig) -> list[str]:
    """The columns of the rows, when neither they nor the config say how a row becomes text."""
    settings = config.pre_process_data_config
    if _says_form(settings):
        return []
    columns = columns_of(config) or []
    return [] if _form_of_columns(columns, settings) else columns


def _says_form(settings: PreProcess) -> bool:
    named = (settings.chat_template, settings.text_template, settings.text_cols, settings.pair_format)
    return any(value not in (None, False) for value in named)


def _form_of_columns(columns: Sequence[str], settings: PreProcess) -> Mapping[str, Any]:
    if settings.message_col in columns and settings.message_col != "messages":
        return {"chat_template": True}
    for needed, keys in _FORMS:
        if set(needed) <= set(columns) and (settings.strategy != "pair" or "text_cols" not in keys):
            return keys
    return {"pair_format": "default"} if settings.strategy == "pair" else {}


def _trained(settings: PreProcess) -> str:
    if not settings.ignore_source_in_labels:
        return "all"
    if settings.strategy == "pair" or reads_pairs(settings):
        return "completion"
    return "assistant" if settings.chat_template else "all"


def columns_of(config: DataConfig) -> list[str] | None:
    """The columns of the first rows of the config's local files; None when they are not here or cannot be read."""
    local = locate(config)
    if local is None:
        return None
    for part in slices(config.load_dataset_config.split):
        for file in local.splits.get(part.name, []):
            if found := _columns_of_file(file):
                return found
    return None


def _columns_of_file(file: DataFile) -> list[str]:
    try:
        return _columns(file, file.path.stat().st_mtime_ns)
    except OSError:  # `check` names what is wrong with the file
        return []


@lru_cache(maxsize=64)
def _columns(file: DataFile, changed_ns: int) -> list[str]:  # noqa: ARG001 - a file that changed is read again
    """The columns of the first rows; a plan asks many times."""
    try:
        if file.kind == "parquet":
            return parquet_footer.read(file.path).columns
        rows = [row for _, row in islice(READERS[file.kind](file.path), _N_ROWS) if not isinstance(row, DataError)]
    except (OSError, DataError):  # `check` names what is wrong with the file
        return []
    return list(dict.fromkeys(column for row in rows for column in row))


def describe(config: DataConfig) -> str:
    """The form of the rows and what of them is trained on, in a sentence. DataError where nothing tells it."""
    is_told = _says_form(config.pre_process_data_config)
    there = None if is_told else columns_of(config)
    if columns := columns_without_form(config):
        raise DataError(f"the form of '{config.name}' is not known from its columns: {', '.join(columns)}")
    if not is_known(config):
        return f"the form of '{config.name}' is told by its columns when the data is read"
    settings = resolved(config, there).pre_process_data_config
    how = "" if is_told else f" (told by its columns: {', '.join(there or ())})"
    return f"the rows of '{config.name}' are {_form_sentence(settings)}{how}; {_trained_sentence(settings)}"


def _form_sentence(settings: PreProcess) -> str:
    if settings.chat_template:
        of_whom = "a template of the config" if isinstance(settings.chat_template, str) else "the model's template"
        return f"chats in '{settings.message_col}', written by {of_whom}"
    if reads_pairs(settings):
        return f"pairs {_SHOWN[settings.pair_format or 'default']}"
    if settings.text_template is not None:
        return "text by text_template"
    columns = settings.text_cols or "text"
    return f"plain text in {columns if isinstance(columns, str) else ', '.join(columns)}"


def _trained_sentence(settings: PreProcess) -> str:
    """What is trained on, and for everything what the completion would be."""
    if settings.train_on == "assistant":
        return "the turns of the assistant are trained on"
    if settings.train_on == "completion":
        return f"the completion alone is trained on, {_completion(settings)}"
    if not (settings.chat_template or reads_pairs(settings) or settings.text_template):
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

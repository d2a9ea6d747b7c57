"""Flags that say which rows a command reads, and how they become text."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from olivine.cli._flags import Flags, template_as_typed, value_of

Command = TypeVar("Command", bound=Callable[..., Any])

# flag, its other names -> key of pre_process_data_config, help
_TEXT = (
    (
        ("--text-template",),
        "text_template",
        "Text of a row, with its columns in braces: 'Q: {question}\\nA: {answer}'.",
    ),
    (("--text-field", "--text-cols"), "text_cols", "Column that is the text; several with commas between."),
    (("--prompt-col",), "prompt_col", "Column of what a user says."),
    (("--answer-col",), "answer_col", "Column of the answer to it."),
    (("--message-col",), "message_col", "Column of the messages of a chat."),
    (("--max-seq-len",), "max_seq_len", "Tokens that a sample holds at most."),
    (("--max-samples",), "max_samples", "Samples at most."),
)


def in_flags(text: str) -> str:
    """A sentence about keys of rows in the words of the command line: `prompt_col: a` is `--prompt-col a` there."""
    for (flag, *_), key, _ in _TEXT:
        text = re.sub(rf"(?<![\w'-]){key}\b:?", flag, text)
    return text.replace(", in pre_process_data_config", "")


@dataclass(frozen=True)
class Rows:
    """The rows that were asked for. data: file, folder or name on the hub; None: none are."""

    data: str | None
    files: str | None
    source: dict[str, Any]
    text: dict[str, Any]

    @property
    def is_given(self) -> bool:
        """Whether there are any."""
        return self.data is not None or self.files is not None

    def put(self, flags: Flags, name: str, data: str | None = None, flag: str = "--data") -> None:
        """Add them to the config under that name. data: others, of the same form."""
        where = _source(data, None) if data is not None else _source(self.data, self.files)
        text = {"pre_process_data_config": self.text} if self.text else {}
        names = {("pre_process_data_config", key): names[0] for names, key, _ in _TEXT if key in self.text}
        flags.add_data({"name": name, "load_dataset_config": {**where, **self.source}, **text}, flag, names)


def rows_options(function: Command) -> Command:
    """Flags of rows; the command gets them as `rows`, a Rows."""

    @functools.wraps(function)
    def with_rows(
        *, data: str | None, data_files: str | None, subset: str | None, split: str | None, **others: Any
    ) -> Any:
        source = {key: value for key, value in (("subset", subset), ("split", split)) if value is not None}
        text = {key: _read(key, value) for _, key, _ in _TEXT if (value := others.pop(key)) is not None}
        if others.pop("chat_template"):
            text["chat_template"] = True
        return function(rows=Rows(data, data_files, source, text), **others)

    command: Any = with_rows
    for option in (
        *(click.option(*names, key, help=told) for names, key, told in reversed(_TEXT)),
        click.option(
            "--chat-template", "--use-chat-template", is_flag=True, help="Rows are chats: use the model's template."
        ),
        click.option("--split", "--train-split", help="Which part of the data, such as train[:10%]."),
        click.option("--subset", help="Configuration of a data set on the hub."),
        click.option("--data-files", help="Files of the rows, with commas between."),
        click.option("-d", "--data", "--data-name", help="Rows: a JSON, CSV, Parquet or text file, or a hub data set."),
    ):
        command = option(command)
    return cast("Command", command)


def _read(key: str, text: str) -> Any:
    """The value of a flag; what is text stays text, whatever it looks like."""
    if key in ("max_seq_len", "max_samples"):
        return value_of(text)
    if key == "text_template":  # as it is typed in a shell
        return template_as_typed(text)
    names = [part.strip() for part in text.split(",")]
    return names if key in ("text_cols", "prompt_col") and len(names) > 1 else text


def _source(data: str | None, files: str | None) -> dict[str, Any]:
    """Where rows come from: a file by its suffix, else a folder or a name on the hub."""
    if files is not None:
        names = [part.strip() for part in files.split(",")]
        named = data if data is not None else _kind(names[0]) or "json"
        return {"data_name": named, "data_files": names[0] if len(names) == 1 else names}
    kind = _kind(data or "")
    if kind is not None or Path(data or "").is_file():
        return {"data_name": kind or "json", "data_files": data}
    return {"data_name": data}


def _kind(name: str) -> str | None:
    """The kind of file that the name tells, below the suffix of a compressed one; None: none."""
    from olivine.data.sources import kinds

    suffixes = [suffix.lower() for suffix in Path(name).suffixes[-2:]]
    return next((kind for suffix in reversed(suffixes) for kind, known in kinds().items() if suffix in known), None)

"""A first config from a few wishes: what `olivine init` writes, with a comment for everything that one may change."""

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from olivine import data
from olivine.config.schema import DataConfig
from olivine.data.sources import guessed_options, kinds
from olivine.errors import DataError, Problem
from olivine.paths import is_file
from olivine.workflow.guessed_pair import guessed_pair

Method = Literal["lora", "qlora", "full", "none"]
Ship = Literal["int4", "fp16", "fp32", "folder"]
Device = Literal["cpu", "gpu"]

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
ROWS = "rows"  # what the config calls them
_WIDTH = 108  # of a comment
_TYPES = {"lora": "LoRA", "qlora": "QLoRA", "full": "FullFinetune"}
_RATES = {"lora": 2e-4, "qlora": 2e-4, "full": 1e-5}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class Wishes:
    """What a first config is to say.

    model: a folder, .gguf file or hub name. rows: the file to train on. prompt_col, answer_col: columns that are asked
    and answered, where the rows do not tell. text_template: in their place, a row as text. sep, encoding: of the file.
    method: how it is tuned. ship: what comes out; a folder is a Hugging Face model. device: where that will run.
    max_drop: accuracy that a step may lose, in points.
    """

    model: str
    rows: Path | None
    prompt_col: str | None = None
    answer_col: str | None = None
    text_template: str | None = None
    sep: str | None = None
    encoding: str | None = None
    method: Method = "lora"
    ship: Ship = "int4"
    device: Device = "cpu"
    max_drop: float = 3.0
    output_dir: str = "outputs"

    def data_config(self, folder: Path) -> dict[str, Any]:
        """The rows as a data config of a file in that folder."""
        if self.rows is None:
            return {}
        load = {"data_name": kind_of(self.rows), "data_files": _from(folder, self.rows)}
        reading = {"sep": self.sep, "encoding": self.encoding}
        words = {"prompt_col": self.prompt_col, "answer_col": self.answer_col, "text_template": self.text_template}
        return {
            "name": ROWS,
            "load_dataset_config": load | {key: value for key, value in reading.items() if value is not None},
            "pre_process_data_config": {key: value for key, value in words.items() if value is not None},
        }


@dataclass(frozen=True)
class Columns:
    """What a look at the first rows tells.

    names: of the columns; is_told: they say how a row becomes text. pair: else the columns that ask and answer, as far
    as cells tell, and then others that could answer.
    """

    names: tuple[str, ...]
    is_told: bool
    sentence: str = ""
    pair: tuple[str, ...] | None = None


def kind_of(path: Path) -> str:
    """How a file of rows is read, by its suffix; DataError where no reader takes it."""
    known = {suffix: kind for kind, suffixes in kinds().items() for suffix in suffixes}
    if (kind := known.get(path.suffix.lower())) is None:
        raise DataError(f"'{path}' is no file of rows that can be read; there are: {', '.join(sorted(known))}")
    return kind


def rows_in(folder: Path) -> Path | None:
    """The only file of rows in a folder, or the one that is named train."""
    suffixes = {suffix for kind, all_of in kinds().items() if kind != "text" for suffix in all_of}
    is_config = {"olive-config.json", "config.json", "package.json", "olive-schema.json"}
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in suffixes and path.name not in is_config)
    train = [path for path in files if path.stem.lower().startswith("train")]
    chosen = train or files
    return Path(chosen[0].name) if len(chosen) == 1 else None


def as_written(wishes: Wishes) -> Wishes:
    """The wishes with the separator and the encoding that the file seems to have, where they do not say them."""
    if wishes.rows is None or not is_file(wishes.rows):
        raise DataError(f"there is no file of rows '{wishes.rows}'")
    options = guessed_options(wishes.rows, kind_of(wishes.rows))
    return replace(wishes, sep=wishes.sep or options.separator, encoding=wishes.encoding or options.encoding)


def look(wishes: Wishes) -> Columns:
    """What the first rows of the file are; DataError where it cannot be read."""
    config = DataConfig.model_validate(replace(wishes, prompt_col=None, answer_col=None).data_config(Path.cwd()))
    rows = data.sample_of(config) or []
    names = tuple(dict.fromkeys(str(name) for row in rows for name in row))
    if not names and (problem := next(iter(data.check(config)), None)) is not None:
        raise DataError(str(problem))
    if data.columns_without_form(config):
        return Columns(names, is_told=False, pair=guessed_pair(rows))
    return Columns(names, is_told=True, sentence=data.describe(config, None))


def in_words(wishes: Wishes) -> str:
    """What rows become with the columns that were chosen, and which are not read."""
    return data.describe(DataConfig.model_validate(wishes.data_config(Path.cwd())), None)


def problems_of_rows(wishes: Wishes) -> list[Problem]:
    """What keeps the rows, with the columns that were chosen, from being trained on."""
    config = DataConfig.model_validate(wishes.data_config(Path.cwd()))
    return list(data.check(config))


def content(wishes: Wishes, folder: Path) -> dict[str, Any]:
    """The config without comments. folder: where its file will lie."""
    rows = wishes.data_config(folder)
    is_scored_only = bool(rows) and wishes.method == "none"
    return {
        "input_model": {"type": "HfModel", "model_path": wishes.model},
        **({"data_configs": [rows]} if rows else {}),
        **_systems(wishes),
        "passes": dict(_passes(wishes)),
        "quality": {"max_drop": f"{wishes.max_drop:g}pp"} | ({"data_config": ROWS} if is_scored_only else {}),
        "output_dir": wishes.output_dir,
    }


def commented(wishes: Wishes, folder: Path, sentence: str = "", schema: str | None = None) -> str:
    """The config as YAML with its comments. sentence: on the rows. schema: a file that an editor completes from."""
    config = content(wishes, folder)
    lines = [f"# yaml-language-server: $schema={schema}"] if schema else []
    lines += ["# Made by 'olivine init'. 'olivine plan' says what it would do, 'olivine run' does it.", ""]
    for key, value in config.items():
        told = [line for comment in _comments(key, wishes, sentence) for line in textwrap.wrap(comment, _WIDTH)]
        lines += [*(f"# {line}" for line in told), *_yaml({key: value}), ""]
    return "\n".join(lines)


def _systems(wishes: Wishes) -> dict[str, Any]:
    accelerator = {"device": wishes.device, "execution_providers": [_PROVIDERS[wishes.device]]}
    here = {"type": "LocalSystem", "accelerators": [accelerator]}
    return {"systems": {"here": here}, "host": "here", "target": "here"}


def _passes(wishes: Wishes) -> Iterator[tuple[str, dict[str, Any]]]:
    if wishes.method != "none":
        arguments = {
            "num_train_epochs": 3,
            "per_device_train_batch_size": 8,
            "learning_rate": _RATES[wishes.method],
        }
        rank = {"r": 16, "alpha": 32} if wishes.method != "full" else {}
        rows = {"train_data_config": ROWS, "eval_dataset_size": 0.2}
        yield "tune", {"type": _TYPES[wishes.method], **rank, **rows, "training_args": arguments}
        if wishes.method != "full":
            yield "merge", {"type": "MergeAdapterWeights"}
    if wishes.ship != "folder":
        yield "build", {"type": "ModelBuilder", "precision": wishes.ship}


def _comments(key: str, wishes: Wishes, sentence: str) -> Iterator[str]:
    match key:
        case "input_model":
            yield "A folder of a Hugging Face model, a .gguf file, or a name on the hub."
        case "data_configs":
            yield "Your rows. 'olivine data' shows them as the model will see them, with what is trained on marked."
            if sentence:
                yield f"{sentence[0].upper()}{sentence[1:]}."
        case "systems":
            yield "Where it runs: 'host' does the work, 'target' is what the result is for. 'gpu' needs olivine[gpu]."
        case "passes":
            yield "What is done, in this order. 'olivine passes' lists them, 'olivine passes NAME' the params of one."
            if wishes.method != "none":
                yield "eval_dataset_size: this share of the rows is never trained on, and every model is scored on it."
        case "quality":
            yield "No step may lose more accuracy than this (in points), or the run ends with exit code 1."
        case "output_dir":
            yield "The result lies in its folder 'model'; results of steps are kept in .olive-cache."


def _yaml(value: Any, indent: int = 0) -> Iterator[str]:
    """Lines of block style; what is not nested is written as JSON, which is YAML too."""
    space = " " * indent
    for key, item in value.items():
        if isinstance(item, dict) and any(isinstance(part, dict | list) for part in item.values()):
            yield f"{space}{_word(key)}:"
            yield from _yaml(item, indent + 2)
        elif isinstance(item, list) and any(isinstance(part, dict) for part in item):
            yield f"{space}{_word(key)}:"
            for part in item:
                first, *others = _yaml(part, indent + 4)
                yield f"{space}  - {first.lstrip()}"
                yield from others
        elif isinstance(item, dict) and item:
            yield f"{space}{_word(key)}:"
            yield from (f"{space}  {_word(name)}: {_written(part)}" for name, part in item.items())
        else:
            yield f"{space}{_word(key)}: {_written(item)}"


def _written(value: Any) -> str:
    """A value; a word that YAML reads as nothing else needs no quotes."""
    is_plain = isinstance(value, str) and value.isascii() and value.isidentifier() and value.lower() not in _NOT_WORDS
    return value if is_plain else json.dumps(value, ensure_ascii=False)


_NOT_WORDS = frozenset(("true", "false", "null", "yes", "no", "on", "off", "y", "n"))


def _word(key: str) -> str:
    return key if key.isidentifier() else json.dumps(key, ensure_ascii=False)


def _from(folder: Path, path: Path) -> str:
    """The file as a config in that folder names it."""
    absolute = path.absolute()
    return absolute.relative_to(folder).as_posix() if absolute.is_relative_to(folder) else str(absolute)

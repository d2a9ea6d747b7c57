"""The rows of a data config one after the other: none of them stays in memory, and each knows where it stands."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from olivine.config.schema import DataConfig, PreProcess, Resource
from olivine.config.shape import LOAD_DATASET_TYPE
from olivine.data import hub
from olivine.data._answers import Unanswered
from olivine.data._detect import resolved
from olivine.data._files import DataFile, locate
from olivine.data._raw import is_raw, raw_rows
from olivine.data._rows import Rows, parts_of, remote, rows_of
from olivine.data._scripted import LABEL, is_made_up, is_scripted, made_up_rows, scripted_rows
from olivine.data.forms import Form, form_of
from olivine.data.sources import Row, is_kind, place, source_of
from olivine.errors import DataError

N_SAMPLE = 16  # rows by which others are judged
_N_CHARACTERS = 2000  # of a text in such a row


class Placed(NamedTuple):
    """A row, the index of its file among those of the stream, and its number there (its line, mostly)."""

    row: Row
    file: int
    number: int


class RowStream:
    """Rows in the order of the data set, as often as they are asked for.

    Raises DataError as `read_rows` does; a row that cannot be read is named when it is reached.
    """

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        local = locate(config)
        self._remote: Any = remote(config) if local is None else None
        self._parts = parts_of(config, local) if local is not None else []
        self.files: list[DataFile] = list(dict.fromkeys(file for part, files in self._parts for file in files))

    @property
    def fingerprint(self) -> str | None:
        """A hash of the rows of a data set of the hub; None for local files, whose bytes tell them from others."""
        return None if self._remote is None else hub.content(self._remote)

    def columns(self, n_rows: int = 16) -> list[str]:
        """The columns of the first rows."""
        if self._remote is not None:
            return list(self._remote.column_names)
        return list(dict.fromkeys(column for row in self.sample(n_rows) for column in row))

    def sample(self, n_rows: int = 16) -> list[Row]:
        """The first rows."""
        return [placed.row for placed in islice(self, n_rows)]

    def where(self, file: int, number: int) -> str:
        """Where a row stands: "train.jsonl:37"."""
        if self._remote is not None:
            return f"{self._config.load_dataset_config.data_name}: row {number}"
        return place(self.files[file].shown, self.files[file].kind, number)

    def __iter__(self) -> Iterator[Placed]:
        if self._remote is not None:
            yield from (Placed(row, 0, number) for number, row in enumerate(hub.undecoded(self._remote), 1))
            return
        for part, files in self._parts:
            if part.start is None and part.stop is None:
                yield from self._rows(files)
            else:
                chosen = part.indices(_count(files, self))
                yield from islice(self._rows(files), chosen.start, max(chosen.start, chosen.stop))

    def label_names(self, column: str) -> list[str] | None:
        """What the numbers in a column are called, where a data set of the hub says it."""
        return hub.label_names(self._remote, column) if self._remote is not None else None

    def about(self) -> int:
        """How many rows there may be, for a progress bar: files are counted by their lines. 0 where it is not known."""
        if self._remote is not None:
            return len(self._remote)
        return sum(_about(file) for file in self.files)

    def _rows(self, files: Sequence[DataFile]) -> Iterator[Placed]:
        places = [self.files.index(file) for file in files]
        yield from (Placed(row, places[index], number) for index, number, row in rows_of(files))


def pick_rows(config: DataConfig, choose: Callable[[int], Sequence[int]], template: str = "") -> Rows:
    """Some rows in the order of the data set; the others are read, but do not stay in memory.

    choose: from the number of rows that have an answer to the increasing indices of those wanted. template: the text of
    the model's chat template. Raises DataError as `read_rows` does, and when too many rows have no answer.
    """
    stream = RowStream(config)
    config = resolved(config, stream.sample(), template)
    form = form_of(config.pre_process_data_config)
    chosen = set(choose(_count_answered(config, stream, form)))
    answered = (placed for placed in stream if form.is_answered(placed.row))
    return _kept(stream, [placed for index, placed in enumerate(answered) if index in chosen])


def pick_any(config: DataConfig, choose: Callable[[int], Sequence[int]]) -> Rows:
    """The same of all rows, whatever they hold: a model that writes no text asks for no answer in them."""
    if is_scripted(config) or is_made_up(config) or is_raw(config):
        if is_scripted(config):
            kept = scripted_rows(config, choose, partial(_raw, config))
        else:
            rows = raw_rows(config) if is_raw(config) else made_up_rows(config)
            kept = [rows[index] for index in choose(len(rows))]
        return Rows(kept, lambda index: f"data config '{config.name}': row {index + 1}")
    settings, stream = config.pre_process_data_config, RowStream(config)
    column = settings.label_col or LABEL
    names = stream.label_names(column) if _compares_names(settings) else None
    left_out = set(settings.labels_to_filter)
    numbers = [number for number, placed in enumerate(stream) if _named(placed, column, names) not in left_out]
    numbers = _limited(numbers, settings)
    chosen = {numbers[index] for index in choose(len(numbers))}
    chosen_rows: list[Placed] = [placed for index, placed in enumerate(stream) if index in chosen]
    if names is not None:
        chosen_rows = [one._replace(row={**one.row, column: _named(one, column, names)}) for one in chosen_rows]
    return _kept(stream, chosen_rows)


def _limited(numbers: list[int], settings: PreProcess) -> list[int]:
    """The first rows, or a share of them that is drawn, as `limit` or `max_samples` say."""
    limit = settings.limit if settings.limit is not None else settings.max_samples
    if not limit:
        return numbers
    if limit >= 1:
        return numbers[: int(limit)]
    n_drawn = max(1, int(limit * len(numbers)))
    return sorted(random.Random(settings.random_seed).sample(numbers, min(n_drawn, len(numbers))))  # noqa: S311


def _compares_names(settings: PreProcess) -> bool:
    """Whether the numbers of a data set's classes may be others than the model's: their names tell which is which."""
    is_heard = settings.type == "audio_classification_pre_process"
    return bool(is_heard or settings.align_labels or settings.labels_to_filter)


def _named(placed: Placed, column: str, names: list[str] | None) -> Any:
    """The label of a row, as its name where the data set tells the names of its numbers."""
    value = placed.row.get(column)
    if isinstance(value, list):  # of the words of a row
        return tuple(value)
    return names[value] if names is not None and type(value) is int and 0 <= value < len(names) else value


def _raw(config: DataConfig) -> Any:
    """The rows of the files or of the hub, as the data set of the library that scripts know."""
    if locate(config) is None:
        return remote(config)
    from datasets import Dataset

    return Dataset.from_list([dict(placed.row) for placed in RowStream(config)])


def _kept(stream: RowStream, kept: Sequence[Placed]) -> Rows:
    return Rows([one.row for one in kept], lambda index: stream.where(kept[index].file, kept[index].number))


def _count_answered(config: DataConfig, stream: RowStream, form: Form) -> int:
    n_rows, n_unanswered, first = 0, 0, ""
    for placed in stream:
        n_rows += 1
        if not form.is_answered(placed.row):
            first = first or stream.where(placed.file, placed.number)
            n_unanswered += 1
    Unanswered(n_unanswered, n_rows, first).refuse(config, form)
    return n_rows - n_unanswered


def may_move(config: DataConfig) -> bool:
    """Whether the config names data that is not here and may be other rows tomorrow."""
    load = config.load_dataset_config
    if load.type != LOAD_DATASET_TYPE:
        return False
    if locate(config) is not None or isinstance(load.data_files, Resource):
        return False
    return is_kind(load.data_name) or not hub.is_commit(load.revision)


def content_of(config: DataConfig) -> Mapping[str, Any]:
    """Of data that is not here: `content`, a hash of its rows, their number, and the first of them as JSON values."""
    rows = remote(config)
    sample = [_json(rows[index]) for index in range(min(N_SAMPLE, len(rows)))]
    return {"content": hub.content(rows), "n_rows": len(rows), "sample": sample}


def _json(value: Any) -> Any:
    """A value of a row as JSON holds it; long texts are cut."""
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json(item) for item in value[:N_SAMPLE]]
    if isinstance(value, str):
        return value[:_N_CHARACTERS]
    return value if value is None or isinstance(value, bool | int | float) else str(value)[:_N_CHARACTERS]


def _count(files: Sequence[DataFile], stream: RowStream) -> int:
    """How many rows the files have: a slice may count from their end, or in percent."""
    told = [(file, source_of(file.kind).n_rows(file.path)) for file in files]
    return sum(sum(1 for _ in stream._rows([file])) if n_rows is None else n_rows for file, n_rows in told)  # noqa: SLF001 - one module


def _about(file: DataFile) -> int:
    try:
        if (n_rows := source_of(file.kind).n_rows(file.path)) is not None:
            return n_rows
        with file.path.open("rb") as opened:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: opened.read(2**20), b""))
    except (OSError, DataError):  # reading the rows says what is wrong
        return 0

"""How long the rows are, as far as files tell it without a tokenizer: for estimates of memory and time."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from olivine.config.schema import DataConfig
from olivine.data._files import locate
from olivine.data._stream import RowStream
from olivine.data.sources import source_of
from olivine.data.strategies import strategies
from olivine.errors import DataError

_N_ROWS = 10_000  # rows that are looked at; more tell no more of their length
# Bytes of text that make one token: English has four in the vocabularies of today's models, a sign of Chinese three.
_BYTES_PER_TOKEN = 3.0
_BYTES_PER_TOKEN_OF_FEW = 1.5
_MARKS = 64  # bytes that a chat template, or the words of an instruction, put round a row
_FEW = 8192  # entries of a vocabulary that hardly holds words


@dataclass(frozen=True)
class RowSizes:
    """n_rows: of the data set, or the least that it has. mean and longest: tokens of a row, rather more than less."""

    n_rows: int
    mean: float
    longest: int


def row_sizes(config: DataConfig, vocabulary: int) -> RowSizes | None:
    """The sizes of local rows that become a sample each; None where they are joined, remote or cannot be read here."""
    strategy = strategies.find(config.pre_process_data_config.strategy or "")
    is_joined = strategy is not None and strategy.joins
    local = locate(config)
    if is_joined or config.pre_process_data_config.pad_to_max_len or local is None or local.missing:
        return None
    files = [file for split in local.splits.values() for file in split]
    if any(source_of(file.kind).needs_package for file in files):
        return None
    try:
        changed = tuple(file.path.stat().st_mtime_ns for file in files)
        n_rows, total, longest = _bytes(config.model_dump_json(), changed)
    except (OSError, DataError):  # `check` names what is wrong with the file
        return None
    if not n_rows:
        return None
    rate = _BYTES_PER_TOKEN_OF_FEW if 0 < vocabulary < _FEW else _BYTES_PER_TOKEN
    most = config.pre_process_data_config.max_seq_len
    return RowSizes(n_rows, min(most, total / n_rows / rate), min(most, int(longest / rate) + 1))


@lru_cache(maxsize=16)
def _bytes(config: str, changed: tuple[int, ...]) -> tuple[int, int, int]:  # noqa: ARG001 - an edited file is read again
    """How many rows there are, their bytes in all, and those of the longest, with the template round each."""
    given = DataConfig.model_validate_json(config)
    settings = given.pre_process_data_config
    around = len(settings.text_template.encode()) if settings.text_template else _MARKS
    sizes = [around + _size(placed.row) for placed in islice(RowStream(given), _N_ROWS)]
    return len(sizes), sum(sizes), max(sizes, default=0)


def _size(row: Mapping[str, Any]) -> int:
    """Bytes of all columns; of a chat, as JSON."""
    texts = (value if isinstance(value, str) else json.dumps(value, default=str) for value in row.values())
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)

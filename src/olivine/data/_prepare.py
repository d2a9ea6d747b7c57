"""Rows to tokens, once: a batch at a time on all cores, into a store that later runs find again by its content."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.data._answers import Unanswered
from olivine.data._detect import resolved
from olivine.data._encoder import BATCH, Encoder, Tokens
from olivine.data._plugins import plugin_files
from olivine.data._samples import SampleSet, encoded, joins_text, laid_out, with_fault
from olivine.data._settings import check_settings
from olivine.data._store import META, TokenStore, Writer
from olivine.data._stream import RowStream
from olivine.data._texts import misfit, refuse_missing, text_of_row
from olivine.data.forms import Form, form_of
from olivine.data.forms.chat import template_of
from olivine.errors import ConfigError, DataError

if TYPE_CHECKING:
    import filelock
    import numpy as np

    from olivine.data._store import Integers
else:
    filelock = lazy.module("filelock")
    np = lazy.module("numpy")

Progress = Callable[..., None]

VERSION = 5  # raised when the same rows and settings give other tokens
_BATCH_CHARACTERS = 2**20  # in a batch at most: the tokenizer's own records are many times the size of long texts
# What of the settings decides the tokens; lengths, strategies and seeds only decide how samples are laid out.
_DECIDING = (
    "form",
    "form_params",
    "text_cols",
    "text_template",
    "chat_template",
    "message_col",
    "prompt_col",
    "answer_col",
    "system_col",
    "pair_format",
    "input_col",
    "output_col",
    "input_template",
    "output_template",
    "add_special_tokens",
    "begin_token",
)


@dataclass(frozen=True)
class Prepared:
    """The tokens of every row of a data config that has an answer.

    config: with everything written down that the rows told. context: tokens that the model reads, where that is known.
    """

    config: DataConfig
    store: TokenStore
    stream: RowStream
    tokenizer: Any
    encoder: Encoder
    context: int | None = None

    def __len__(self) -> int:
        return len(self.store)

    def where(self, row: int) -> str:
        """Where a row stands: "train.jsonl:37"."""
        return self.stream.where(int(self.store.files[row]), int(self.store.numbers[row]))

    @property
    def unanswered(self) -> Unanswered | None:
        """The rows that were left out as they have no answer; None when there are none."""
        return _unanswered(self.store, self.stream)

    @property
    def form(self) -> Form:
        """How a row becomes text."""
        return form_of(self.config.pre_process_data_config, self.tokenizer)

    def samples_with_fault(self, rows: "Sequence[int] | Integers | None" = None) -> tuple[SampleSet, str | None]:
        """The samples, and why `samples` would refuse them."""
        return with_fault(self.config, self.store, rows, self.tokenizer, self.encoder, self.context)

    def samples(self, rows: Sequence[int] | None = None) -> SampleSet:
        """The samples of some rows, all by default; raises as `olivine.data.samples` does."""
        return laid_out(self.config, self.store, rows, self.tokenizer, self.encoder, self.context)

    def n_tokens(self, rows: Sequence[int] | None = None) -> int:
        """Tokens of some rows together, all by default."""
        return int(self.store.lengths(np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)).sum())


def prepare(
    config: DataConfig,
    tokenizer: Any,
    cache: Path | None = None,
    progress: Progress | None = None,
    context: int | None = None,
) -> Prepared:
    """Tokenise every row of the config, unless that was done before.

    cache: a folder that stays; the tokens lie there under a key of everything they depend on: the bytes of the files,
    the settings that make the text, the tokenizer. Without it they are kept in memory. progress: called with rows done,
    rows in all (about), and rows_per_second. context: tokens that the model reads: no longer rows are advised.

    Rows without an answer are left out. Raises DataError with file, line and column for the first row that does not
    fit, or when too many have no answer, and ConfigError for settings that do not hold together.
    """
    _refuse_contradictions(config)
    stream = RowStream(config)
    config = resolved(config, stream.sample(), template_of(tokenizer))
    _refuse_contradictions(config)
    settings = config.pre_process_data_config
    encoder = Encoder.of(tokenizer, settings)
    if cache is None or not tokenizer.is_fast:  # what a tokenizer in Python would do, no key can tell
        store = _tokenised(config, stream, tokenizer, encoder, None, progress)
    else:
        store = _kept(config, stream, tokenizer, encoder, cache, progress)
    prepared = Prepared(config, store, stream, tokenizer, encoder, context)
    if prepared.unanswered is not None:
        prepared.unanswered.refuse(config, prepared.form)
    return prepared


def _kept(
    config: DataConfig,
    stream: RowStream,
    tokenizer: Any,
    encoder: Encoder,
    cache: Path,
    progress: Progress | None,
) -> TokenStore:
    """The tokens that lie in the cache, or that are made now and kept there."""
    folder = cache / f"tokens-{_key(config, stream, tokenizer, encoder)}"
    cache.mkdir(parents=True, exist_ok=True)

    def unchanged() -> None:
        if folder != cache / f"tokens-{_key(config, stream, tokenizer, encoder)}":
            raise DataError(f"data config '{config.name}': the rows were changed while they were read; run it again")

    with filelock.FileLock(f"{folder}.lock"):
        store = _opened(folder)
        if store is None:
            store = _built(
                folder, lambda made: _tokenised(config, stream, tokenizer, encoder, made, progress), unchanged
            )
    return store


def _unanswered(store: TokenStore, stream: RowStream) -> Unanswered | None:
    if not store.n_left_out:
        return None
    return Unanswered(store.n_left_out, len(store) + store.n_left_out, stream.where(*store.left_out))


def _refuse_contradictions(config: DataConfig) -> None:
    if problems := list(check_settings(config)):
        raise ConfigError(problems)


def _opened(folder: Path) -> TokenStore | None:
    """The store of an earlier run, if it is whole; notes that it was used."""
    try:
        n_tokens = json.loads((folder / META).read_text(encoding="utf-8"))["n_tokens"]
        if (folder / "ids.bin").stat().st_size != 4 * n_tokens:
            return None
        os.utime(folder)
    except (OSError, ValueError, KeyError):
        return None
    return TokenStore.open(folder)


def _built(folder: Path, make: Callable[[Path], TokenStore], check: Callable[[], None]) -> TokenStore:
    """What `make` writes, renamed into place when all of it is there and `check` lets it. The folder's lock is held."""
    building = folder.with_name(f"{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)  # of a run that was killed
    shutil.rmtree(folder, ignore_errors=True)
    building.mkdir()
    try:
        make(building)
        check()
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return TokenStore.open(folder)


def _tokenised(
    config: DataConfig,
    stream: RowStream,
    tokenizer: Any,
    encoder: Encoder,
    folder: Path | None,
    progress: Progress | None,
) -> TokenStore:
    writer = Writer(folder)
    try:
        about, done, started = stream.about(), 0, time.monotonic()
        batches = _batches(config, stream, tokenizer, writer)
        for texts, places, tokens in _in_parallel(batches, encoder, config):
            writer.add(tokens, texts, places)
            done += len(texts)
            if progress is not None:
                speed = done / max(1e-9, time.monotonic() - started)
                progress(done, max(about, done), rows_per_second=round(speed))
        store = writer.finish()
        if not done:
            if (unanswered := _unanswered(store, stream)) is None:
                raise DataError(f"data config '{config.name}': the data set has no rows")
            form = form_of(config.pre_process_data_config, tokenizer)
            refuse_missing(config, form, stream.columns())
            unanswered.refuse(config, form)
        return store
    finally:
        writer.close()


_Batch = tuple[list[str], list[tuple[int, int]]]


def _batches(config: DataConfig, stream: RowStream, tokenizer: Any, writer: Writer) -> Iterator[_Batch]:
    """Texts with the places of their rows, as many as the tokenizer takes at once; the writer counts what has none."""
    settings = config.pre_process_data_config
    form = form_of(settings, tokenizer)
    make = text_of_row(settings, form)
    texts: list[str] = []
    places: list[tuple[int, int]] = []
    n_characters = 0
    for placed in stream:
        if not form.is_answered(placed.row):
            writer.leave_out(placed.file, placed.number)
            continue
        try:
            text = make(placed.row)
        except DataError as error:
            raise misfit(config, form, stream.columns(), stream.where(placed.file, placed.number), error) from error
        texts.append(text)
        places.append((placed.file, placed.number))
        n_characters += len(text)
        if len(texts) >= BATCH or n_characters >= _BATCH_CHARACTERS:
            yield texts, places
            texts, places, n_characters = [], [], 0
    if texts:
        yield texts, places


def _in_parallel(
    batches: Iterator[_Batch], encoder: Encoder, config: DataConfig
) -> Iterator[tuple[list[str], list[tuple[int, int]], list[Tokens]]]:
    """Batches with their tokens: while the tokenizer's own threads work on one, the next is read and made to text."""
    settings = config.pre_process_data_config
    with _all_cores(), ThreadPoolExecutor(1) as pool:
        waiting: tuple[_Batch, Future[list[Tokens]]] | None = None
        for batch in batches:
            at_work = (batch, pool.submit(encoded, batch[0], encoder, settings))
            if waiting is not None:
                yield *waiting[0], waiting[1].result()
            waiting = at_work
        if waiting is not None:
            yield *waiting[0], waiting[1].result()


@contextmanager
def _all_cores() -> Iterator[None]:
    """Let the tokenizer use its threads, which are off elsewhere: they and forked processes do not go together."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _key(config: DataConfig, stream: RowStream, tokenizer: Any, encoder: Encoder) -> str:
    """A hash of everything that the tokens depend on."""
    settings = config.pre_process_data_config
    files = [[file.kind, file.path.suffix.lower(), _hash(file.path)] for file in stream.files]
    decides = {
        "version": VERSION,
        "libraries": [lazy.version("tokenizers"), lazy.version("transformers"), lazy.version("jinja2")],
        "files": files or stream.fingerprint,
        "read": [config.load_dataset_config.sep, config.load_dataset_config.encoding],
        "split": config.load_dataset_config.split,
        "settings": settings.model_dump(mode="json", include=set(_DECIDING)),
        "code": [_hash(path) for path in plugin_files(config)],
        "marked": "pair" if settings.strategy == "pair" else settings.train_on,
        "joiner": settings.joiner if joins_text(settings, encoder) else None,
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "special": {key: str(value) for key, value in sorted(tokenizer.special_tokens_map.items())},
        "chat_template": getattr(tokenizer, "chat_template", None) if settings.chat_template else None,
    }
    from blake3 import blake3

    return str(blake3(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest())[:40]


def _hash(path: Path) -> str:
    from blake3 import blake3

    hasher = blake3(max_threads=blake3.AUTO)
    return str((hasher.update_mmap(path) if path.stat().st_size else hasher).hexdigest())

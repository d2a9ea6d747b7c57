"""What can be known to be wrong with data before anything runs. Standard library alone: the parent process checks."""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

from olivine.config.schema import DataConfig, LoadDataset, Resource
from olivine.data import hub
from olivine.data._answers import Unanswered, seen_sentence
from olivine.data._detect import columns_without_form, resolved
from olivine.data._files import DataFile, Local, locate
from olivine.data._raw import is_raw, raw_problems
from olivine.data._rows import missing_file, missing_split, where_of
from olivine.data._scripted import is_made_up, is_scripted
from olivine.data._settings import check_settings
from olivine.data._split import rows_enough, slices, split
from olivine.data._texts import missing_column
from olivine.data.forms import Form, form_of
from olivine.data.sources import is_kind, place, source_of
from olivine.errors import DataError, Problem, sentence

SCANNED_BYTES = 32 * 2**20  # files of up to this size are read to the end; of larger ones, the first row
N_SHOWN = 5  # wrong rows named for each file


@dataclass(frozen=True)
class Look:
    """What the files of a data config tell before anything runs.

    problems: what is wrong. left_out: the sentence on rows without an answer, where there are some. said: a hash of
    what each of the others says, in the order of the data set; None where not all rows were read.
    """

    problems: tuple[Problem, ...] = ()
    left_out: str | None = None
    said: tuple[int, ...] | None = None


def look(config: DataConfig) -> Look:
    """Read the rows as far as the standard library does, and files as far as they are small.

    Problems are missing or empty files, wrong rows by file and line, columns that are not there. Rows of Parquet files
    and of the hub are only seen when the workflow runs.
    """
    if is_scripted(config) or is_made_up(config):  # a worker alone sees such rows
        return Look()
    if is_raw(config):
        return Look(tuple(raw_problems(config)))
    local = locate(config)
    if local is None or local.missing or not local.splits:  # then more than the files decides what is said
        return _looked(config)
    files = [file for files in local.splits.values() for file in files]
    return _remembered(config.model_dump_json(), Path.cwd(), tuple(_stamp(file.path) for file in files))


def check(config: DataConfig) -> Iterator[Problem]:
    """Every problem that `look` finds."""
    yield from look(config).problems


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


@lru_cache(maxsize=16)
def _remembered(config: str, folder: Path, stamps: tuple[tuple[int, ...], ...]) -> Look:  # noqa: ARG001 - see below
    """A plan asks many times: files that changed are read again, and relative names start from the current folder."""
    return _looked(DataConfig.model_validate_json(config))


def _looked(config: DataConfig) -> Look:
    if problems := tuple(check_settings(config)):
        return Look(problems)
    local = locate(config)
    return _local(config, local) if local is not None else Look(tuple(_remote(config.load_dataset_config)))


def check_split(config: DataConfig, eval_size: float) -> Iterator[Problem]:
    """That some rows can be held out and some are left, as far as files say that need no package to be read."""
    said = look(config).said
    n_rows = len(said) if said is not None else 0
    if not n_rows or (eval_size > 1 and eval_size % 1):  # `check` says why, or the pass whose param it is
        return
    try:
        split(min(n_rows, rows_enough(eval_size)), eval_size, 0)
    except DataError as error:
        yield Problem(
            "invalid-value", f"data config '{config.name}'", sentence(error), "Hold out fewer rows, or add some."
        )


def seen(train: DataConfig, held_out: DataConfig | None, eval_size: float | None = None, seed: int = 0) -> str | None:
    """The sentence on held-out rows that are also trained on; None where there are none, or where it is not known.

    held_out: the rows that are held out, all of them; None: a part of the training rows, `eval_size` of them.
    """
    rows = look(train).said
    others = look(held_out).said if held_out is not None else rows
    if not rows or not others or (held_out is None and len(set(rows)) == len(rows)):
        return None
    if held_out is None:
        try:
            trained, kept = split(len(rows), eval_size or 0, seed)
        except DataError:  # `check_split` says why
            return None
        rows, others = tuple(rows[index] for index in trained), tuple(rows[index] for index in kept)
    known = set(rows)
    return seen_sentence(sum(one in known for one in others), len(others), (held_out or train).name)


def _remote(load: LoadDataset) -> Iterator[Problem]:
    if isinstance(load.data_files, Resource) or not hub.is_offline():
        return  # a resource is refused where the config is read
    if is_kind(load.data_name):
        message = f"'{load.data_files}' has to be fetched, but the network is switched off."
    elif not hub.is_cached(load.data_name):
        message = f"the data set '{load.data_name}' is not in the cache, and the network is switched off."
    else:
        return
    yield Problem(
        "network", load.data_name, message, "Run once without --offline and HF_HUB_OFFLINE, or name local files."
    )


def _local(config: DataConfig, local: Local) -> Look:
    where = f"data config '{config.name}'"
    if not local.splits and not local.missing:
        kind = config.load_dataset_config.data_name
        message = f"'data_name: {kind}' names no file."
        return Look((Problem("missing-data", where, message, "Write 'data_files' or 'data_dir'."),))
    missing = tuple(Problem("missing-file", where, *missing_file(local, name)) for name in local.missing)
    if not local.splits:
        return Look(missing)
    if columns := columns_without_form(config):
        return Look((*missing, Problem("invalid-value", where, *_no_form(columns))))
    config = resolved(config)
    if problems := tuple(check_settings(config)):  # what the columns tell may not go with what the config says
        return Look((*missing, *problems))
    found = _splits(config, local)
    return replace(found, problems=(*missing, *found.problems))


def _splits(config: DataConfig, local: Local) -> Look:
    """Of the rows of every split that the config names."""
    form = form_of(config.pre_process_data_config)
    parts = slices(config.load_dataset_config.split)
    problems: list[Problem] = []
    scans: dict[str, _Scan] = {}
    for name, part in {part.name: part for part in parts}.items():
        files = local.splits.get(name)
        if files is None:
            problems.append(Problem("missing-data", f"data config '{config.name}'", *missing_split(local, part)))
            continue
        scans[name] = _Scan()
        problems += _files(config, files, form, scans[name])
        if not local.missing and files and not any(_size(file) for file in files):
            message = "the file is empty." if len(files) == 1 else "all files of the data set are empty."
            fix = "Write at least one row into it."
            problems.append(Problem("missing-data", where_of(config, local), message, fix))
    if local.missing or len(scans) < len({part.name for part in parts}):
        return Look(tuple(problems))
    if not all(scan.is_whole for scan in scans.values()):
        return Look(tuple(problems))
    rows = [(scans[part.name], index) for part in parts for index in part.indices(len(scans[part.name].said))]
    return _answers(config, form, rows, problems)


def _answers(config: DataConfig, form: Form, rows: "list[tuple[_Scan, int]]", problems: list[Problem]) -> Look:
    """What is known when every row was read."""
    left_out = [scan.place(index) for scan, index in rows if not scan.said[index]]
    said = tuple(scan.said[index] for scan, index in rows if scan.said[index])
    if not left_out:
        return Look(tuple(problems), None, said)
    unanswered = Unanswered(len(left_out), len(rows), left_out[0])
    if (fault := unanswered.fault(config, form)) is not None:
        key = ("pre_process_data_config", "max_unanswered")
        problems.append(Problem("missing-data", f"data config '{config.name}'", *fault, key))
        return Look(tuple(problems))
    return Look(tuple(problems), unanswered.sentence(config, form), said)


@dataclass
class _Scan:
    """The rows of one split as they are read: a hash of what each says, 0 where it has no answer, and its place.

    is_whole: all of them were read, and none of their columns is missing.
    """

    said: "array[int]" = field(default_factory=lambda: array("Q"))
    numbers: "array[int]" = field(default_factory=lambda: array("q"))
    firsts: dict[int, DataFile] = field(default_factory=dict)
    is_whole: bool = True

    def add(self, file: DataFile, number: int, said: str | None) -> None:
        """A row of the file, None where it has no answer."""
        if not self.firsts or next(reversed(self.firsts.values())) is not file:
            self.firsts[len(self.said)] = file
        digest = hashlib.blake2b((said or "").encode(errors="surrogatepass"), digest_size=8).digest()
        self.said.append(0 if said is None else int.from_bytes(digest, "little") or 1)
        self.numbers.append(number)

    def place(self, index: int) -> str:
        """Where a row stands."""
        file = next(file for first, file in reversed(self.firsts.items()) if first <= index)
        return place(file.shown, file.kind, self.numbers[index])


def _no_form(columns: list[str]) -> tuple[str, str]:
    """What to say of columns that make no form, when the config does not say how a row becomes text."""
    if "chosen" in columns:  # a preference: the last column is usually the answer that nobody wants
        ask = next((column for column in columns if column not in ("chosen", "rejected")), "chosen")
        fix = f"prompt_col: {ask} and answer_col: chosen" if ask != "chosen" else "text_cols: chosen"
        what = "the rows are preferences, which no pass here learns from, but the chosen answers can be trained on."
        return what, f"Write {fix}, in pre_process_data_config."
    ask, say = columns[0], columns[-1]
    fix = f"prompt_col: {ask} and answer_col: {say}, or a text_template" if ask != say else f"text_cols: {ask}"
    return (
        f"nothing says how a row becomes text, and the columns {', '.join(columns)} do not tell it.",
        f"Write {fix}, in pre_process_data_config.",
    )


def _files(config: DataConfig, files: list[DataFile], form: Form, scan: _Scan) -> Iterator[Problem]:
    budget = SCANNED_BYTES
    found: list[Problem] = []
    for file in files:
        size = _size(file)
        is_read = not source_of(file.kind).needs_package and size <= budget
        scan.is_whole = scan.is_whole and (is_read or not size)
        if not source_of(file.kind).needs_package and size:
            found += _rows(config, file, form, None if is_read else 1, scan)
            budget -= size
        elif size:
            found += _footer(file)
    yield from dict.fromkeys(found)


def _footer(file: DataFile) -> Iterator[Problem]:
    """What is wrong with a file whose rows are read later, as far as its columns tell it."""
    try:
        source_of(file.kind).columns(file.path)
    except DataError as error:
        yield Problem("missing-data", file.shown, sentence(error))
    except OSError as error:
        yield Problem("missing-file", file.shown, f"the file cannot be read: {error.strerror or error}.")


def _rows(config: DataConfig, file: DataFile, form: Form, n_most: int | None, scan: _Scan) -> Iterator[Problem]:
    """Problems of the rows of one file; a column that no row has is one problem, not one for each row."""
    there: dict[str, None] = {}
    unread: list[tuple[int, DataError]] = []
    unfit: list[tuple[int, DataError]] = []
    try:
        for number, row in islice(file.rows(), n_most):
            if isinstance(row, DataError):
                unread.append((number, row))
                continue
            if not row.keys() <= there.keys():
                there.update(dict.fromkeys(row))
            try:
                scan.add(file, number, form.said(row) if form.is_answered(row) else None)
            except DataError as error:
                unfit.append((number, error))
    except OSError as error:
        yield Problem("missing-file", file.shown, f"the file cannot be read: {error.strerror or error}.")
        return
    if not (there or unread or unfit):
        yield Problem("missing-data", file.shown, "the file has no rows.", "Write at least one row into it.")
        return
    missing = [column for column in form.columns if column not in there] if there else []
    scan.is_whole = scan.is_whole and not (missing or unread or unfit)
    for column in missing:
        yield Problem(
            "invalid-value", f"data config '{config.name}'", *missing_column(config, form, column, list(there))
        )
    faults = unread if missing else sorted([*unread, *unfit], key=lambda fault: abs(fault[0]))
    places = [place(file.shown, file.kind, number) for number, _ in faults]
    for where, (_, fault) in list(zip(places, faults, strict=True))[:N_SHOWN]:
        yield Problem("missing-data", where, f"{fault}.")
    if len(faults) > N_SHOWN:
        more = f"{len(faults) - N_SHOWN} more rows of the file are wrong too, from this one on."
        yield Problem("missing-data", places[N_SHOWN], more, "Mend the rows named above first.")


def _size(file: DataFile) -> int:
    return file.path.stat().st_size

"""What can be known to be wrong with data before anything runs. Standard library alone: the parent process checks."""

from collections.abc import Iterator
from itertools import islice

from olivine.config.schema import DataConfig, LoadDataset, Resource
from olivine.data import hub
from olivine.data._detect import columns_without_form, resolved
from olivine.data._files import DataFile, Local, locate
from olivine.data._rows import missing_file, missing_split, where_of
from olivine.data._settings import check_settings
from olivine.data._split import rows_enough, slices, split
from olivine.data._stream import RowStream
from olivine.data._texts import missing_column
from olivine.data.forms import Form, form_of
from olivine.data.sources import kinds, place, source_of
from olivine.errors import DataError, Problem

SCANNED_BYTES = 32 * 2**20  # files of up to this size are read to the end; of larger ones, the first row
N_SHOWN = 5  # wrong rows named for each file


def check(config: DataConfig) -> Iterator[Problem]:
    """Every problem found: missing or empty files, wrong rows by file and line, columns that are not there.

    Rows of Parquet files and of the hub are only seen when the step runs.
    """
    problems = list(check_settings(config))
    yield from problems
    if problems:
        return
    local = locate(config)
    if local is None:
        yield from _remote(config.load_dataset_config)
    else:
        yield from _local(config, local)


def check_split(config: DataConfig, eval_size: float) -> Iterator[Problem]:
    """That some rows can be held out and some are left, as far as files say that need no package to be read."""
    local = locate(config)
    if local is None or local.missing or any(source_of(f.kind).needs_package for s in local.splits.values() for f in s):
        return
    try:
        enough = rows_enough(eval_size)
        n_rows = sum(1 for _ in islice(RowStream(config), enough))
    except DataError:  # `check` names the row that cannot be read
        return
    if not n_rows:  # `check` names the file that is empty
        return
    try:
        split(min(n_rows, enough), eval_size, 0)
    except DataError as error:
        yield Problem("invalid-value", f"data config '{config.name}'", f"{error}.", "Hold out fewer rows, or add some.")


def _remote(load: LoadDataset) -> Iterator[Problem]:
    if isinstance(load.data_files, Resource) or not hub.is_offline():
        return  # a resource is refused where the config is read
    if load.data_name in kinds():
        message = f"'{load.data_files}' has to be fetched, but the network is switched off."
    elif not hub.is_cached(load.data_name):
        message = f"the data set '{load.data_name}' is not in the cache, and the network is switched off."
    else:
        return
    yield Problem(
        "network", load.data_name, message, "Run once without --offline and HF_HUB_OFFLINE, or name local files."
    )


def _local(config: DataConfig, local: Local) -> Iterator[Problem]:
    where = f"data config '{config.name}'"
    if not local.splits and not local.missing:
        kind = config.load_dataset_config.data_name
        yield Problem("missing-data", where, f"'data_name: {kind}' names no file.", "Write 'data_files' or 'data_dir'.")
        return
    for name in local.missing:
        yield Problem("missing-file", where, *missing_file(local, name))
    if not local.splits:
        return
    if columns := columns_without_form(config):
        yield Problem("invalid-value", where, *_no_form(columns))
        return
    config = resolved(config)
    if problems := list(check_settings(config)):  # what the columns tell may not go with what the config says
        yield from problems
        return
    form = form_of(config.pre_process_data_config)
    parts = {part.name: part for part in slices(config.load_dataset_config.split)}
    for name, part in parts.items():
        files = local.splits.get(name)
        if files is None:
            yield Problem("missing-data", where, *missing_split(local, part))
            continue
        yield from _files(config, files, form)
        if not local.missing and files and not any(_size(file) for file in files):
            message = "the file is empty." if len(files) == 1 else "all files of the data set are empty."
            yield Problem("missing-data", where_of(config, local), message, "Write at least one row into it.")


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


def _files(config: DataConfig, files: list[DataFile], form: Form) -> Iterator[Problem]:
    budget = SCANNED_BYTES
    found: list[Problem] = []
    for file in files:
        size = _size(file)
        if not source_of(file.kind).needs_package and size:
            found += _rows(config, file, form, None if size <= budget else 1)
            budget -= size
        elif size:
            found += _footer(file)
    yield from dict.fromkeys(found)


def _footer(file: DataFile) -> Iterator[Problem]:
    """What is wrong with a file whose rows are read later, as far as its columns tell it."""
    try:
        source_of(file.kind).columns(file.path)
    except DataError as error:
        yield Problem("missing-data", file.shown, f"{error}.")
    except OSError as error:
        yield Problem("missing-file", file.shown, f"the file cannot be read: {error.strerror or error}.")


def _rows(config: DataConfig, file: DataFile, form: Form, n_most: int | None) -> Iterator[Problem]:
    """Problems of the rows of one file; a column that no row has is one problem, not one for each row."""
    there: dict[str, None] = {}
    unread: list[Problem] = []
    unfit: list[Problem] = []
    shown = file.shown
    try:
        for number, row in islice(file.rows(), n_most):
            if isinstance(row, DataError):
                unread.append(_wrong_row(file, shown, number, row))
                continue
            if not row.keys() <= there.keys():
                there.update(dict.fromkeys(row))
            try:
                form.check(row)
            except DataError as error:
                unfit.append(_wrong_row(file, shown, number, error))
    except OSError as error:
        yield Problem("missing-file", shown, f"the file cannot be read: {error.strerror or error}.")
        return
    if not (there or unread or unfit):
        yield Problem("missing-data", shown, "the file has no rows.", "Write at least one row into it.")
        return
    missing = [column for column in form.columns if column not in there] if there else []
    for column in missing:
        yield Problem("invalid-value", f"data config '{config.name}'", *missing_column(form, column, list(there)))
    faults = unread if missing else sorted([*unread, *unfit], key=lambda problem: int(problem.where.rpartition(":")[2]))
    yield from faults[:N_SHOWN]
    if len(faults) > N_SHOWN:
        more = f"{len(faults) - N_SHOWN} more rows of the file are wrong too, from this one on."
        yield Problem("missing-data", faults[N_SHOWN].where, more, "Mend the rows named above first.")


def _wrong_row(file: DataFile, shown: str, number: int, error: DataError) -> Problem:
    return Problem("missing-data", place(shown, file.kind, number), f"{error}.")


def _size(file: DataFile) -> int:
    return file.path.stat().st_size

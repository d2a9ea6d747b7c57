"""Folders of a run that would destroy one another, or what the user owns: told before anything is written."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from olivine import data, paths
from olivine.errors import DataError, RequestError
from olivine.models import Model
from olivine.store.entries import FOLDERS
from olivine.workflow.steps import Plan, ScoreRows, Step

DELIVERED = ("model", "adapter")  # folders of output_dir that each run makes anew
_FOLDERS, _FILES = (*DELIVERED, "logs"), ("journal.jsonl", "workflow.json")  # what else it writes there


def overlaps(cache_dir: Path, output_dir: Path, used: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, str, str]]:
    """Key of the config, message and fix of every overlap. used: what the run reads: what it is, and where it lies."""
    delivered = [output_dir / name for name in DELIVERED]
    for what, path in dict.fromkeys(used):
        if paths.real(path) == paths.real(output_dir):
            message = f"{what} '{path}' is the output_dir too, and the result would lie among its files."
            yield "output_dir", message, "Name another output_dir."
        for folder in delivered:
            if _is_within(path, folder):
                message = f"{what} '{path}' lies in '{folder}', which the result replaces."
                yield "output_dir", message, "Name another output_dir, or move it."
    for folder in (*delivered, output_dir / "logs"):
        if _is_within(cache_dir, folder):
            yield "cache_dir", f"cache_dir lies in '{folder}', which the result replaces.", "Name another cache_dir."
    for folder in (cache_dir / name for name in FOLDERS):
        if _is_within(output_dir, folder):
            yield "output_dir", f"output_dir lies in '{folder}', which the cache cleans.", "Name another output_dir."


def in_the_way(output_dir: Path, others: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
    """Message and fix for every file where a folder of the result goes, and the other way round.

    others: names of more files that go there.
    """
    for name in _FOLDERS:
        target = output_dir / name
        if paths.exists(target) and not paths.is_folder(target):
            yield f"'{target}' is a file, but a folder goes there.", "Move it away, or name another output_dir."
    for name in (*_FILES, *others):
        target = output_dir / name
        if paths.is_folder(target):
            yield f"'{target}' is a folder, but a file goes there.", "Move it away, or name another output_dir."


def refuse_overlaps(plan: Plan) -> None:
    """RequestError for the first overlap, and for what is in the way of the result."""
    used = used_by(plan.input_model, plan.steps, plan.score)
    for _, message, fix in overlaps(plan.cache_dir, plan.output_dir, used):
        raise RequestError(f"{message} {fix}")
    for message, fix in in_the_way(plan.output_dir):
        raise RequestError(f"{message} {fix}")


def used_by(model: Model | None, steps: Iterable[Step], score: ScoreRows | None) -> Iterator[tuple[str, Path]]:
    """What a plan reads: the models, the data, scripts and other files of the user."""
    while model is not None:
        yield "the input model", model.path
        model = model.base
    steps = list(steps)
    configs = [config for step in steps for config in step.data.values()]
    for config in [*configs, *([score.data] if score and score.data else [])]:
        try:
            yield from (("the data file", path) for path in data.data_files(config))
        except DataError:  # told by the plan, with its place
            continue
    for step in steps:
        yield from (("the file", path) for path in step.files)


def _is_within(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or lies in it, through links and whatever their letter case."""
    real, inside = paths.real(folder), paths.real(path)
    if real == inside or real in inside.parents:
        return True
    if not paths.exists(real):
        return False
    return any(paths.exists(one) and real.samefile(one) for one in (inside, *inside.parents))

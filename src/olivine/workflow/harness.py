"""Tasks of the lm-eval package that a config asks for: parsed while planning, asked by the worker.

A task is a YAML file, of the package itself or of a folder of the user. Such a folder may hold Python that tasks name
(`!function`), for which consent is asked as for any script.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from olivine import lazy
from olivine.paths import is_folder, of_user
from olivine.user_scripts import UserScript
from olivine.workflow.draft import Draft
from olivine.workflow.scripts import refused
from olivine.workflow.steps import TASKS, Asked, ScoreRows

MODULE, EXTRA = "lm_eval", "lm-eval"
_NAMES = ("task", "group", "tag")  # keys of a task's file that give it a name
_NAMED = re.compile(
    rb"^(?:task|group|tag):[ \t]*(?:[\"']?([\w.:-]+)[\"']?[ \t]*(?:#.*)?$|((?:\n[ \t]*- .*)+))", re.MULTILINE
)
_LISTED = re.compile(rb"- *[\"']?([\w.:-]+)[\"']?[ \t]*$", re.MULTILINE)

Where = tuple[str | int, ...]


def with_tasks(draft: Draft, score: ScoreRows, asked: Sequence[Asked]) -> ScoreRows:
    """The rows with the tasks that their metrics name as a worker needs them; what is wrong is told."""
    params = score.metrics.get(TASKS)
    if params is None or "tasks" not in params:  # which is told
        return score
    by_evaluator = next((one.path for one in asked if one.metric == TASKS), None)
    where: Where = (*by_evaluator, "metric_config") if by_evaluator is not None else ("quality", "metrics", TASKS)
    host = draft.hosts.get(score.host, draft.hosts[None])[0]
    if MODULE not in host.probe.modules:
        draft.problem("missing-extra", where, f"{lazy.missing_sentence(MODULE, EXTRA)}.")
        return score
    folder: Path | None = None
    files: Sequence[Path] = ()
    if params.get("include_path"):
        folder = (draft.loaded.document.folder / of_user(str(params["include_path"]))).absolute()
        files = _files(draft, folder, (*where, "include_path"))
    own = _named(files, folder)
    strangers = [name for name in params["tasks"] if name not in own]
    if not draft.problems:
        _check_names(draft, strangers, own, (*where, "tasks"))
    settled = {**params, **({"include_path": str(folder)} if folder else {})}
    metrics = {**score.metrics, TASKS: settled}
    return replace(score, metrics=metrics, task_folder=folder, task_files=tuple(files))


def _files(draft: Draft, folder: Path, where: Where) -> Sequence[Path]:
    """The files that tasks of a folder are made of: their own, Python beside them, and data that they name."""
    if not is_folder(folder):
        draft.problem("missing-file", where, f"the folder of tasks '{folder}' does not exist.", "Name it.")
        return ()
    tasks = sorted(path for pattern in ("*.yaml", "*_yaml") for path in folder.rglob(pattern) if path.is_file())
    if not tasks:
        draft.problem("missing-file", where, f"'{folder}' holds no task: a YAML file whose 'task' is its name.")
    code = sorted(folder.rglob("*.py"))
    for path in code[:1]:
        for kind, _, message, fix in refused(draft, UserScript(path)):
            draft.problem(kind, where, message, fix)
    data: list[Path] = []
    for path in tasks:
        try:
            content = _parsed(path)
        except (OSError, ValueError, yaml.YAMLError) as error:
            said = " ".join(str(error).split())
            draft.problem("invalid-value", where, f"{path} is no YAML that can be read: {said}.")
            continue
        for name in _data_files(content):
            if not (folder / name).is_file() and not any(char in name for char in "*?[") and "://" not in name:
                message = f"{path}: the data file '{name}' does not exist."
                draft.problem("missing-file", where, message, f"Its name starts from '{folder}'.")
            data += [one for one in sorted(folder.glob(name)) if one.is_file()] if _is_below(name) else [folder / name]
    return list(dict.fromkeys([*tasks, *code, *(path for path in data if path.is_file())]))


def _is_below(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _parsed(path: Path) -> Mapping[str, Any]:
    """A task's file; what its tags stand for, such as functions, is left out."""
    content = yaml.load(path.read_bytes(), Loader=_Plain)  # noqa: S506 - a safe loader that knows no tag
    return content if isinstance(content, Mapping) else {}


class _Plain(yaml.SafeLoader):
    """YAML without what tags make of it."""


_Plain.add_multi_constructor("!", lambda *_: None)


def _data_files(content: Mapping[str, Any]) -> Iterator[str]:
    kwargs = content.get("dataset_kwargs")
    named = kwargs.get("data_files") if isinstance(kwargs, Mapping) else None
    for one in named.values() if isinstance(named, Mapping) else [named]:
        yield from ([one] if isinstance(one, str) else [each for each in one or () if isinstance(each, str)])


def _named(files: Sequence[Path], folder: Path | None) -> set[str]:
    """Names of tasks, groups and tags of a folder."""
    names: set[str] = set()
    for path in files:
        if folder is not None and path.name.endswith("yaml"):
            try:
                content = _parsed(path)
            except (OSError, ValueError, yaml.YAMLError):  # which is told
                continue
            given = (content.get(key) for key in _NAMES)
            names |= {one for value in given for one in ([value] if isinstance(value, str) else _texts(value))}
    return names


def _texts(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _check_names(draft: Draft, strangers: Sequence[str], own: set[str], where: Where) -> None:
    """That the package has the tasks that no folder of the user has, as far as it is here."""
    if not strangers or (spec := find_spec(MODULE)) is None or not spec.submodule_search_locations:
        return
    known = own | _of_package(Path(spec.submodule_search_locations[0]) / "tasks")
    for name in strangers:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"Did you mean '{near[0]}'?" if near else "lm-eval ls tasks lists those of the package."
            draft.problem("invalid-value", where, f"lm-eval has no task '{name}'.", hint)


@cache
def _of_package(folder: Path) -> set[str]:
    """Names of the package's tasks, groups and tags, read as text: to parse its 14,000 files takes many seconds."""
    names: set[bytes] = set()
    for path in folder.rglob("*yaml"):
        for name, listed in _NAMED.findall(path.read_bytes()):
            names |= {name} if name else set(_LISTED.findall(listed))
    return {name.decode() for name in names}

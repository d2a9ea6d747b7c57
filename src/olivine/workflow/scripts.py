"""Scripts that a metric of the type `custom` names: read and parsed while planning, never run."""

import ast
import difflib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from olivine.config import schema
from olivine.paths import is_file, is_folder, of_user
from olivine.workflow.draft import Draft
from olivine.workflow.steps import SCRIPT_SECONDS, Script

_KEYS = {"evaluate_func": "evaluate_func_kwargs", "metric_func": "metric_func_kwargs"}
_KNOWN = ("user_script", "script_dir", *_KEYS, *_KEYS.values(), "need_inference", "max_seconds")

Where = tuple[str | int, ...]


def plan_script(draft: Draft, metric: schema.Metric, path: Where) -> Script | None:
    """The script of a metric; None where something is wrong with it, which is told."""
    settings, here = metric.user_config, (*path, "user_config")
    for key in settings:
        if key not in _KNOWN:
            near = difflib.get_close_matches(key, _KNOWN, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known keys are {', '.join(_KNOWN)}."
            draft.problem(
                "unknown-key", (*here, key), f"unknown key '{key}' in the user_config of '{metric.name}'{hint}"
            )
            return None
    functions = [key for key in _KEYS if settings.get(key) is not None]
    if len(functions) != 1 or not isinstance(settings.get("user_script"), str):
        message = f"'{metric.name}' is custom, and needs a user_script and either evaluate_func or metric_func."
        draft.problem("invalid-value", here, message)
        return None
    key = functions[0]
    script, kwargs = _placed(draft, settings["user_script"]), settings.get(_KEYS[key]) or {}
    folder = _placed(draft, settings["script_dir"]) if settings.get("script_dir") else None
    for problem in _wrong(script, folder, settings[key], kwargs):
        draft.problem(*problem[:1], here, *problem[1:])
        return None
    seconds = settings.get("max_seconds", SCRIPT_SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        message = f"max_seconds of '{metric.name}' must be a number above 0, but is {seconds!r}."
        draft.problem("invalid-value", (*here, "max_seconds"), message)
        return None
    return Script(
        metric.name,
        script,
        folder,
        settings[key],
        on_outputs=key == "metric_func",
        kwargs=kwargs,
        numbers=tuple(one.name for one in metric.sub_types) or (metric.name,),
        max_seconds=float(seconds),
    )


def _placed(draft: Draft, name: Any) -> Path:
    """A path of the config, from the folder of the config file."""
    return (draft.loaded.document.folder / of_user(str(name))).absolute()


def _wrong(script: Path, folder: Path | None, function: Any, kwargs: Any) -> Iterator[tuple[str, str, str]]:
    """What is wrong: kind of problem, sentence, fix."""
    if not is_file(script):
        yield "missing-file", f"the user_script '{script}' does not exist.", "Name it from the config's folder."
        return
    if folder is not None and not is_folder(folder):
        yield "missing-file", f"the script_dir '{folder}' does not exist.", "Name it from the config's folder."
    if not isinstance(kwargs, dict):
        yield "invalid-value", f"the arguments of '{function}' are no mapping.", "Write them by their names."
    try:
        names = list(_names(ast.parse(script.read_bytes())))
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        yield "invalid-value", f"{script}{line} is no Python: {said}.", "Mend it."
        return
    except OSError as error:
        yield "missing-file", f"{script} cannot be read: {error.strerror}.", ""
        return
    if function not in names and "*" not in names:
        near = difflib.get_close_matches(str(function), names, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"There is: {', '.join(names) or 'none'}."
        yield "invalid-value", f"{script} has no function '{function}'.", hint


def _names(module: ast.Module) -> Iterator[str]:
    """What a module defines or imports at its top; "*" where that is not known."""
    for node in module.body:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Import() | ast.ImportFrom():
                yield from (one.asname or one.name for one in node.names)
            case ast.Assign():
                yield from (target.id for target in node.targets if isinstance(target, ast.Name))
            case ast.If() | ast.Try() | ast.With():
                yield "*"

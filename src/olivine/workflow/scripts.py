"""Scripts that a config names: parsed while planning, never run; what is named of them must be there."""

import difflib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from olivine import data
from olivine.config import schema
from olivine.paths import is_file, is_folder, of_user, real
from olivine.user_scripts import SECONDS, ScriptError, UserScript
from olivine.workflow.draft import Draft
from olivine.workflow.steps import Script

_KEYS = {"evaluate_func": "evaluate_func_kwargs", "metric_func": "metric_func_kwargs"}
_OF_2023 = ("data_dir", "batch_size")  # arguments that functions had beside their kwargs
_KNOWN = ("user_script", "script_dir", *_KEYS, *_KEYS.values(), *_OF_2023, "need_inference", "max_seconds")
CONSENT, ALL_SCRIPTS, NO_SCRIPTS = "OLIVINE_SCRIPTS", "all", "none"  # as --trust and --no-scripts set it

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
    if not isinstance(kwargs, dict):
        message = f"the arguments of '{settings[key]}' are no mapping."
        draft.problem("invalid-value", here, message, "Write them by their names.")
        return None
    if not check_script(draft, UserScript(script, folder), {key: settings[key]}, here):
        return None
    seconds = settings.get("max_seconds", SECONDS)
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
        of_2023={name: settings[name] for name in _OF_2023 if settings.get(name) is not None},
    )


def _placed(draft: Draft, name: Any) -> Path:
    """A path of the config, from the folder of the config file."""
    return (draft.loaded.document.folder / of_user(str(name))).absolute()


def check_script(
    draft: Draft, script: UserScript, functions: Mapping[str, str], path: Where, key: str = "user_script"
) -> bool:
    """Whether a script may run and has what the config names of it; what is wrong is told, once.

    functions: names by the keys under which they stand. path: of the section that names the script as `key`.
    """
    told = list(_wrong(script, functions)) or list(refused(draft, script))
    for kind, at, message, fix in told[:1]:
        draft.problem(kind, (*path, at or key), message, fix)
    return not told


def check_data_script(draft: Draft, config: schema.DataConfig, path: Where) -> bool:
    """The same of the script of a data config: what it names is registered there, or a function that makes batches."""
    script = UserScript.of(str(config.user_script), config.script_dir)
    told = list(_wrong(script, {}) or ()) or list(refused(draft, script))
    for kind, _, message, fix in told[:1]:
        draft.problem(kind, (*path, "user_script"), message, fix)
    if told:
        return False
    for kind, name in data.named_components(config).items():
        there = script.registered(kind)
        functions = script.names() if kind == "dataloader" else []
        if name.lower() not in there and name not in functions and "*" not in (*there, *script.names()):
            hint = _hint(name, there, "It registers")
            section = "dataloader_config" if kind == "dataloader" else f"{kind}_config"
            message = f"{script.path} registers no {kind} '{name}'."
            draft.problem("invalid-value", (*path, section, "type"), message, hint)
            return False
    return True


def unread_scripts(workflow: schema.Workflow) -> Iterator[str]:
    """A sentence for each script that nothing of its section names a function of: it is not even opened."""
    given = workflow.input_model
    functions = (given.model_loader, given.dummy_inputs_func, given.io_config)
    if given.model_script is not None and not any(isinstance(name, str) for name in functions):
        yield f"the model_script '{given.model_script}' is not read: nothing of 'input_model' names a function of it"
    for config in workflow.data_configs:
        script = config.user_script or config.script_dir
        if script is not None and not data.is_scripted(config):
            yield f"the script '{script}' of '{config.name}' is not read: no 'type' there is one that it registers"


def refused(draft: Draft, script: UserScript) -> Iterator[tuple[str, str, str, str]]:
    """Consent: a script beside its config runs, one that lies elsewhere with --trust, and none with --no-scripts."""
    consent = os.environ.get(CONSENT, "")
    if consent == NO_SCRIPTS:
        yield "unsupported", "", f"the script '{script.path}' is named, and --no-scripts refuses it.", "Leave that out."
    elif consent != ALL_SCRIPTS:
        home = real(draft.loaded.document.folder)
        outside = next((path for path in script.files if not real(path).is_relative_to(home)), None)
        if outside is not None:
            what = "script" if outside == script.path else "module of a script"
            message = f"the {what} '{outside}' lies outside of the folder of the config."
            yield "unsupported", "", message, "Move it there, or let --trust allow it."


def _wrong(script: UserScript, functions: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """What is wrong: kind of problem, key, sentence, fix."""
    if not is_file(script.path):
        message = f"the script '{script.path}' does not exist."
        yield "missing-file", "", message, "Name it from the config's folder."
        return
    if script.folder is not None and not is_folder(script.folder):
        message = f"the script_dir '{script.folder}' does not exist."
        yield "missing-file", "script_dir", message, "Name it from the config's folder."
        return
    try:
        names = script.names()
    except ScriptError as error:
        kind = "missing-file" if "cannot be read" in str(error) else "invalid-value"
        yield kind, "", f"{error}.", "Mend it." if kind == "invalid-value" else ""
        return
    for key, function in functions.items():
        if function not in names and "*" not in names:
            message = f"{script.path} has no function '{function}'."
            yield "invalid-value", key, message, _hint(function, names, "There is")


def _hint(name: str, known: Sequence[str], what: str) -> str:
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"Did you mean '{near[0]}'?" if near else f"{what}: {', '.join(known) or 'none'}."

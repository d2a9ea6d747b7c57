"""An input model of several parts, each planned as a model by itself."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from olivine import lazy
from olivine.config.schema import InputModel
from olivine.config.shape import COMPOSITE, DIFFUSERS
from olivine.errors import ModelError, Unsupported, sentence
from olivine.models import Model
from olivine.models.diffusion import pipeline_parts
from olivine.models.diffusion_files import PIPELINE
from olivine.models.interface import composite_facts, facts_of
from olivine.models.scripted import LOAD
from olivine.paths import exists, hub_cache, is_file, is_folder, of_user
from olivine.workflow.draft import Draft, short

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # of a part, which is also that of a folder
Planner = Callable[[Draft, Path | None], None]


def plan_parts(draft: Draft, plan_model: Planner) -> None:
    """Plan a CompositeModel, or the parts of a pipeline of diffusers. plan_model: plans an input model."""
    if draft.workflow.input_model.type == DIFFUSERS:
        _plan_pipeline(draft)
    else:
        _plan_composite(draft, plan_model)


def _plan_composite(draft: Draft, plan_model: Planner) -> None:
    """Plan every part, and put them together; of one that cannot be used, its problem is that of the whole."""
    given = draft.workflow.input_model
    parts, names = _parts(given)
    if not parts:
        message = "a CompositeModel has parts, and neither 'model_components' nor a folder of graphs tells them."
        fix = "Write each of them as an input_model of its own."
        draft.problem("unsupported", ("input_model", "type"), message, fix)
        return
    if not _check_names(draft, parts, names):
        return
    planned: dict[str, Draft] = {}
    for index, (name, part) in enumerate(zip(names, parts, strict=True)):
        planned[name] = one = draft.of_part(part, "model_components", index)
        _plan_part(one, name, plan_model)
        draft.problems += one.problems
        draft.translated += [f"the part '{name}': {note}" for note in one.translated]
    models = {name: one.model for name, one in planned.items() if one.model is not None}
    if len(models) < len(planned):
        return
    if not _check_forms(draft, models):
        return
    task = given.task if "task" in given.model_fields_set else ""
    draft.model = Model("composite", _folder(given, models), task=task, parts=models)
    facts = {name: one.facts for name, one in planned.items() if one.facts is not None}
    if len(facts) == len(planned):
        draft.facts = composite_facts(facts, task)
    draft.template = ""


def _parts(given: InputModel) -> tuple[list[InputModel], list[str]]:
    """The parts and their names: those of the config, else the graphs in folders of the one that it names.

    A part that lies at no path of its own is looked for in the folder of the whole.
    """
    folder = of_user(str(given.model_path)) if given.model_path else None
    names = given.model_component_names or []
    if given.model_components is not None:
        return [_below(folder, part) for part in given.model_components], names
    if folder is None or not is_folder(folder):
        return [], names
    graphs = [folder / name for name in names] or sorted(one for one in folder.iterdir() if one.is_dir())
    graphs = [one for one in graphs if names or any(one.glob("*.onnx"))]
    return [InputModel(type="ONNXModel", model_path=str(one)) for one in graphs], [one.name for one in graphs]


def _below(folder: Path | None, part: InputModel) -> InputModel:
    if folder is None or not isinstance(part.model_path, str) or exists(of_user(part.model_path)):
        return part
    path = folder / part.model_path
    return part.model_copy(update={"model_path": str(path)}) if exists(path) else part


def _plan_pipeline(draft: Draft) -> None:
    """Plan the parts of a pipeline of diffusers, in a folder or in the hub's cache."""
    given, key = draft.workflow.input_model, ("input_model", "model_path")
    if not isinstance(given.model_path, str) or not draft.has_model:
        message = "a pipeline of diffusers lies in a folder."
        draft.problem("unsupported", key, message, "Download it and name its folder as model_path.")
        return
    folder = of_user(given.model_path) if is_folder(of_user(given.model_path)) else _cached(given)
    if folder is None:
        message = f"the pipeline '{short(given.model_path)}' is not on this machine."
        draft.problem("missing-model", key, message, "Fetch it first (hf download), or name a folder.")
        return
    if given.adapter_path is not None:
        message = "an adapter of a pipeline is not put into it."
        draft.problem("unsupported", ("input_model", "adapter_path"), message, "Fuse it with diffusers, and save that.")
    if "diffusers" not in draft.hosts[None][0].probe.modules:
        draft.problem("missing-extra", key, f"{lazy.missing_sentence('diffusers', 'diffusers')}.")
    try:
        parts = pipeline_parts(folder.absolute())
        facts = {name: facts_of(part) for name, part in parts.items()}
    except (ModelError, Unsupported) as error:
        draft.problem(error.kind, key, sentence(error))
        return
    load = given.load_kwargs.model_dump(include={"dtype"}, exclude_none=True)
    told = {LOAD: load} if load else {}
    parts = {name: replace(part, attributes={**part.attributes, **told}) for name, part in parts.items()}
    draft.model = Model("composite", folder.absolute(), task="", parts=parts)
    draft.facts, draft.template = composite_facts(facts), ""
    draft.translated.append(f"the parts of the pipeline are {', '.join(parts)}")


def _cached(given: InputModel) -> Path | None:
    """The folder of a pipeline in the hub's cache; None where it is not there."""
    root = hub_cache() / f"models--{str(given.model_path).replace('/', '--')}"
    revision = given.load_kwargs.revision
    reference = root / "refs" / (revision or "main")
    commit = reference.read_text(encoding="ascii").strip() if is_file(reference) else revision
    snapshot = root / "snapshots" / commit if commit else None
    return snapshot if snapshot is not None and is_file(snapshot / PIPELINE) else None


def _check_names(draft: Draft, parts: list[InputModel], names: list[str]) -> bool:
    """That every part has a name of its own which can be that of a folder."""
    where = ("input_model", "model_component_names")
    twice = next((name for name, count in Counter(name.casefold() for name in names).items() if count > 1), None)
    unusable = next((name for name in names if _NAME.fullmatch(name) is None or ".." in name), None)
    if len(parts) != len(names):
        message = f"the model has {len(parts)} parts, and {len(names) or 'none'} of them {_has(len(names))} a name."
        draft.problem("invalid-value", where, message, "Name each, in the order of 'model_components'.")
    elif twice is not None:
        draft.problem("invalid-value", where, f"two parts are named '{twice}'.", "Give each a name of its own.")
    elif unusable is not None:
        message = f"a part cannot be named '{unusable}': the name is that of a folder too."
        draft.problem("invalid-value", where, message, "Use letters, digits, '_', '-' and '.'.")
    else:
        return True
    return False


def _has(count: int) -> str:
    return "has" if count <= 1 else "have"


def _plan_part(draft: Draft, name: str, plan_model: Planner) -> None:
    given = draft.workflow.input_model
    if given.type == COMPOSITE:
        message = f"the part '{name}' is a model of several parts itself."
        fix = "List the parts of both beside each other."
        draft.problem("unsupported", ("input_model", "type"), message, fix)
    elif not isinstance(given.model_path, str):
        message, fix = f"the part '{name}' lies elsewhere, and is not brought.", "Download it and name its folder."
        draft.problem("unsupported", ("input_model", "model_path"), message, fix)
    else:
        plan_model(draft, None)
        if draft.hub_name is not None:
            draft.translated.clear()
            message = f"the part '{name}' is '{draft.hub_name}' of the hub, which is not on this machine."
            fix = "Fetch it first (hf download), or name a folder."
            draft.problem("missing-model", ("input_model", "model_path"), message, fix)


def _check_forms(draft: Draft, models: dict[str, Model]) -> bool:
    """That a pass can take all parts: they are of one format, or such that OnnxConversion makes graphs of them all."""
    if len({model.form for model in models.values()}) == 1:
        return True
    foreign = next(((name, one) for name, one in models.items() if one.form not in _CONVERTED), None)
    if foreign is None:
        return True
    other = next((name, one) for name, one in models.items() if one.form != foreign[1].form)
    message = f"the part '{foreign[0]}' is {_WORDS[foreign[1].form]}, and '{other[0]}' is {_WORDS[other[1].form]}."
    fix = "Passes work on each part: let all be of one kind."
    draft.problem("invalid-value", ("input_model", "model_components"), message, fix)
    return False


_CONVERTED = frozenset({"hf", "script", "diffusers", "onnx"})  # what OnnxConversion makes graphs of, and these
_WORDS = {
    "hf": "a checkpoint",
    "gguf": "a GGUF file",
    "adapter": "an adapter",
    "onnx": "an ONNX graph",
    "openvino": "a model of OpenVINO",
    "script": "what a script gives",
    "diffusers": "a part of a pipeline",
    "composite": "a model of parts",
}


def _folder(given: InputModel, models: dict[str, Model]) -> Path:
    """The folder of what belongs to all parts, where one is named; else the first part's place."""
    folder = of_user(str(given.model_path)) if given.model_path else Path()
    return folder.absolute() if given.model_path and is_folder(folder) else next(iter(models.values())).path

"""The input model of a plan: a local folder or file, one in the hub's cache, or one that is still to be fetched."""

import difflib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.config.schema import InputModel, IoConfig, LoadKwargs, Workflow
from olivine.config.shape import COMPOSITE, DIFFUSERS, SCRIPTED
from olivine.config.unserved import MODELS
from olivine.errors import ModelError, OlivineError, RequestError, Unsupported, sentence
from olivine.models import Format, Model
from olivine.models.chat_template import read_chat_template
from olivine.models.facts import ModelFacts
from olivine.models.inspect import check_checkpoint, read_facts
from olivine.models.io_config import signature_by
from olivine.models.kinds import TASKS
from olivine.models.onnx_files import check_onnx, is_onnx, onnx_facts, onnx_model
from olivine.models.openvino_files import ir_header_of, is_openvino, openvino_facts, openvino_model
from olivine.models.scripted import IO_CONFIG, LOAD, SCRIPT
from olivine.models.signature import Signature
from olivine.paths import exists, hub_cache, of_user, real
from olivine.runtimes import onnx_folder
from olivine.user_scripts import SECONDS, UserScript
from olivine.workflow.composite import plan_parts
from olivine.workflow.draft import Draft, short
from olivine.workflow.resources import Remote
from olivine.workflow.scripts import check_script

if TYPE_CHECKING:
    from olivine.models import sources
else:
    sources = lazy.module("olivine.models.sources")

OPENVINO = "OpenVINOModel"
# How the models of the hub are called that have no owner, being older than owners.
_WITHOUT_OWNER = (
    *("albert-", "bert-base-", "bert-large-", "camembert-", "distilbert-base-", "distilgpt2", "distilroberta-", "gpt2"),
    *("openai-gpt", "roberta-base", "roberta-large", "t5-small", "t5-base", "t5-large", "t5-3b", "xlm-mlm-"),
    *("xlm-roberta-", "xlnet-"),
)


def plan_model(draft: Draft, fetched: Path | None) -> None:
    """The input model: a local folder or file, one in the hub's cache, one that has just come, or one to fetch."""
    given = draft.workflow.input_model
    _check_task(draft, given.task)
    if given.type in (COMPOSITE, DIFFUSERS):
        plan_parts(draft, plan_model)
        return
    remote = next((remote for remote in draft.remotes if remote.is_model), None)
    if remote is not None:
        _plan_remote_model(draft, remote)
        return
    if not draft.has_model or not isinstance(given.model_path, str) or given.type not in MODELS:
        return
    if fetched is not None:
        _plan_here(draft, fetched)
        return
    if given.type == SCRIPTED:
        _plan_scripted(draft)
        return
    path = of_user(given.model_path)
    if not given.model_path.strip() or not exists(path):
        _plan_absent_model(draft, given.model_path)
        return
    _plan_here(draft, path.absolute())


def part_of(folder: Path, load: LoadKwargs) -> Path:
    """The folder in that of a model which is meant: that of its part, where a subfolder is named."""
    return folder / load.subfolder if load.subfolder else folder


def _plan_here(draft: Draft, folder: Path) -> None:
    """A model that is on this machine, or the part of it that is meant."""
    path = _check_subfolder(draft, folder) if draft.workflow.input_model.load_kwargs.subfolder else folder
    if path is not None:
        _plan_local_model(draft, path)


def _check_subfolder(draft: Draft, folder: Path) -> Path | None:
    """The folder of the part that is meant; None where there is none, which is told."""
    path, load = part_of(folder, draft.workflow.input_model.load_kwargs), ("input_model", "load_kwargs", "subfolder")
    if not real(path).is_relative_to(real(folder)):
        draft.problem("invalid-value", load, f"'subfolder' leads out of {folder}.", "Name a folder in it.")
    elif not path.is_dir():
        there = ", ".join(sorted(one.name for one in folder.iterdir() if one.is_dir())) or "none"
        draft.problem("missing-model", load, f"the model has no folder '{path.name}'.", f"There are: {there}.")
    else:
        return path
    return None


def meant_format(draft: Draft) -> Format | None:
    """How the files of an input model would lie that cannot be used, so that what follows is not told to be wrong."""
    given = draft.workflow.input_model
    is_graph = given.type == "ONNXModel" or is_onnx(of_user(str(given.model_path)))
    if given.type == SCRIPTED:
        return "script"
    if given.type in (COMPOSITE, DIFFUSERS):  # the parts are told to be wrong
        return None
    if given.type == OPENVINO or is_openvino(of_user(str(given.model_path))):
        return "openvino"
    if is_graph:
        return "onnx"
    return "hf" if given.adapter_path is None else None  # the adapter, or its base, is told to be wrong


def _check_task(draft: Draft, task: str) -> None:
    if task not in TASKS:
        close = difflib.get_close_matches(task, sorted(TASKS), n=1)
        hint = f"Did you mean '{close[0]}'?" if close else "Remove it: the task follows from the model."
        draft.problem("unsupported", ("input_model", "task"), f"the task '{short(task)}' is not served.", hint)


def _plan_local_model(draft: Draft, path: Path) -> None:
    given = draft.workflow.input_model
    if (plan_graph := _graph_planner(given, path)) is not None:
        plan_graph(draft, path)
        return
    if given.onnx_file_name is not None:
        fix = 'Write "type": "ONNXModel", or remove it.'
        draft.problem("invalid-value", ("input_model", "onnx_file_name"), "the model is no ONNXModel.", fix)
    if _is_other_type(draft, path):
        return
    if path.is_file() and path.suffix != ".gguf":
        message = f"'{path}' is neither a model folder nor a .gguf or .onnx file."
        draft.problem("missing-model", ("input_model", "model_path"), message)
        return
    if given.load_kwargs.revision is not None and not _is_snapshot(path):
        message = f"the revision '{given.load_kwargs.revision}' is of the hub, and the model is a folder or file here."
        draft.problem("invalid-value", ("input_model", "load_kwargs", "revision"), message, "Remove it.")
    if not _look_at(draft, path, str(path)):
        return
    trusted = given.load_kwargs.trust_remote_code
    task = given.task
    if draft.facts is not None and "task" not in given.model_fields_set:
        task = draft.facts.task
    elif draft.facts is not None and draft.facts.kind == "decoder" and not task.startswith("text-generation"):
        message, fix = (
            f"the task '{task}' is not served for a decoder of text.",
            "Remove it: the task is text-generation.",
        )
        draft.problem("unsupported", ("input_model", "task"), message, fix)
    form: Format = "gguf" if path.is_file() else "hf"
    draft.model = Model(form, path, task=task, trust_remote_code=trusted, attributes=exporting(draft.workflow))
    _plan_interface(draft)
    if given.adapter_path is not None:
        _plan_adapter(draft, of_user(given.adapter_path).absolute())


def _graph_planner(given: InputModel, path: Path) -> Callable[[Draft, Path], None] | None:
    """What plans the model, where its type, or what lies there, says that it is a graph."""
    for kind, is_one, plan in (("ONNXModel", is_onnx, _plan_onnx), (OPENVINO, is_openvino, _plan_openvino)):
        if given.type == kind or ("type" not in given.model_fields_set and is_one(path)):
            return plan
    return None


def _is_other_type(draft: Draft, path: Path) -> bool:
    """Whether the model is a graph and the config says another type, which is told."""
    given = draft.workflow.input_model
    for kind, what, is_one in (("ONNXModel", "an ONNX model", is_onnx), (OPENVINO, "a model of OpenVINO", is_openvino)):
        if is_one(path):
            message = f"'{path}' is {what}, and the type is {given.type}."
            draft.problem("missing-model", ("input_model", "model_path"), message, f'Write "type": "{kind}".')
            return True
    return False


def _plan_interface(draft: Draft) -> None:
    """What the config says of inputs and outputs, itself or by its script."""
    plan_model_script(draft)
    if draft.facts is not None and draft.facts.decoder is None:
        given = draft.workflow.input_model
        is_told = given.io_config is not None or given.dummy_inputs_func is not None
        draft.facts = replace(draft.facts, signature=_signature(draft, draft.facts.signature), is_told=is_told)


def exporting(workflow: Workflow) -> dict[str, Any]:
    """What the config says of how the input model is loaded and exported, as attributes of its record."""
    given, attributes = workflow.input_model, {}
    load = given.load_kwargs.model_dump(include={"dtype", "attn_implementation"}, exclude_none=True)
    if load:
        attributes[LOAD] = load
    if isinstance(given.io_config, IoConfig):
        attributes[IO_CONFIG] = given.io_config.model_dump(mode="json", exclude_defaults=True)
    if given.model_script is not None:
        names = {
            "model_loader": given.model_loader,
            "component_func": given.component_func,
            "io_config": given.io_config if isinstance(given.io_config, str) else None,
            "dummy_inputs_func": given.dummy_inputs_func,
        }
        script = UserScript.of(given.model_script, given.script_dir)
        places = {"path": str(script.path), "folder": str(script.folder)}
        attributes[SCRIPT] = places | {key: name for key, name in names.items() if name is not None}
        if given.max_seconds != SECONDS:
            attributes[SCRIPT]["max_seconds"] = given.max_seconds
    return attributes


def _plan_scripted(draft: Draft) -> None:
    """A model that a function of a script gives: nothing of it is known but what the config says."""
    given = draft.workflow.input_model
    function = given.component_func or given.model_loader
    if given.model_script is None or function is None:  # told where the config is read
        return
    if not plan_model_script(draft):
        return
    attributes = exporting(draft.workflow)
    path = of_user(str(given.model_path))
    if given.model_path:
        attributes[SCRIPT]["model_path"] = str(path.absolute()) if exists(path) else str(given.model_path)
    task = given.task if "task" in given.model_fields_set else ""
    draft.model = Model("script", Path(given.model_script), task=task, attributes=attributes)
    draft.facts = ModelFacts(function, 0, kind="script", task=task, signature=_signature(draft, None))
    if given.io_config is None and given.dummy_inputs_func is None:
        message = f"nothing says what goes into the module that '{function}' gives."
        fix = "Write io_config with input_names and input_shapes, or dummy_inputs_func."
        key = "component_func" if given.component_func is not None else "model_loader"
        draft.problem("invalid-value", ("input_model", key), message, fix)
    draft.translated.append(f"the model is what '{function}' of {given.model_script} gives, in the worker")


def _signature(draft: Draft, base: Signature | None) -> Signature | None:
    """What goes in and comes out, as the config says it; with a function of the script for that, only a run tells."""
    given = draft.workflow.input_model.io_config
    told = given.model_dump(mode="json", exclude_defaults=True) if isinstance(given, IoConfig) else None
    try:
        return signature_by(base, told)
    except ModelError as error:
        if draft.workflow.input_model.dummy_inputs_func is None:  # which tells it when it runs
            draft.problem("invalid-value", ("input_model", "io_config"), f"{error}.")
        return base


def plan_model_script(draft: Draft) -> bool:
    """Look at the script of the input model; False where something is wrong with it, which is told."""
    given = draft.workflow.input_model
    if given.model_script is None:
        return True
    functions = {"model_loader": given.model_loader, "component_func": given.component_func}
    functions["dummy_inputs_func"] = given.dummy_inputs_func
    functions["io_config"] = given.io_config if isinstance(given.io_config, str) else None
    named = {key: name for key, name in functions.items() if name is not None}
    script = UserScript.of(given.model_script, given.script_dir)
    return check_script(draft, script, named, ("input_model",), "model_script")


def _plan_onnx(draft: Draft, path: Path) -> None:
    """An ONNX file or folder: what it is, and what keeps it from running."""
    given, key = draft.workflow.input_model, ("input_model", "model_path")
    for name, value in (("adapter_path", given.adapter_path), ("revision", given.load_kwargs.revision)):
        if value is not None:
            where = ("input_model", name) if name == "adapter_path" else ("input_model", "load_kwargs", name)
            draft.problem("unsupported", where, f"an ONNX model has no {name}.", "Remove it.")
    try:
        task = given.task if "task" in given.model_fields_set else ""
        model = onnx_model(path, given.onnx_file_name, task)
        check_onnx(model)
        draft.facts = onnx_facts(model)
        if model.packaging == "genai":
            provider = {"execution_provider": onnx_folder.execution_provider(model.path)}
            model = replace(model, attributes=provider)
    except (ModelError, Unsupported) as error:
        where = ("input_model", "onnx_file_name") if "onnx_file_name" in str(error) and given.onnx_file_name else key
        draft.problem(error.kind, where, sentence(error))
        return
    draft.model = model
    draft.template = read_chat_template(model)
    if draft.facts.signature is not None and model.packaging == "plain":
        draft.translated.append(f"the graph is {draft.facts.signature.in_words}")


def _plan_openvino(draft: Draft, path: Path) -> None:
    """A model of OpenVINO: what it is, and what keeps it from running."""
    given = draft.workflow.input_model
    for name in ("adapter_path", "onnx_file_name"):
        if getattr(given, name) is not None:
            draft.problem("unsupported", ("input_model", name), f"a model of OpenVINO has no {name}.", "Remove it.")
    try:
        model = openvino_model(path, given.task if "task" in given.model_fields_set else "")
        ir_header_of(model).check()
        draft.facts = openvino_facts(model)
    except ModelError as error:
        draft.problem(error.kind, ("input_model", "model_path"), sentence(error))
        return
    draft.model = model
    main, _ = draft.hosts[None]
    if "openvino" not in main.probe.modules:
        draft.problem("missing-extra", ("input_model", "type"), f"{lazy.missing_sentence('openvino', 'openvino')}.")
    if draft.facts.signature is not None:
        draft.translated.append(f"the graph is {draft.facts.signature.in_words}")


def _look_at(draft: Draft, path: Path, name: str) -> bool:
    """Read the facts of a model and what is wrong with it; False when there are none."""
    key = ("input_model", "model_path")
    found = list(check_checkpoint(path))
    for problem in found:
        message = f"{name} {problem.message}" if problem.message.startswith("is ") else f"{name}: {problem.message}"
        draft.problems.append(replace(problem, where=draft.where(*key), message=message.replace(str(path), name)))
    draft.template = read_chat_template(Model("gguf" if path.is_file() else "hf", path))
    try:
        draft.facts = read_facts(path)
    except ModelError as error:
        if not found:
            draft.problem("missing-model", key, str(error).replace(str(path), name))
        return False
    return True


def _is_snapshot(path: Path) -> bool:
    """Whether the folder is one of the hub's cache, or a part of one."""
    return any(folder.parent.name == "snapshots" for folder in (path, *path.parents))


def _plan_adapter(draft: Draft, path: Path) -> None:
    from olivine.models.adapter import check
    from olivine.models.weights import weights

    try:
        base = weights(draft.model) if draft.model and draft.model.format == "hf" else None
        check(Model("adapter", path, base=draft.model), base)
    except (ModelError, Unsupported) as error:
        draft.problem(error.kind, ("input_model", "adapter_path"), str(error))
        draft.model = None  # what takes an adapter is not told to be wrong as well
        return
    draft.model = Model("adapter", path, base=draft.model, task=draft.workflow.input_model.task)
    draft.template = read_chat_template(draft.model)


def _plan_absent_model(draft: Draft, name: str) -> None:
    key = ("input_model", "model_path")
    is_on_hub = name.count("/") == 1 or name.startswith(_WITHOUT_OWNER)
    looks_local = not is_on_hub or name.startswith((".", "/", "~")) or name.endswith(".gguf") or "\\" in name
    is_graph = draft.workflow.input_model.type in ("ONNXModel", OPENVINO)
    if not looks_local and (snapshot := _hub_snapshot(draft, name)):
        _plan_here(draft, snapshot)
    elif not looks_local and is_graph:
        fix = "Download it and name the folder as model_path."
        draft.problem("missing-model", key, f"a graph is not fetched from the hub ('{short(name)}').", fix)
    elif looks_local:
        draft.problem("missing-model", key, f"the model '{short(name)}' does not exist{_nearest_path(Path(name))}")
    elif draft.machine.offline:
        fix = "Fetch it while online, or name a folder."
        draft.problem("network", key, f"the model '{name}' is not on this machine and the network is off.", fix)
    elif draft.workflow.input_model.load_kwargs.subfolder:
        fix = "Fetch the model and name its folder as model_path."
        where = ("input_model", "load_kwargs", "subfolder")
        draft.problem("unsupported", where, f"a part of '{name}', which is still to be fetched.", fix)
    else:
        if draft.workflow.input_model.adapter_path is not None:
            fix = "Fetch the model and name its folder as model_path."
            path = ("input_model", "adapter_path")
            draft.problem("unsupported", path, f"an adapter of '{name}', which is still to be fetched.", fix)
        draft.hub_name = name
        draft.translated.append(f"the model '{name}' is fetched from the hub before the first step")
        _look_at_hub(draft, name)


def _look_at_hub(draft: Draft, name: str) -> None:
    """Check a model that is still on the hub by its config and the headers of its weights."""
    from olivine.models import hub

    given, key = draft.workflow.input_model.load_kwargs, ("input_model", "model_path")
    try:
        draft.download_bytes = hub.sketch(name, given.revision, draft.scratch, trusted=given.trust_remote_code)
    except ModelError as error:
        draft.problem("missing-model", key, f"{error}.")
    except hub.Unreachable as error:
        fix = "Try again when it does, fetch the model elsewhere, or name a folder."
        draft.problem("network", key, f"'{name}' is to be fetched, but the hub gives no answer: {error}.", fix)
    else:
        _look_at(draft, draft.scratch, name)


def _plan_remote_model(draft: Draft, remote: Remote) -> None:
    """A model that a run brings: its config and the headers of its weights are looked at where it lies."""
    adapter = draft.workflow.input_model.adapter_path
    if adapter is not None and not exists(of_user(adapter)):  # one that is there is checked when the model has come
        draft.problem(
            "missing-model", ("input_model", "adapter_path"), f"the adapter '{short(adapter)}' does not exist."
        )
    if remote.source is None or not any(file.name == "config.json" for file in remote.files):
        return  # a graph or a GGUF file is looked at when it is here
    try:
        sources.sketch(remote.source, remote.files, draft.scratch)
    except OlivineError as error:
        kind = error.kind if isinstance(error, RequestError) else "network"
        draft.problem(kind, ("input_model", "model_path"), f"{error}.")
        return
    _look_at(draft, draft.scratch, remote.address)


def _nearest_path(path: Path) -> str:
    if not exists(path.parent):
        return f": there is no folder '{short(str(path.parent))}'."
    if not path.parent.is_dir():
        return f": '{path.parent}' is not a folder."
    if not os.access(path.parent, os.R_OK | os.X_OK):
        return f": the folder '{path.parent}' cannot be read."
    close = difflib.get_close_matches(path.name, [other.name for other in path.parent.iterdir()], n=1)
    return f"; did you mean '{path.parent / close[0]}'?" if close else "."


def _hub_snapshot(draft: Draft, name: str) -> Path | None:
    """The folder of a model that the hub's cache on this machine holds whole; half of one is fetched again."""
    given = draft.workflow.input_model
    revision = given.load_kwargs.revision
    root = hub_cache() / f"models--{name.replace('/', '--')}"
    reference = root / "refs" / (revision or "main")
    commit = reference.read_text(encoding="ascii").strip() if reference.is_file() else revision
    snapshot = root / "snapshots" / commit if commit else None
    if snapshot is None or not snapshot.is_dir():
        return None
    part = part_of(snapshot, given.load_kwargs)
    return snapshot if given.type in ("ONNXModel", OPENVINO) or not any(check_checkpoint(part)) else None

"""A config as it was resolved: everything that the plan decided, so that it runs as it stands, from any folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from olivine import data
from olivine.config.schema import DataConfig, PassConfig, System
from olivine.config.shape import SCRIPTED
from olivine.errors import DataError
from olivine.models import ONNX_FILE, Model
from olivine.models.scripted import SCRIPT
from olivine.paths import of_user
from olivine.workflow.steps import Plan

NESTED = {PassConfig: "params", System: "config"}  # sections whose keys of their own stand beside the others in a file
FOUND_OUT = frozenset({"content", "folder", "environment"})  # by each run itself
OPEN = frozenset(
    {"alternatives", "disable_search", "label", "searched"}
)  # what a search chooses of; nothing is open in what was resolved


def resolved(plan: Plan) -> dict[str, Any]:
    """The config with every default, every param that a pass was given, and whole paths.

    Reading it again plans the same steps under the same keys. Keys that ask for nothing, and those that are known only
    to be refused, are left out.
    """
    places = {"cache_dir": str(plan.cache_dir), "output_dir": str(plan.output_dir)}
    workflow = plan.source.workflow if plan.source is not None else None
    if workflow is None:
        return {**plan.workflow, **places}
    content = _said(workflow) | places
    if isinstance(workflow.input_model.model_path, str) and plan.input_model is not None:
        _place_model(content["input_model"], plan.input_model)
    for said, config in zip(content["data_configs"], workflow.data_configs, strict=True):
        said["load_dataset_config"] |= _places(config)
        if "max_seq_len" not in config.pre_process_data_config.model_fields_set:  # it is then what the model reads
            del said["pre_process_data_config"]["max_seq_len"]
    params = {step.name: step.params for step in plan.steps}
    content["passes"] = {name: said | params.get(name, {}) for name, said in content["passes"].items()}
    for one in plan.asked:
        if one.script is not None:
            settings = content["evaluators"][one.path[1]]["metrics"][one.path[3]]["user_config"]
            settings["user_script"] = str(one.script.path)
            if one.script.folder is not None:
                settings["script_dir"] = str(one.script.folder)
    if plan.score is not None and plan.score.task_folder is not None:
        _place_tasks(content, str(plan.score.task_folder))
    return content


def _place_tasks(content: dict[str, Any], folder: str) -> None:
    """Name the folder of tasks by its whole path, wherever it stands."""
    metrics = [one for of in content.get("evaluators", {}).values() for one in of.get("metrics", ())]
    asked = [one.get("metric_config", {}) for metric in metrics for one in (metric, *metric.get("sub_types", ()))]
    for params in (*asked, *content["quality"].get("metrics", {}).values()):
        if params.get("include_path"):
            params["include_path"] = folder


def _said(section: BaseModel) -> dict[str, Any]:
    """The keys of a section and their values; what a value of None leaves at its default is not said."""
    said: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        extra = field.json_schema_extra
        is_refused = isinstance(extra, dict) and "unsupported" in extra
        if is_refused or name in FOUND_OUT | OPEN or (value is None and field.default is None):
            continue
        if name == NESTED.get(type(section)):
            said |= _plain(value)
        else:
            said[name] = _plain(value)
    return said


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _said(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _place_model(said: dict[str, Any], model: Model) -> None:
    """Name a model, and each part that it has, by its whole path; the task of a graph is not known."""
    said |= _model_places(model)
    if not said["task"]:
        del said["task"]
    if "model_components" in said:
        for inner, part in zip(said["model_components"], model.parts.values(), strict=True):
            _place_model(inner, part)


def _model_places(model: Model) -> dict[str, str]:
    if model.parts:
        has_folder = all(part.path != model.path for part in model.parts.values())
        return {"task": model.task, "model_path": str(model.path) if has_folder else ""}
    if model.format == "script":
        given = model.attributes[SCRIPT].get("model_path")
        return {"type": SCRIPTED, "task": model.task, **({"model_path": str(given)} if given else {})}
    if model.format == "adapter" and model.base is not None:
        return {"model_path": str(model.base.path), "adapter_path": str(model.path)}
    kind = {"onnx": "ONNXModel", "openvino": "OpenVINOModel"}.get(model.format, "HfModel")
    graph = {"onnx_file_name": str(model.attributes[ONNX_FILE])} if ONNX_FILE in model.attributes else {}
    return {"type": kind, "model_path": str(model.path), "task": model.task, **graph}


def _places(config: DataConfig) -> dict[str, Any]:
    """Where a data config's files lie, as whole paths; nothing for rows that are no local files."""
    try:
        files = data.data_files(config)
    except DataError:
        files = []
    if not files:
        return {}
    load, folders = config.load_dataset_config, [Path(config.folder or ".").absolute(), Path.cwd()]
    folder = next((one for one in folders if any(path.is_relative_to(one) for path in files)), folders[0])
    places: dict[str, Any] = {}
    if (folder / load.data_name).is_dir():
        folder /= load.data_name
        places["data_name"] = str(folder)
    if load.data_dir is not None:
        folder /= of_user(load.data_dir)
        places["data_dir"] = str(folder)
    if load.data_files is not None:
        places["data_files"] = _within(folder, load.data_files)
    return places


def _within(folder: Path, files: Any) -> Any:
    """Names of files and patterns, alone, listed or by split, as whole paths."""
    if isinstance(files, Mapping):
        return {split: _within(folder, names) for split, names in files.items()}
    if isinstance(files, str):
        return str(folder / of_user(files))
    return [_within(folder, name) for name in files]

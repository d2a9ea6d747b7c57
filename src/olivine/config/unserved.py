"""What a config asks for that olivine knows and does not do: refused by name, never skipped."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from olivine.config.dialects.metric_forms import WITHOUT_ROWS
from olivine.config.explain import Path, shown
from olivine.config.read import Document
from olivine.config.schema import DataConfig, InputModel, Workflow
from olivine.config.shape import COMPOSITE, DIFFUSERS, LOADS, PRE_PROCESSES, SCRIPTED
from olivine.errors import Problem

Wish = tuple[Path, str, str]
MODELS = ("HfModel", "ONNXModel", "OpenVINOModel", SCRIPTED, COMPOSITE, DIFFUSERS)
_MTEB = "mtebevaluator"
_OF_SCRIPTS = ("PyTorch.EntireModel", "PyTorch.StateDict", "PyTorch.TorchScript")  # what a loader makes of a file
_DATA_TYPES = ("HuggingfaceContainer", "DataContainer", "DummyDataContainer", "RawDataContainer")


def unsupported(workflow: Workflow, document: Document) -> list[Problem]:
    """A problem of kind "unsupported", with file and line, for each known wish that is not served."""
    others = workflow.model_copy(update={"data_configs": []})
    wishes = [*_marked(others, ()), *_model(workflow), *_data(workflow), *_search(workflow), *_measures(workflow)]
    return [Problem("unsupported", document.where(path), message, advice) for path, message, advice in wishes]


def without_effect(section: BaseModel, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Keys that are set to more than their default and change nothing, each with the reason."""
    for name, field in type(section).model_fields.items():
        value, here = getattr(section, name), (*path, name)
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "without_effect" in extra:
            if value != field.default:
                yield here, str(extra["without_effect"])
            continue
        for inner, item in _inner(value, here):
            yield from without_effect(item, inner)


def _marked(section: BaseModel, path: Path) -> Iterator[Wish]:
    """Keys that the schema marks, wherever they are set to more than their default."""
    for name, field in type(section).model_fields.items():
        value, here = getattr(section, name), (*path, name)
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "unsupported" in extra:
            if value is not None and value != field.default:
                yield here, f"'{name}' is not served: {shown(value)}.", str(extra["unsupported"])
            continue
        for inner, item in _inner(value, here):
            yield from _marked(item, inner)


def _inner(value: Any, path: Path) -> Iterator[tuple[Path, BaseModel]]:
    pairs: Any = [((), value)]
    if isinstance(value, list):
        pairs = [((index,), item) for index, item in enumerate(value)]
    elif isinstance(value, dict):
        pairs = [((key,), item) for key, item in value.items()]
    return ((path + key, item) for key, item in pairs if isinstance(item, BaseModel))


def _model(workflow: Workflow) -> Iterator[Wish]:
    yield from _of_model(workflow.input_model, ("input_model",))
    for index, part in enumerate(workflow.input_model.model_components or ()):
        yield from _of_model(part, ("input_model", "model_components", index))


def _of_model(model: InputModel, path: Path) -> Iterator[Wish]:
    if model.type not in MODELS:
        what = "ONNX" if model.type.lower().startswith("onnx") else "PyTorch"
        message = f"input models of type '{model.type}' are not served."
        yield (*path, "type"), message, f"Convert the model to {what}, and use {' or '.join(MODELS)}."
        return
    of_scripts = _OF_SCRIPTS if model.type == SCRIPTED else ()
    if model.model_file_format not in (None, "PyTorch.MLflow", "ONNX", *of_scripts):
        message = f"'model_file_format' is not served: {shown(model.model_file_format)}."
        fix = "Convert it to a Hugging Face folder and name that as model_path."
        yield (*path, "model_file_format"), message, fix
    if model.type == SCRIPTED:
        yield from _scripted(model, path)
    elif model.model_loader is not None:
        message = "'model_loader' gives the model of the type PyTorchModel."
        yield (*path, "model_loader"), message, 'Write "type": "PyTorchModel", or remove it.'
    functions = [key for key in ("io_config", "dummy_inputs_func") if isinstance(getattr(model, key), str)]
    if functions and model.model_script is None:
        message = f"'{functions[0]}' names a function, and no model_script has it."
        yield (*path, functions[0]), message, "Name the script as model_script."


def _scripted(model: InputModel, path: Path) -> Iterator[Wish]:
    """What a model that a function gives cannot do without."""
    if model.model_file_format == "PyTorch.TorchScript":
        message = "'model_file_format' is not served: a TorchScript file is a program, and it is not run."
        yield (*path, "model_file_format"), message, "Write a model_loader that makes the model."
    elif (model.model_loader or model.component_func) is None or model.model_script is None:
        lacking = "model_script" if model.model_loader or model.component_func else "model_loader"
        message = f"a PyTorchModel comes from the function model_loader of a model_script, and there is no {lacking}."
        yield (*path, "type"), message, "Name both, or an HfModel."


def _data(workflow: Workflow) -> Iterator[Wish]:
    used = set(_used_data(workflow))
    for index, config in enumerate(workflow.data_configs):
        if config.name in used:
            yield from _marked(config, ("data_configs", index))
            yield from _of_data(config, ("data_configs", index))


def _used_data(workflow: Workflow) -> Iterator[str]:
    """Names of data configs whose rows something reads; a metric of time or size makes its own."""
    yield workflow.quality.data_config or ""
    for step in workflow.passes.values():
        yield from _texts([step.params, step.alternatives])
    evaluator = workflow.evaluators.get(workflow.evaluator or "")
    for metric in evaluator.metrics if evaluator is not None else ():
        if metric.type not in WITHOUT_ROWS:
            yield metric.data_config or ""


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _texts(item)


def _of_data(config: DataConfig, path: Path) -> Iterator[Wish]:
    if config.type not in _DATA_TYPES:
        message = f"data of type '{config.type}' is not served."
        yield (*path, "type"), message, f"Use {' or '.join(_DATA_TYPES)}."
        return
    sections = [
        ("load_dataset_config", "the data source", config.load_dataset_config.type, LOADS),
        ("pre_process_data_config", "the pre-processing", config.pre_process_data_config.type, PRE_PROCESSES),
        ("dataloader_config", "the data loader", config.dataloader_config.type, ()),
        ("post_process_data_config", "the post-processing", config.post_process_data_config.type, ()),
    ]
    for key, what, kind, served in sections:
        if kind is not None and kind not in served and config.user_script is None:
            fix = "Name the user_script that registers it" + (f", or use {' or '.join(served)}." if served else ".")
            yield (*path, key, "type"), f"{what} '{kind}' is not served.", fix
            return  # one want, one message


def _search(workflow: Workflow) -> Iterator[Wish]:
    if workflow.search is not None:
        yield from _marked(workflow.search, ("search_strategy",))
        return
    for name, config in workflow.passes.items():
        if config.alternatives:
            message = f"the pass '{name}' has alternatives, and choosing between passes is a search."
            yield ("passes", name), message, "Keep one of them, or set 'search_strategy' to true."


def _measures(workflow: Workflow) -> Iterator[Wish]:
    evaluator = workflow.evaluators.get(workflow.evaluator or "")
    if evaluator is not None and not evaluator.metrics:
        kind = f" of type '{evaluator.type}'" if evaluator.type else ""
        message = f"evaluator '{workflow.evaluator}'{kind} is not served: it has no metrics."
        fix = "Write what is to be measured as its 'metrics'."
        if (evaluator.type or "").lower() == _MTEB:
            message = f"evaluator '{workflow.evaluator}' asks for tasks of the package mteb, which are not served."
            fix = (
                "Ask for them in the script of a custom metric (docs/evaluators.md has one), or for output_agreement: "
                "how near embeddings stay to those before."
            )
        yield ("evaluators", str(workflow.evaluator)), message, fix

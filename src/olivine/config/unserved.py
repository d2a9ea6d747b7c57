"""What a config asks for that olivine knows and does not do: refused by name, never skipped."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from olivine.config.explain import Path, shown
from olivine.config.read import Document
from olivine.config.schema import Workflow
from olivine.config.shape import LOAD_DATASET_TYPE, PRE_PROCESS_TYPE
from olivine.errors import Problem

Wish = tuple[Path, str, str]
_DATA_TYPES = ("HuggingfaceContainer", "DataContainer")


def unsupported(workflow: Workflow, document: Document) -> list[Problem]:
    """A problem of kind "unsupported", with file and line, for each known wish that is not served."""
    wishes = [*_marked(workflow, ()), *_model(workflow), *_data(workflow), *_search(workflow), *_measures(workflow)]
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
    model = workflow.input_model
    if model.type not in ("HfModel", "ONNXModel"):
        message = f"input models of type '{model.type}' are not served."
        fix = "Use HfModel (a Hugging Face folder, hub name or GGUF file), or ONNXModel (an ONNX file, or its folder)."
        yield ("input_model", "type"), message, fix
    if model.model_file_format not in (None, "PyTorch.MLflow"):
        message = f"'model_file_format' is not served: {shown(model.model_file_format)}."
        fix = "Convert it to a Hugging Face folder and name that as model_path."
        yield ("input_model", "model_file_format"), message, fix


def _data(workflow: Workflow) -> Iterator[Wish]:
    for index, config in enumerate(workflow.data_configs):
        path: Path = ("data_configs", index)
        if config.type not in _DATA_TYPES:
            yield (*path, "type"), f"data of type '{config.type}' is not served.", "Use HuggingfaceContainer."
        load, pre = config.load_dataset_config, config.pre_process_data_config
        if load.type != LOAD_DATASET_TYPE:
            message = f"the data source '{load.type}' is not served."
            yield (*path, "load_dataset_config", "type"), message, f"Use {LOAD_DATASET_TYPE}."
        if pre.type != PRE_PROCESS_TYPE:
            message = f"the pre-processing '{pre.type}' is not served."
            yield (*path, "pre_process_data_config", "type"), message, f"Use {PRE_PROCESS_TYPE}."


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
        yield ("evaluators", str(workflow.evaluator)), message, "Write what is to be measured as its 'metrics'."

"""From today's form as people write it to the shape that the schema validates."""

from collections.abc import Mapping
from typing import Any

from olivine.config.nodes import plain
from olivine.config.schema import RESOURCE_SETTINGS, PassConfig, System

_OWN_PASS_KEYS = frozenset(PassConfig.model_fields) - {"params"}
_OWN_SYSTEM_KEYS = frozenset(System.model_fields) - {"config"}
SCRIPTED = "PyTorchModel"
COMPOSITE = "CompositeModel"
DIFFUSERS = "DiffusersModel"
LOAD_DATASET_TYPE = "huggingface_dataset"
DUMMY_TYPE = "dummy_dataset"
PRE_PROCESS_TYPE = "text_generation_huggingface_pre_process"
RAW_TYPE = "raw_dataset"
TOKENS_TYPE = "transformers_dummy_dataset"
LOADS = (LOAD_DATASET_TYPE, DUMMY_TYPE, RAW_TYPE, TOKENS_TYPE)
PRE_PROCESSES = (
    *(PRE_PROCESS_TYPE, "huggingface_pre_process", "tokenizer_pre_process"),
    *("pre_process", "skip_pre_process", "ner_huggingface_preprocess", "audio_classification_pre_process"),
    "speech_transcription_pre_process",
)
SECTIONS = ("load_dataset_config", "pre_process_data_config", "post_process_data_config", "dataloader_config")


def shape(root: Mapping[str, Any]) -> dict[str, Any]:
    """Nest params of passes under `params`, settings of systems and resources under `config`; the rest stays as it is.

    What is not of the expected type is left for the schema to refuse. `$schema`, which editors read, is left out.
    """
    config: dict[str, Any] = plain(root)
    config.pop("$schema", None)
    _each(config, "passes", _shape_pass)
    _each(config, "systems", _shape_system)
    _shape_evaluators(config)
    for model in _models(config.get("input_model")):
        _resource(model, "model_path")
        _without_path(model)
    entries = config.get("data_configs")
    for entry in entries if isinstance(entries, list) else []:
        _shape_data(entry)
    return config


def is_alternatives(value: Any) -> bool:
    """Whether several passes stand under one name, null for none, of which a search chooses."""
    items = value if isinstance(value, list) else []
    return all(item is None or isinstance(item, dict) for item in items) and any(item is not None for item in items)


def _each(config: dict[str, Any], key: str, function: Any) -> None:
    section = config.get(key)
    if isinstance(section, dict):
        config[key] = {name: function(value) for name, value in section.items()}


def _nested(section: dict[str, Any], own: frozenset[str], key: str) -> dict[str, Any]:
    """The section's own keys, and the others under `key`."""
    others = {name: value for name, value in section.items() if name not in own}
    return {name: value for name, value in section.items() if name in own} | {key: others}


def _shape_pass(value: Any) -> Any:
    if is_alternatives(value):
        first = next(index for index, item in enumerate(value) if item is not None)
        return _shape_pass(value[first]) | {"alternatives": [*value[:first], *value[first + 1 :]]}
    return _nested(value, _OWN_PASS_KEYS, "params") if isinstance(value, dict) else value


def _shape_system(value: Any) -> Any:
    return _nested(value, _OWN_SYSTEM_KEYS, "config") if isinstance(value, dict) else value


def _shape_evaluators(config: dict[str, Any]) -> None:
    """Of an evaluator that is not used, and of one that is no list of metrics, only the type stays.

    What such a one says cannot be wrong, or is refused as a whole where it is used.
    """
    evaluators, passes = config.get("evaluators"), config.get("passes")
    steps = passes.values() if isinstance(passes, dict) else ()
    used = {str(step.get("evaluator")) for step in steps if isinstance(step, dict)} | {str(config.get("evaluator"))}
    if not isinstance(evaluators, dict):
        return
    for name, value in evaluators.items():
        if isinstance(value, dict) and (name not in used or not isinstance(value.get("metrics"), list)):
            evaluators[name] = {"type": value["type"]} if isinstance(value.get("type"), str) else {}


def _models(model: Any) -> list[Any]:
    """The input model and its parts."""
    parts = model.get("model_components") if isinstance(model, dict) else None
    return [model, *(parts if isinstance(parts, list) else ())]


def _without_path(model: Any) -> None:
    """A function that gives a model needs no files, and parts have their own."""
    if isinstance(model, dict) and model.get("type") in (SCRIPTED, COMPOSITE) and model.get("model_path") is None:
        model["model_path"] = ""


def _resource(section: Any, key: str) -> None:
    """Settings of a resource that are written beside its type; a misspelt `config` is left for the schema to name."""
    reference = section.get(key) if isinstance(section, dict) else None
    if not isinstance(reference, dict) or "config" in reference:
        return
    settings = RESOURCE_SETTINGS.get(str(reference.get("type")))
    if settings is not None and not reference.keys().isdisjoint(settings.model_fields):
        section[key] = _nested(reference, frozenset({"type"}), "config")


def _shape_data(entry: Any) -> None:
    """Params of components that only a script knows stand under `params`."""
    if not isinstance(entry, dict):
        return
    _resource(entry.get("load_dataset_config"), "data_files")
    known = {"load_dataset_config": (None, *LOADS), "pre_process_data_config": (None, *PRE_PROCESSES)}
    for key in SECTIONS:
        section = entry.get(key)
        if isinstance(section, dict) and section.get("type") not in known.get(key, ()):
            own = frozenset({"type", "params"})
            entry[key] = _nested(section, own, "params") if "params" not in section else section

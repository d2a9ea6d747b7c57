"""From today's form as people write it to the shape that the schema validates."""

from collections.abc import Mapping
from typing import Any

from olivine.config.nodes import plain
from olivine.config.schema import RESOURCE_SETTINGS, PassConfig, System

_OWN_PASS_KEYS = frozenset(PassConfig.model_fields) - {"params"}
_OWN_SYSTEM_KEYS = frozenset(System.model_fields) - {"config"}
LOAD_DATASET_TYPE = "huggingface_dataset"
PRE_PROCESS_TYPE = "text_generation_huggingface_pre_process"


def shape(root: Mapping[str, Any]) -> dict[str, Any]:
    """Nest params of passes under `params`, settings of systems and resources under `config`; the rest stays as it is.

    What is not of the expected type is left for the schema to refuse. `$schema`, which editors read, is left out.
    """
    config: dict[str, Any] = plain(root)
    config.pop("$schema", None)
    _each(config, "passes", _shape_pass)
    _each(config, "systems", _shape_system)
    _each(config, "evaluators", _shape_evaluator)
    _resource(config.get("input_model"), "model_path")
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


def _shape_evaluator(value: Any) -> Any:
    """What is no list of metrics cannot be checked: only its type stays, and it is refused where it is used."""
    if not isinstance(value, dict) or isinstance(value.get("metrics"), list):
        return value
    return {"type": value["type"]} if isinstance(value.get("type"), str) else {}


def _resource(section: Any, key: str) -> None:
    """Settings of a resource that are written beside its type; a misspelt `config` is left for the schema to name."""
    reference = section.get(key) if isinstance(section, dict) else None
    if not isinstance(reference, dict) or "config" in reference:
        return
    settings = RESOURCE_SETTINGS.get(str(reference.get("type")))
    if settings is not None and not reference.keys().isdisjoint(settings.model_fields):
        section[key] = _nested(reference, frozenset({"type"}), "config")


def _shape_data(entry: Any) -> None:
    """Params of a component that olivine does not know cannot be checked: only its type, which is refused, stays."""
    if not isinstance(entry, dict):
        return
    load, pre = entry.get("load_dataset_config"), entry.get("pre_process_data_config")
    _resource(load, "data_files")
    if isinstance(load, dict) and load.get("type") not in (None, LOAD_DATASET_TYPE):
        entry["load_dataset_config"] = {"type": load["type"]}
    if isinstance(pre, dict) and pre.get("type") not in (None, PRE_PROCESS_TYPE):
        entry["pre_process_data_config"] = {"type": pre["type"]}

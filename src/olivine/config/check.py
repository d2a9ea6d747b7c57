"""Validation of a config in today's form: the schema, settings that depend on a type, names that must be unique."""

import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from olivine.config.explain import Fault, Path, faults, nearest
from olivine.config.schema import (
    RESOURCE_SETTINGS,
    SYSTEM_SETTINGS,
    PassConfig,
    SearchStrategy,
    System,
    Workflow,
)
from olivine.registry import plugin_names

EXECUTION_PROVIDERS = (
    "CPUExecutionProvider",
    "CUDAExecutionProvider",
    "DmlExecutionProvider",
    "TensorrtExecutionProvider",
    "NvTensorRTRTXExecutionProvider",
    "ROCMExecutionProvider",
    "MIGraphXExecutionProvider",
    "OpenVINOExecutionProvider",
    "QNNExecutionProvider",
    "VitisAIExecutionProvider",
    "WebGpuExecutionProvider",
    "JsExecutionProvider",
    "CoreMLExecutionProvider",
    "DnnlExecutionProvider",
)
# Without these, a plan would report files, columns or models as missing that the config does name, if wrongly.
_NEEDED = frozenset(
    {
        *("model_path", "data_files", "data_name", "data_dir", "text_template", "text_cols", "chat_template"),
        *("prompt_col", "answer_col"),
    }
)
# Names of old forms that a reader may have misspelt; they are known, so they are offered beside today's.
_OLD_NAMES: Mapping[str, tuple[str, ...]] = {
    "Workflow": ("engine", "evaluate_input_model", "workflow_id", "log_to_file", "ort_log_severity_level"),
    "InputModel": ("hf_config", "from_pretrained_args", "model_loading_args"),
    "DataConfig": ("params_config", "components"),
    "PreProcess": ("source_max_len", "corpus_strategy", "dataset_type"),
    "SearchStrategy": ("search_algorithm", "search_algorithm_config"),
}


def check(config: dict[str, Any]) -> tuple[Workflow | None, list[Fault]]:
    """The workflow, and every mistake of the config in the shape of the schema.

    With mistakes, the workflow is what remains when misspelt keys are read as their nearest name and other wrong ones
    are left out, so that a plan can go on to look for more; None when what is wrong would only lead to more messages.
    """
    unknown_providers = list(_execution_providers(config))
    for fault in reversed(unknown_providers):  # from the last on, since the others move up
        _leave_out_provider(config, fault.path)
    workflow, mistakes = _validate(Workflow, config, ())
    for path, model, value in _typed_parts(config):
        mistakes += _validate(model, value, path)[1]
    mistakes += _unknown_types(config)
    mistakes += _duplicate_names(config)
    mistakes += _evaluator_name(config)
    mistakes += unknown_providers
    mistakes += _unknown_sampler(config)
    return workflow, mistakes


def _validate(model: type[BaseModel], value: dict[str, Any], path: Path) -> tuple[Any, list[Fault]]:
    """Validate, repair or leave out what is wrong, and again, until it holds or cannot.

    A null where none belongs is "not given". A section that cannot do without what was left out of it goes too.
    """
    mistakes: list[Fault] = []
    left_out: set[Path] = set()
    while True:
        try:
            return model.model_validate(value), mistakes
        except ValidationError as error:
            failure = error
            wrong = faults(error, value, lambda inner: known_keys(model, inner), path)
        if not wrong:  # explain.py knows no words for it, and leaving nothing out would go on for ever
            raise failure
        here = [replace(fault, path=fault.path[len(path) :]) for fault in wrong]
        nulls = [fault for fault in here if _is_null(value, fault)]
        echoes = [fault for fault in here if fault.missing and fault.path in left_out]
        if not nulls:
            mistakes += [fault for fault, short in zip(wrong, here, strict=True) if short not in echoes]
            left_out |= {fault.path for fault in here}
        sections = [replace(fault, path=fault.path[:-1], missing=False) for fault in echoes]
        others = [fault for fault in nulls or here if fault not in echoes]
        if not all(_mend(model, value, fault) for fault in (*sections, *others)):
            return None, mistakes


def _is_null(value: Any, fault: Fault) -> bool:
    if fault.missing or fault.kind != "invalid-value":
        return False
    for key in fault.path:
        value = value[key]
    return value is None


def _mend(model: type[BaseModel], value: Any, fault: Fault) -> bool:
    """Make a mistake go away: rename a key to the one that was meant, or take it out; False when that would mislead."""
    is_needed = fault.kind == "invalid-value" and not _NEEDED.isdisjoint(fault.path) and not _is_null(value, fault)
    if fault.missing or not fault.path or is_needed:
        return False
    for key in fault.path[:-1]:
        value = value[key]
    if not isinstance(value, dict):  # elements of lists cannot go, since others would move
        return False
    removed = value.pop(fault.path[-1])
    if fault.near is not None and fault.near not in value and fault.near in today_keys(model, fault.path[:-1]):
        value[fault.near] = removed
    return True


def _typed_parts(config: dict[str, Any]) -> Iterator[tuple[Path, type[BaseModel], dict[str, Any]]]:
    """The parts whose keys depend on a type that stands beside them, or that the schema holds as plain mappings."""
    for name, system in _items(config.get("systems")):
        settings = SYSTEM_SETTINGS.get(str(system.get("type", "LocalSystem")))
        if settings is not None and isinstance(system.get("config"), dict):
            yield ("systems", name, "config"), settings, dict(system["config"])
    for path, resource in _resources(config):
        settings = RESOURCE_SETTINGS.get(str(resource.get("type")))
        if settings is not None and isinstance(resource.get("config"), dict):
            yield (*path, "config"), settings, dict(resource["config"])
    if isinstance(config.get("search_strategy"), dict):
        yield ("search_strategy",), SearchStrategy, dict(config["search_strategy"])


def _items(section: Any) -> Iterable[tuple[str, dict[str, Any]]]:
    pairs = section.items() if isinstance(section, dict) else ()
    return [(name, value) for name, value in pairs if isinstance(value, dict)]


def _data(config: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    entries = config.get("data_configs")
    pairs = enumerate(entries) if isinstance(entries, list) else ()
    return [(index, entry) for index, entry in pairs if isinstance(entry, dict)]


def _resources(config: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    model = config.get("input_model")
    parts = model.get("model_components") if isinstance(model, dict) else None
    places: list[tuple[Path, Any]] = [(("input_model",), model)]
    for number, part in enumerate(parts if isinstance(parts, list) else ()):
        places.append((("input_model", "model_components", number), part))
    for path, one in places:
        if isinstance(one, dict) and isinstance(one.get("model_path"), dict):
            yield (*path, "model_path"), one["model_path"]
    for index, entry in _data(config):
        load = entry.get("load_dataset_config")
        files = load.get("data_files") if isinstance(load, dict) else None
        if isinstance(files, dict) and isinstance(files.get("type"), str) and "config" in files:
            yield ("data_configs", index, "load_dataset_config", "data_files"), files


def _unknown_types(config: dict[str, Any]) -> Iterator[Fault]:
    """Types of systems and resources that nobody knows."""
    for name, system in _items(config.get("systems")):
        kind = system.get("type", "LocalSystem")
        if not isinstance(kind, str) or not (kind in SYSTEM_SETTINGS or _is_plugin(kind)):
            yield from _one_of(("systems", name, "type"), kind, SYSTEM_SETTINGS)
    for path, resource in _resources(config):
        yield from _one_of((*path, "type"), resource.get("type", ""), RESOURCE_SETTINGS)


def _is_plugin(kind: str) -> bool:
    """Whether a file or a package of others brings a system of that type; a plan checks its settings."""
    return kind.lower() in {name.lower() for name in plugin_names("olivine.systems", "olivine.systems")}


def _one_of(path: Path, value: Any, known: Iterable[str]) -> Iterator[Fault]:
    if isinstance(value, str) and value not in known:
        near = nearest(value, known)
        hint = f"; did you mean '{near}'?" if near else f"; known are {', '.join(known)}."
        yield Fault(path, "invalid-value", f"unknown {path[-1]} '{value}'{hint}")


def _duplicate_names(config: dict[str, Any]) -> Iterator[Fault]:
    seen: set[str] = set()
    for index, entry in _data(config):
        name = entry.get("name")
        if isinstance(name, str) and name in seen:
            message = f"there are two data configs with the name '{name}'; give one of them another."
            yield Fault(("data_configs", index, "name"), "invalid-value", message)
        elif isinstance(name, str):
            seen.add(name)


def _evaluator_name(config: dict[str, Any]) -> Iterator[Fault]:
    name, known = config.get("evaluator"), config.get("evaluators")
    if isinstance(name, str) and isinstance(known, dict | None) and name not in (known or {}):
        near = nearest(name, known or {})
        hint = f"; did you mean '{near}'?" if near else f"; there is {', '.join(known or {}) or 'none'}."
        yield Fault(("evaluator",), "invalid-value", f"no evaluator is named '{name}'{hint}")


def _unknown_sampler(config: dict[str, Any]) -> Iterator[Fault]:
    strategy = config.get("search_strategy")
    sampler = strategy.get("sampler") if isinstance(strategy, dict) else None
    if not isinstance(sampler, str):
        return
    known = plugin_names("olivine.search.samplers", "olivine.samplers")
    if sampler.lower() not in (name.lower() for name in known):
        yield from _one_of(("search_strategy", "sampler"), sampler, known)


def _execution_providers(config: dict[str, Any]) -> Iterator[Fault]:
    for name, system in _items(config.get("systems")):
        accelerators = system.get("accelerators")
        for index, accelerator in enumerate(accelerators if isinstance(accelerators, list) else []):
            providers = accelerator.get("execution_providers") if isinstance(accelerator, dict) else None
            for number, provider in enumerate(providers if isinstance(providers, list) else []):
                path = ("systems", name, "accelerators", index, "execution_providers", number)
                for fault in _one_of(path, provider, EXECUTION_PROVIDERS):
                    message = fault.message.replace(f"unknown {number}", "unknown execution provider")
                    yield Fault(path, fault.kind, message)


def _leave_out_provider(config: dict[str, Any], path: Path) -> None:
    """Plan as if an unknown provider were not named; where it is the only one, for the CPU, which is always there."""
    section: Any = config
    for key in path[:-2]:
        section = section[key]
    providers = section["execution_providers"] = list(section["execution_providers"])
    providers.pop(int(path[-1]))
    if not providers:
        section["device"] = "cpu"


def known_keys(model: type[BaseModel], path: Path) -> list[str]:
    """The keys that the mapping at a path below a model may have, today's first, then those of older forms."""
    names = today_keys(model, path)
    if model in SYSTEM_SETTINGS.values() and not path:  # they stand beside the keys that every system has
        names += [name for name in System.model_fields if name != "config"]
    return names + [name for item in _models_at(model, path) for name in _OLD_NAMES.get(item.__name__, ())]


def today_keys(model: type[BaseModel], path: Path) -> list[str]:
    """The keys that the mapping at a path below a model may have in today's form."""
    models = _models_at(model, path)
    names = [name for item in models for name in item.model_fields if name not in ("folder", "content", "alternatives")]
    return [name for name in names if name != "params" or PassConfig not in models]


def _models_at(model: type[BaseModel], path: Path) -> list[type[BaseModel]]:
    models = [model]
    for key in path:
        if isinstance(key, str):
            models = [inner for item in models for inner in _models_below(item, key)]
    return models


def _models_below(model: type[BaseModel], key: str) -> list[type[BaseModel]]:
    """The models in the type of a field; of the model itself when the key is a name, as in systems.NAME."""
    field = model.model_fields.get(key)
    return list(_models_in(field.annotation)) if field is not None else [model]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, list, dict):
        for argument in get_args(annotation):
            yield from _models_in(argument)

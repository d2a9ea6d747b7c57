"""`data_configs` as a mapping, params under `params_config` or `params`: until 2024-06; today a flat list."""

from olivine.config.dialects._edit import Findings, Note, data_configs, lift, move, put, rename, section_of, text_of
from olivine.config.nodes import Array, Object
from olivine.config.schema import LoadDataset, PreProcess

_SECTIONS = {
    "load_dataset": "load_dataset_config",
    "pre_process_data": "pre_process_data_config",
    "post_process_data": "post_process_data_config",
    "dataloader": "dataloader_config",
}
_BUILDERS = {"json", "csv", "parquet", "text", "arrow"}  # packaged readers of files: their only split is "train"
_DATALOADER = {"batch_size", "shuffle", "drop_last"}


def translate(config: Object) -> Findings:
    """Make it a list of data configs with flat sections."""
    yield from _as_list(config)
    nested: list[str] = []
    for entry in data_configs(config):
        is_old = any(key in entry for key in ("params_config", "components"))
        yield from _components(entry)
        yield from _params_config(entry)
        for name in _SECTIONS.values():
            section = entry.mapping(name)
            if section is not None and isinstance(section.get("params"), Object) and section["params"]:
                is_old = True
                nested.append(section.where("params"))
                yield from lift(section, "params")
        if is_old:
            yield from _split(entry)
        load = entry.mapping("load_dataset_config")
        if load is not None:
            yield from rename(load, "delimiter", "sep")
    if nested:
        message = "The keys of 'params' stand in the section itself today, in 'data_configs'."
        yield Note(nested[0], "data_configs.*.params", "data_configs.*", message)


def _as_list(config: Object) -> Findings:
    by_name = config.mapping("data_configs")
    if by_name is None:
        return
    place = config.places["data_configs"]
    entries = Array(place)
    for name, entry in by_name.items():
        at = by_name.places[name]
        if isinstance(entry, Object):
            if entry.get("name", name) != name:
                message = f"The data config is known as '{name}', under which it stands, not as '{entry['name']}'."
                yield Note(entry.where("name"), "name", "name", message, warning=True)
                entry.take("name")
            if "name" not in entry:
                entry.put("name", name, at)
                entry.reorder(["name", *(key for key in entry if key != "name")])
        entries.add(entry, at)
    config.put("data_configs", entries, place)
    yield Note(str(place), "data_configs", "data_configs", "'data_configs' is a list of named mappings today.")


def _components(entry: Object) -> Findings:
    components = entry.mapping("components")
    if components is None:
        return
    place = entry.places["components"]
    yield Note(str(place), "components", "", "'components' is written as sections such as 'load_dataset_config' today.")
    for old, new in _SECTIONS.items():
        component = components.mapping(old)
        if component is not None:
            component.pop("name", None)  # it only named the component for the old tool
            yield from move(components, old, entry, new)
    if not components:
        entry.take("components")


def _params_config(entry: Object) -> Findings:
    params = entry.mapping("params_config")
    if params is None:
        return
    _, place = entry.take("params_config")
    message = "'params_config' is split into 'load_dataset_config' and 'pre_process_data_config' today."
    yield Note(str(place), "params_config", "load_dataset_config", message)
    yield from _component_kwargs(entry, params)
    for key in list(params):
        section = _SECTIONS[_component_of(key)]
        yield from move(params, key, section_of(entry, section, place))


def _component_kwargs(entry: Object, params: Object) -> Findings:
    kwargs = params.mapping("component_kwargs")
    if kwargs is None:
        return
    for old, new in _SECTIONS.items():
        if old in kwargs:
            value, place = kwargs.take(old)
            yield from lift(value, "params") if isinstance(value, Object) else ()
            yield from put(entry, new, value, place, old=old)
    if not kwargs:
        params.take("component_kwargs")


def _component_of(key: str) -> str:
    """The component that a param belongs to; an unknown one is left to pre-processing, whose check names it."""
    if key in _DATALOADER:
        return "dataloader"
    is_load = key in LoadDataset.model_fields and key not in PreProcess.model_fields
    return "load_dataset" if is_load else "pre_process_data"


def _split(entry: Object) -> Findings:
    """The old default was the split "validation", which files never have."""
    load = entry.mapping("load_dataset_config")
    if load is None or "split" in load or text_of(load, "data_name") in ("", *_BUILDERS):
        return
    load.put("split", "validation", load.place)
    message = "The old default of 'split' is written down: 'validation' (today's is 'train')."
    yield Note(str(load.place), "split", "split", message)

"""Models and data by reference: a local file, folder or name needs no `{type, config}`; the other types do."""

from olivine.config.dialects._edit import Findings, Note, models, named
from olivine.config.nodes import Array, Object, Place
from olivine.config.schema import RESOURCE_SETTINGS

_LOCAL = {"local_file", "local_folder", "string_name"}


def translate(config: Object) -> Findings:
    """Replace local references by their path, and spell the types of the others in lower case."""
    for model in models(config):
        yield from _reference(model, "model_path")
    data = config.get("data_configs")
    entries = list(data) if isinstance(data, Array) else [entry for _, entry in named(config, "data_configs")]
    for entry in entries:
        if isinstance(entry, Object):
            for section in (entry.mapping("load_dataset_config"), entry.mapping("params_config")):
                if section is not None:
                    yield from _reference(section.mapping("params") or section, "data_files")


def _reference(section: Object, key: str) -> Findings:
    reference = section.mapping(key)
    kind = reference.get("type") if reference is not None else None
    if reference is None or not isinstance(kind, str):
        return
    if kind.lower() in RESOURCE_SETTINGS:
        reference["type"] = kind.lower()
    settings = reference.mapping("config") or reference
    if kind.lower() in _LOCAL and isinstance(settings.get("path", settings.get("name")), str):
        name = "path" if "path" in settings else "name"
        place: Place = settings.places[name]
        section.put(key, settings[name], place)
        yield Note(str(place), kind, "", f"'{key}' of type '{kind}' is written as the path itself.")

"""Models of several parts: `CompositeModel` of every year, and `components` of a model from Hugging Face until 2024."""

from olivine.config.dialects._edit import Findings, Note, invalid, lift, text_of
from olivine.config.nodes import Array, Object, Place, copy
from olivine.config.shape import COMPOSITE, SCRIPTED

_TYPES = ("compositemodel", "compositeonnxmodel", "compositepytorchmodel", "compositemodelhandler")
_NAMES, _PARTS = "model_component_names", "model_components"
_OF_WHOLE = ("type", _NAMES, _PARTS, "model_path", "model_attributes")


def translate(config: Object) -> Findings:
    """Write the parts as `model_components`, each an input model of its own, and their names as a list."""
    model = config.mapping("input_model")
    if model is None:
        return
    if isinstance(model.get("config"), Object):
        message = "The keys of 'config' stand in 'input_model' itself today."
        yield Note(model.where("config"), "input_model.config", "input_model", message)
        yield from lift(model, "config")
    yield from _of_hugging_face(model)
    yield from _lists(model)
    parts = model.get(_PARTS)
    if not isinstance(parts, Array) or not _are_models(parts):
        return
    if model.get("type") != COMPOSITE:
        written, place = model.get("type"), model.places.get("type", model.place)
        model.put("type", COMPOSITE, place)
        if written is not None:
            yield Note(str(place), str(written), COMPOSITE, f"A model of several parts is a '{COMPOSITE}' today.")
    for part in parts:
        yield from lift(part, "config")
        if "model_path" not in part and isinstance(model.get("model_path"), str) and "onnx_file_name" in part:
            part.put("model_path", model["model_path"], model.places["model_path"])
    yield from _names(model, parts)


def _are_models(value: object) -> bool:
    return isinstance(value, Array) and bool(value) and all(isinstance(part, Object) for part in value)


def _lists(model: Object) -> Findings:
    """Parts that are written as a list of paths' place, or as a mapping by their names."""
    path, parts = model.get("model_path"), model.get(_PARTS)
    if _are_models(path) and parts is None:
        value, place = model.take("model_path")
        model.put(_PARTS, value, place)
        yield Note(str(place), "model_path", _PARTS, f"A list of models is called '{_PARTS}' today.")
    elif isinstance(parts, Object) and text_of(model, "type") in _TYPES:
        value, place = model.take(_PARTS)
        listed, names = Array(place), Array(place)
        for name, part in value.items():
            listed.add(part, value.places[name])
            names.add(name, value.places[name])
        model.put(_PARTS, listed, place)
        if _NAMES not in model:
            model.put(_NAMES, names, place)
        yield Note(str(place), _PARTS, _PARTS, f"'{_PARTS}' is a list today, and '{_NAMES}' names them.")


def _names(model: Object, parts: Array) -> Findings:
    """Names that stand in the parts themselves."""
    own = Array(parts.place)
    for part in parts:
        key = next((key for key in ("component_name", "name") if isinstance(part.get(key), str)), None)
        if key is not None:
            own.add(*part.take(key))
    if _NAMES in model or not own:
        return
    if len(own) < len(parts):
        yield invalid(str(parts.place), f"{len(own)} of {len(parts)} parts have a name.", f"Name all as '{_NAMES}'.")
        return
    model.put(_NAMES, own, own.place)
    yield Note(str(own.place), "name", _NAMES, f"The names of parts are listed as '{_NAMES}' today.")


def _of_hugging_face(model: Object) -> Findings:
    """Components of one model, which functions of a script take out of it: each is what its function gives."""
    holder = next((one for one in (model.mapping("hf_config"), model) if one is not None and "components" in one), None)
    if holder is None or not _are_models(holder["components"]):
        return
    components, place = holder.take("components")
    parts, names = Array(place), Array(place)
    for number, component in enumerate(components):
        parts.add(_component(model, component), components.places[number])
        name = component.get("name", f"part_{number}")
        names.add(name, component.places.get("name", component.place))
    for key in [key for key in model if key != "model_attributes"]:
        model.take(key)
    model.put("type", COMPOSITE, place)
    model.put(_PARTS, parts, place)
    model.put(_NAMES, names, place)
    yield Note(str(place), "components", _PARTS, f"'components' are '{_PARTS}' of a '{COMPOSITE}' today.")


def _component(model: Object, component: Object) -> Object:
    """A component as an input model: with all that is said of the whole, and what it says itself."""
    part = Object(component.place)
    _fill(part, model, ("type", "hf_config", *_OF_WHOLE[1:3], "io_config", "dummy_inputs_func", "model_loader"))
    hf_config = model.mapping("hf_config")
    if hf_config is not None:
        _fill(part, hf_config, ("model_class", "config", "dataset"))
    if "model_name" in part:
        value, place = part.take("model_name")
        if part.get("model_path") is None:
            part.put("model_path", value, place)
    _fill(part, component, ("name",))
    kind = SCRIPTED if part.get("component_func") is not None else "HfModel"
    written: Place = component.places.get("component_func", component.place)
    part.put("type", kind, written)
    return part


def _fill(part: Object, source: Object, but: tuple[str, ...]) -> None:
    for key, value in source.items():
        if key not in but and value is not None:
            part.put(key, copy(value), source.places[key])

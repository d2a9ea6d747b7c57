"""Rows that functions of a script give, as configs named them beside a pass or a metric until 2024: today data."""

from olivine.config.dialects._edit import Findings, Note, drop, named, put, text_of
from olivine.config.nodes import Array, Object, Place

_PASSES = (
    *("onnxquantization", "onnxstaticquantization", "onnxdynamicquantization"),
    *("openvinoquantization", "openvinoquantizationwithaccuracy", "openvinoweightcompression"),
    *("ortperftuning", "ortsessionparamstuning", "incquantization", "incstaticquantization", "vitisaiquantization"),
    *("autoawqquantizer", "gptqquantizer", "onnxconversion", "optimumconversion", "onnxmatmul4quantizer"),
)
_WITHOUT_ROWS = ("onnxdynamicquantization", "onnxconversion", "optimumconversion", "onnxmatmul4quantizer")
_FROM_DATA = ("onnxmatmul4quantizer",)  # of those without rows, the ones that could name a data config
_SCRIPT = ("user_script", "script_dir")
_ARGUMENTS = ("data_dir", "batch_size")
_KEYS = (*_SCRIPT, *_ARGUMENTS, "dataloader_func", "dataloader_func_kwargs")


def of_passes(config: Object) -> Findings:
    """Give the rows of every pass that names a function for them a data config of their own."""
    for name, step in list(named(config, "passes")):
        kind = text_of(step, "type")
        if kind in _PASSES:
            own = [(key, step[key], step.places[key]) for key in _SCRIPT if key in step and step.get("validation_func")]
            yield from rows_of(config, step, f"{name}_data", reads=kind not in _WITHOUT_ROWS)
            for key, value, place in own:  # the script has the function that measures, too
                step.put(key, value, place)
        if kind in _FROM_DATA:
            yield from drop(step, "data_config", "'data_config' is dropped: it reads no rows.")


def rows_of(
    config: Object, section: Object, name: str, *, reads: bool = True, target: Object | None = None
) -> Findings:
    """Move the keys of a section that say how rows are made into a data config, which `target` (the section) names."""
    function = section.get("dataloader_func")
    if not reads or not isinstance(function, str):
        why = "it reads no rows" if not reads else "no dataloader_func takes it"
        taken = _SCRIPT if section.get("validation_func") else ()
        for key in [key for key in _KEYS if key in section and key not in taken]:
            yield from drop(section, key, f"'{key}' is dropped: {why}.")
        return
    place = section.places["dataloader_func"]
    entry, loader = Object(place), Object(place)
    entry.put("name", name, place)
    entry.put("type", "DataContainer", place)
    section.take("dataloader_func")
    loader.put("type", function, place)
    for key in _SCRIPT:
        _take(section, key, entry)
    for key in _ARGUMENTS:
        _take(section, key, loader)
    more = section.mapping("dataloader_func_kwargs")
    section.pop("dataloader_func_kwargs", None)
    for key, value in (more or {}).items():
        loader.put(key, value, place)
    entry.put("dataloader_config", loader, place)
    _add(config, name, entry, place)
    yield from put(target if target is not None else section, "data_config", name, place)
    yield Note(
        str(place), "dataloader_func", "data_configs", f"The rows of '{function}' are '{name}' in 'data_configs'."
    )


def _take(section: Object, key: str, target: Object) -> None:
    if key in section:
        value, place = section.take(key)
        if value not in (None, ""):
            target.put(key, value, place)


def _add(config: Object, name: str, entry: Object, place: Place) -> None:
    others = config.get("data_configs")
    if isinstance(others, Array):
        others.add(entry, place)
    elif isinstance(others, Object):
        others.put(name, entry, place)
    else:
        entries = Array(place)
        entries.add(entry, place)
        config.put("data_configs", entries, place)


def of_dataset(config: Object, model: Object) -> Findings:
    """`dataset` of a Hugging Face model, the form of 2023: the rows of whatever names none."""
    dataset = model.mapping("dataset")
    if dataset is None:
        return
    _, place = model.take("dataset")
    entry = Object(place)
    entry.put("name", DATASET, place)
    entry.put("type", "HuggingfaceContainer", place)
    entry.put("params_config", dataset, place)
    _add(config, DATASET, entry, place)
    for _, evaluator in named(config, "evaluators"):
        metrics = evaluator.get("metrics")
        for metric in metrics if isinstance(metrics, Array) else []:
            if isinstance(metric, Object) and metric.get("type") == "accuracy" and not metric.get("data_config"):
                metric.put("data_config", DATASET, place)
    yield Note(str(place), "dataset", "data_configs", f"'dataset' is '{DATASET}' in 'data_configs' today.")


DATASET = "__input_model_data_config__"  # as passes of that time name it

"""Names that only steered the old engine: each does what it said, or stays in the config and is refused by name."""

from typing import Any

from olivine.config.dialects._edit import Findings, Note, drop, invalid, move, named, put
from olivine.config.nodes import Array, Object, typed
from olivine.errors import Problem

# The values with which a key asks for nothing; any other value is left for the schema, which refuses it with advice.
_IDLE: dict[str, tuple[Any, ...]] = {
    "auto_optimizer_config": (None,),
    "clean_cache": (None, False),
    "clean_evaluation_cache": (None, False),
    "enable_shared_cache": (None, False),
    "evaluation_only": (None, False),
    "no_artifacts": (None, False),
    "output_name": (None, ""),
    "packaging_config": (None, {}),
    "plot_pareto_frontier": (None, False),
    "workflow_host": (None,),
}

_STALE = "results are known by all that decides them, so none is stale; 'olivine cache gc' makes room."
# Switches that are on and ask for what happens anyway, or for what has no place here.
_ON = {
    "clean_cache": f"'clean_cache' is dropped: {_STALE}",
    "clean_evaluation_cache": f"'clean_evaluation_cache' is dropped: {_STALE}",
    "no_artifacts": (
        "'no_artifacts' is dropped: it left out the footprint files, of which there are none; the model is written."
    ),
    "plot_pareto_frontier": (
        "'plot_pareto_frontier' is dropped: the journal tells which trials of a search are on the front."
    ),
}

_CLEANING = ("clean_cache", "clean_evaluation_cache", "update_shared_cache")
_OUTPUT_DIR = "outputs"  # where today's form has its result when it names no folder

# Keys whose wish is met whatever their value.
_MET = {
    "verbose": "'verbose' is dropped: a step's log keeps everything.",
    "log_to_file": "'log_to_file' is dropped: the log of every step is kept in a file.",
    "ort_log_severity_level": "'ort_log_severity_level' is dropped: a step's log keeps what ONNX Runtime prints.",
    "ort_py_log_severity_level": "'ort_py_log_severity_level' is dropped: a step's log keeps what ONNX Runtime prints.",
    "workflow_id": "'workflow_id' is dropped: workflows share one cache, whose keys are the contents of the steps.",
}


def translate(config: Object) -> Findings:
    """Drop what asks for nothing, and do what can be done of the rest."""
    for key, idle in _IDLE.items():
        if key in config and config[key] in idle:
            yield from drop(config, key, f"'{key}' is dropped: it asked for nothing.")
    for key, message in _ON.items():
        if config.get(key) is True:
            yield from drop(config, key, message)
    for key, message in _MET.items():
        yield from drop(config, key, message)
    yield from _evaluate_input_model(config)
    yield from _evaluation_only(config)
    yield from _auto_optimizer(config)
    yield from _pass_flows(config)
    yield from _cache_config(config)
    yield from _output_name(config)
    yield from _output_file(config)
    yield from _packaging(config)
    yield from _data_root(config)


def _evaluate_input_model(config: Object) -> Findings:
    off = config.get("evaluate_input_model") is False
    message = "'evaluate_input_model' is dropped: the input model is scored whenever its descendants are."
    if off:
        message += " To score nothing, write quality.enabled: false."
    yield from drop(config, "evaluate_input_model", message, warning=off)


def _evaluation_only(config: Object) -> Findings:
    """A workflow of 2023 that ran no pass; every model that a run makes is measured in any case."""
    if config.get("evaluation_only") is True:
        _, place = config.take("evaluation_only")
        fix = "Measure the model alone: olivine evaluate MODEL --config FILE."
        yield Problem("unsupported", str(place), "'evaluation_only' is not served: a run does its passes.", fix)


def _auto_optimizer(config: Object) -> Findings:
    """It chose passes where the config named none, and was not looked at beside others."""
    if config.get("passes"):
        message = "'auto_optimizer_config' is dropped: it chose passes only where a config names none."
        yield from drop(config, "auto_optimizer_config", message)
    elif "auto_optimizer_config" in config:
        place = config.places["auto_optimizer_config"]
        config.put("passes", Object(place), place)  # the one thing that is wrong is told by the other key


def _output_name(config: Object) -> Findings:
    """The result of a workflow, called by a name within a folder that others may share."""
    name = config.get("output_name")
    if not isinstance(name, str) or not name.strip():
        return
    folder = config.get("output_dir")
    if folder is not None and not isinstance(folder, str):
        return
    below = f"{(folder or _OUTPUT_DIR).rstrip('/')}/{name}"
    config.put("output_dir", below, config.places.get("output_dir", config.places["output_name"]))
    message = f"'output_name' is dropped: it is the last folder of 'output_dir' now, which is '{below}'."
    yield from drop(config, "output_name", message)


def _output_file(config: Object) -> Findings:
    """An `output_dir` that is called like a graph is the file that the graph is to be."""
    path = config.get("output_dir")
    if not isinstance(path, str) or not path.lower().endswith(".onnx"):
        return
    folder, _, name = path.replace("\\", "/").rpartition("/")
    place = config.places["output_dir"]
    config.put("output_dir", folder or ".", place)
    yield from put(config, "output_file", name, place)
    message = f"'output_dir' ends in .onnx and means a file: the graph is '{name}' in '{folder or '.'}'."
    yield Note(str(place), "output_dir", "output_file", message)


def _packaging(config: Object) -> Findings:
    """One packaging may stand without a list round it."""
    value = config.get("packaging_config")
    if isinstance(value, Object):
        place = config.places["packaging_config"]
        listed = Array(place)
        listed.add(value, place)
        config.put("packaging_config", listed, place)
        yield Note(str(place), "packaging_config", "packaging_config", "'packaging_config' is a list today.")


def _pass_flows(config: Object) -> Findings:
    """A single flow is an order of passes; the passes that it does not name would not have run."""
    flows, passes = config.get("pass_flows"), config.mapping("passes")
    if flows in (None, []):
        yield from drop(config, "pass_flows", "'pass_flows' is dropped: it asked for nothing.")
    if not isinstance(flows, list) or not flows or passes is None:
        return
    if len(flows) > 1:
        yield from _alternatives(config, flows, passes)
        return
    flow = flows[0]
    if not isinstance(flow, list) or not all(isinstance(name, str) and name in passes for name in flow):
        return
    left_out = [name for name in passes if name not in flow]
    passes.reorder(dict.fromkeys(flow))
    message = f"'pass_flows' is dropped: the order of 'passes' is now {', '.join(flow)}"
    message += f", without {', '.join(left_out)}." if left_out else "."
    yield from drop(config, "pass_flows", message)


def _alternatives(config: Object, flows: list[Any], passes: Object) -> Findings:
    """Several flows are a search, which runs each and delivers the best."""
    place = config.places["pass_flows"]
    unknown = [name for flow in flows if isinstance(flow, list) for name in flow if name not in passes]
    if unknown:
        known = f"There are: {', '.join(passes)}."
        yield invalid(str(place), f"'pass_flows' names the pass '{unknown[0]}', which 'passes' has not.", known)
        config.take("pass_flows")
    elif not config.get("search_strategy"):
        config.put("search_strategy", typed({"sampler": "sequential"}, place), place)
        message = "'pass_flows' are alternatives: a search runs each of them, and the best result is delivered."
        yield Note(str(place), "pass_flows", "search_strategy", message)
    search = config.mapping("search_strategy")
    if search is not None and search.get("execution_order") == "pass-by-pass":
        search["execution_order"] = "joint"
        message = "'execution_order' is joint: 'pass_flows' are chosen at once, not pass by pass."
        yield Note(search.where("execution_order"), "execution_order", "execution_order", message, warning=True)


def _cache_config(config: Object) -> Findings:
    """`cache_config` with nothing but a folder is `cache_dir`."""
    cache = config.mapping("cache_config")
    if cache is None:
        if "cache_config" in config and config["cache_config"] is None:
            yield from drop(config, "cache_config", "'cache_config' is dropped: it asked for nothing.")
        return
    idle = {key for key, value in cache.items() if value is None or value is False or key in _CLEANING}
    if set(cache) - idle <= {"cache_dir"}:
        yield Note(config.where("cache_config"), "cache_config", "cache_dir", "'cache_config' is 'cache_dir' today.")
        yield from move(cache, "cache_dir", config)
        config.take("cache_config")


def _data_root(config: Object) -> Findings:
    """`data_root` stood before every relative data path."""
    root = config.get("data_root")
    if root is None or root == "":
        yield from drop(config, "data_root", "'data_root' is dropped: it asked for nothing.")
    elif isinstance(root, str) and "://" not in root:
        for sections in _load_sections(config):
            for key in ("data_files", "data_dir"):
                if key in sections:
                    sections[key] = _below(root.rstrip("/\\"), sections[key])
        message = f"'data_root' is dropped: '{root}' now stands before the relative data files."
        yield from drop(config, "data_root", message)


def _load_sections(config: Object) -> list[Object]:
    """Every mapping of the data configs that may name files, in whichever form they are."""
    value = config.get("data_configs")
    entries = list(value) if isinstance(value, Array) else [item for _, item in named(config, "data_configs")]
    sections: list[Object] = []
    for entry in entries:
        if isinstance(entry, Object):
            load = entry.mapping("load_dataset_config")
            nested = load.mapping("params") if load is not None else None
            sections += [item for item in (entry.mapping("params_config"), load, nested) if item is not None]
    return sections


def _below(root: str, value: Any) -> Any:
    if isinstance(value, str):
        is_absolute = value.startswith(("/", "\\")) or "://" in value or value[1:2] == ":"
        return value if is_absolute else f"{root}/{value}"
    if isinstance(value, Array):
        moved = Array(value.place)
        for item, place in zip(value, value.places, strict=True):
            moved.add(_below(root, item), place)
        return moved
    if isinstance(value, Object) and "type" not in value:
        for key in value:
            value[key] = _below(root, value[key])
    return value

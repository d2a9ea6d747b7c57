"""Evaluators written in place, and the settings of metrics as Olive nests them, by library; today named and flat."""

from collections.abc import Iterator

from olivine.config.dialects._edit import Findings, Note, drop, lift, move, named, rename, section_of, text_of
from olivine.config.dialects.script_data import rows_of
from olivine.config.nodes import Array, Object

INLINE = "evaluator"  # the name of an evaluator that is written in place
# Keys of torchmetrics and of `evaluate` that follow from the rows and their labels.
_FOLLOW = (
    *("load_params", "multiclass", "num_classes", "num_labels", "reorder", "result_key"),
    *("task", "threshold", "validate_args"),
)
_OF_SUB_TYPE = ("goal", "priority", "higher_is_better", "metric_config")  # keys of a metric that has one number
_OF_CLASSES = ("f1_score", "f1", "precision", "recall")
_OF_ROWS = ("accuracy_score", "accuracy")
# Keys of user_config that say how rows come to the model, which the data config and the runtime know.
_IDLE = ("batch_size", "input_names", "input_shapes", "input_types", "inference_settings", "io_bind", "run_kwargs")
_OF_CUSTOM = ("batch_size", "data_dir")  # which functions of 2023 got
_NOTHING = (None, "", False)
# Metrics that read no rows: whatever Olive made rows with for them asks for nothing here.
WITHOUT_ROWS = ("latency", "throughput", "memory", "size_on_disk")


def translate(config: Object) -> Findings:
    """Name the evaluator, and write params of metrics flat."""
    yield from _name(config)
    yield from _of_passes(config)
    for name, metric in _metrics(config):
        yield from _ranks(metric)
        yield from _one_sub_type(metric)
        yield from _functions(metric)
        yield from _data(config, name, metric)
        yield from _rows_of_script(config, f"{name}_{metric.get('name', 'metric')}_data", metric)
        yield from _user_config(metric)
        for section in _numbers(metric):
            yield from _params(section, of_accuracy=text_of(metric, "type") == "accuracy")


def _numbers(metric: Object) -> list[Object]:
    """The metric and its sub types: each may carry the goal and the params of a number."""
    sub_types = metric.get("sub_types")
    listed = sub_types if isinstance(sub_types, Array) else []
    return [section for section in [metric, *listed] if isinstance(section, Object)]


def _ranks(metric: Object) -> Findings:
    for section in _numbers(metric):
        yield from rename(section, "priority_rank", "priority")


def _one_sub_type(metric: Object) -> Findings:
    """`sub_type`, of the first versions: the one number of a metric, whose goal stands beside it."""
    if not isinstance(metric.get("sub_type"), str) or "sub_types" in metric:
        return
    name, place = metric.take("sub_type")
    only = Object(place)
    only.put("name", name, place)
    for key in _OF_SUB_TYPE:
        yield from move(metric, key, only)
    listed = Array(place)
    listed.add(only, place)
    metric.put("sub_types", listed, place)
    yield Note(str(place), "sub_type", "sub_types", "'sub_type' is the only one of 'sub_types' today.")


def _functions(metric: Object) -> Findings:
    """Of a script one function is called: the one that gets the model, where both are named."""
    settings = metric.mapping("user_config")
    if settings is None or text_of(metric, "type") != "custom":
        return
    for key in ("evaluate_func", "metric_func"):
        if text_of(settings, key) == "none":
            yield from drop(settings, key, f"'{key}: {settings[key]}' is dropped: no function is called so.")
    if settings.get("evaluate_func") is not None and settings.get("metric_func") is not None:
        for key in ("metric_func", "metric_func_kwargs"):
            yield from drop(settings, key, f"'{key}' is dropped: where evaluate_func stands, it alone is called.")


def _name(config: Object) -> Findings:
    evaluator = config.mapping("evaluator")
    if evaluator is None:
        return
    place = config.places["evaluator"]
    section_of(config, "evaluators", place).put(INLINE, evaluator, place)
    config.put("evaluator", INLINE, place)
    yield Note(str(place), "evaluator", "evaluators", f"The evaluator is named '{INLINE}' in 'evaluators'.")


def _of_passes(config: Object) -> Findings:
    """The evaluator of a pass is that of the workflow, where it is the same, or where the last pass alone has one."""
    steps = [step for _, step in named(config, "passes")]
    asking = [step for step in steps if isinstance(step.get("evaluator"), str)]
    if asking == steps[-1:] and asking and config.get("evaluator") is None:
        value, place = asking[0].take("evaluator")
        config.put("evaluator", value, place)
        yield Note(str(place), "evaluator", "evaluator", "The evaluator of the last pass is that of the workflow.")
    for step in steps:
        if "evaluator" in step and step["evaluator"] in (None, config.get("evaluator")):
            yield from drop(step, "evaluator", "'evaluator' of a pass is dropped: the workflow's measures every model.")


def _metrics(config: Object) -> Iterator[tuple[str, Object]]:
    """Every metric of every evaluator, with the name of its evaluator."""
    for name, evaluator in list(named(config, "evaluators")):
        metrics = evaluator.get("metrics")
        for metric in metrics if isinstance(metrics, Array) else []:
            if isinstance(metric, Object):
                yield name, metric


def _data(config: Object, evaluator: str, metric: Object) -> Findings:
    """A data config that is written in place gets a name among the others."""
    data = metric.mapping("data_config")
    if data is None:
        return
    place, given = metric.places["data_config"], data.get("name")
    name = given if isinstance(given, str) else f"{evaluator}_{metric.get('name', 'metric')}_data"
    others = config.get("data_configs")
    if isinstance(others, Array):
        data.put("name", name, data.places.get("name", place))
        others.add(data, place)
    else:
        section_of(config, "data_configs", place).put(name, data, place)
    metric.put("data_config", name, place)
    yield Note(str(place), "data_config", "data_configs", f"The rows of the metric are '{name}' in 'data_configs'.")


def _rows_of_script(config: Object, name: str, metric: Object) -> Findings:
    """A function for the rows of a metric that is not the user's own; the answer is what the model gives."""
    settings = metric.mapping("user_config")
    if settings is None or metric.get("type") in ("custom", *WITHOUT_ROWS):
        return
    for key in ("post_processing_func", "post_func_kwargs", "post_processing_func_kwargs"):
        message = f"'{key}' of a metric is dropped: the class is the largest score of the first output that has some."
        yield from drop(settings, key, message, warning=bool(settings.get(key)))
    if metric.get("data_config") is None and settings.get("dataloader_func") is not None:
        yield from rows_of(config, settings, name, target=metric)
    elif metric.get("data_config") is not None:
        for key in ("dataloader_func", "dataloader_func_kwargs", "user_script", "script_dir", "data_dir"):
            yield from drop(settings, key, f"'{key}' of a metric is dropped: its rows are those of its data_config.")


def _user_config(metric: Object) -> Findings:
    settings = metric.mapping("user_config")
    if settings is None:
        if "user_config" in metric and metric["user_config"] is None:
            metric.take("user_config")
        return
    if metric.get("type") in ("latency", "throughput") and settings.get("batch_size") not in _NOTHING:
        yield from move(settings, "batch_size", section_of(metric, "metric_config", settings.places["batch_size"]))
    without_rows = metric.get("type") in WITHOUT_ROWS
    kept = _OF_CUSTOM if metric.get("type") == "custom" else ()
    idle = [key for key in settings if key not in kept and (without_rows or key in _IDLE)]
    for key in [*idle, *(key for key in settings if key not in idle and settings[key] in _NOTHING)]:
        why = "it reads no rows" if without_rows else "how rows are run follows from the model"
        yield from drop(settings, key, f"'{key}' of a metric is dropped: {why}.")
    if not settings:
        metric.take("user_config")


def _params(section: Object, *, of_accuracy: bool) -> Findings:
    """`metric_config` with the params alone. of_accuracy: torchmetrics or `evaluate` read them, in Olive."""
    settings = section.mapping("metric_config")
    if settings is None:
        if "metric_config" in section and section["metric_config"] is None:
            section.take("metric_config")
        return
    yield from lift(settings, "compute_params")
    if of_accuracy:
        yield from _of_libraries(section, settings)
    for key in [key for key in settings if settings[key] is None]:
        settings.take(key)


def _of_libraries(section: Object, settings: Object) -> Findings:
    """`task: binary` and `multiclass: false` are the average over one class; what follows from the rows is dropped."""
    if settings.get("top_k") == 1:
        yield from drop(settings, "top_k", "'top_k: 1' of a metric is dropped: the best class is the answer.")
    name = text_of(section, "name")
    for key, value in (("task", "binary"), ("multiclass", False)):
        if key in settings and settings[key] == value and name in _OF_CLASSES:
            settings.put("average", "binary", settings.places[key])
    if name in _OF_ROWS and text_of(settings, "average") in ("micro", "macro", "weighted"):
        is_other = text_of(settings, "average") == "macro"
        which = "; ask for the sub type recall with average: macro, if each class is to count alike" if is_other else ""
        message = f"'average' of an accuracy is dropped: it is a share of all rows{which}."
        yield from drop(settings, "average", message, warning=is_other)
    for key in [key for key in settings if key in _FOLLOW]:
        yield from drop(settings, key, f"'{key}' of a metric is dropped: it follows from the rows and their labels.")

"""Evaluators of Olive that are a library's tasks, not a list of metrics: LMEvaluator is the metric `lm_eval`."""

from olivine.config.dialects._edit import Findings, Note, drop, lift, move, named, text_of
from olivine.config.nodes import Array, Object, Place

SIZE = "size_on_disk"  # stands among the tasks of an LMEvaluator
_PARAMS = ("tasks", "limit", "max_length", "bootstrap_iters", "num_fewshot", "apply_chat_template", "include_path")
# how the model is run, which follows from the model and the target
_IDLE = ("model_class", "device", "execution_provider", "provider_options", "ep", "ep_options", "task_manager")


def translate(config: Object) -> Findings:
    """Write the tasks of an LMEvaluator as metrics."""
    for _, evaluator in named(config, "evaluators"):
        if text_of(evaluator, "type") == "lmevaluator":
            yield from _of_tasks(evaluator)


def _of_tasks(evaluator: Object) -> Findings:
    yield from lift(evaluator, "type_args")
    if "tasks" not in evaluator:
        return
    place = evaluator.places["tasks"]
    metric, params = Object(place), Object(place)
    for key in _PARAMS:
        yield from move(evaluator, key, params)
    yield from _batch(evaluator, params)
    for key in [key for key in params if params[key] is None]:
        params.take(key)
    for key in _IDLE:
        yield from drop(evaluator, key, f"'{key}' is dropped: how a model is run follows from it and the target.")
    metrics = evaluator.get("metrics")
    if not isinstance(metrics, Array):
        metrics = Array(place)
        evaluator.put("metrics", metrics, place)
    tasks = params.get("tasks")
    if isinstance(tasks, Array) and SIZE in tasks:
        params.put("tasks", _without(tasks, SIZE), place)
        metrics.add(_metric(SIZE, SIZE, place), place)
    if params["tasks"] != []:
        metric = _metric("lm_eval", "lm_eval", place)
        metric.put("metric_config", params, place)
        metrics.add(metric, place)
    evaluator.take("type")
    yield Note(str(place), "tasks", "metrics", "The tasks of the LMEvaluator are those of a metric of type lm_eval.")


def _batch(evaluator: Object, params: Object) -> Findings:
    """The size of batches, unless it is "auto" or 1: what fits is read at once, and gives the same numbers."""
    if isinstance(evaluator.get("batch_size"), int) and evaluator["batch_size"] > 1:
        yield from move(evaluator, "batch_size", params)
    yield from drop(evaluator, "batch_size", "'batch_size' is dropped: eight texts are read at once.")


def _metric(name: str, kind: str, place: Place) -> Object:
    metric = Object(place)
    metric.put("name", name, place)
    metric.put("type", kind, place)
    return metric


def _without(tasks: Array, name: str) -> Array:
    kept = Array(tasks.place)
    for task, place in zip(tasks, tasks.places, strict=True):
        if task != name:
            kept.add(task, place)
    return kept

"""Which metrics a score has: all of ours, and those of third parties that a config names."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from olivine.errors import Problem, RequestError, sentence
from olivine.evaluate._base import Artifact, Evidence, Metric, OutputEvidence, TaskEvidence, Timings
from olivine.registry import Registry

metrics: Registry[Metric] = Registry("olivine.evaluate", Metric, group="olivine.evaluate")  # type: ignore[type-abstract]

_TAKEN = ("model", "format", "n_rows", "n_tokens", "of_plugins", "of_tasks")  # of a table's row
_TEXT = "text that a model writes"
_NEEDS = {Evidence: _TEXT, TaskEvidence: _TEXT, OutputEvidence: "the outputs of a graph"}
AnyEvidence = Evidence | OutputEvidence | TaskEvidence | Artifact | Timings


def check_metrics(
    given: Mapping[str, Mapping[str, Any]], kind: type[Evidence | OutputEvidence] = Evidence
) -> Iterator[Problem]:
    """What is wrong with metrics and their params, by name; the key of a problem leads to it.

    kind: of the evidence that the models of the config give.
    """
    for name, params in given.items():
        metric = metrics.find(name)
        if metric is None:
            yield Problem("invalid-value", "", sentence(metrics.missing(name, "metric")), key=(name,))
            continue
        if not fits(metric, kind):
            message = f"metric '{name}' is computed from {_NEEDS[metric.reads]}."
            yield Problem("invalid-value", "", message, "Leave it out.", key=(name,))
            continue
        try:
            metric.Params.model_validate(params)
        except ValidationError as error:
            for fault in error.errors():
                message = f"metric '{name}': {'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}."
                known = ", ".join(metric.Params.model_fields) or "none"
                yield Problem("invalid-value", "", message, f"Its params: {known}.", key=(name, *fault["loc"]))


def chosen(given: Mapping[str, Mapping[str, Any]], kind: type[AnyEvidence]) -> list[Metric]:
    """The metrics of a score that read that kind of evidence, with their params; see `check_metrics`."""
    classes = {metric: dict[str, Any]() for metric in metrics.own.values() if not metric.only_when_asked}
    for name, params in given.items():
        if (metric := metrics.find(name)) is None:
            raise RequestError(metrics.missing(name, "metric"))
        classes[metric] = dict(params)
    fitting = {metric: params for metric, params in classes.items() if issubclass(kind, metric.reads)}
    return [metric(metric.Params.model_validate(params)) for metric, params in fitting.items()]


def fits(metric: type[Metric], kind: type[Evidence | OutputEvidence]) -> bool:
    """Whether models of that kind of evidence have the metric; each is an artifact, and takes its time."""
    if metric.reads is TaskEvidence:
        return kind is Evidence
    return issubclass(kind, metric.reads) or metric.reads in (Artifact, Timings)


def measured(given: Mapping[str, Mapping[str, Any]], *evidence: AnyEvidence) -> dict[str, Any]:
    """The numbers of all those metrics; "of_plugins" names those that third parties give, "of_tasks" those of tasks.

    RequestError for two that give a number of one name.
    """
    numbers: dict[str, Any] = {}
    of_plugins: list[str] = []
    of_tasks: list[str] = []
    for one in evidence:
        for metric in chosen(given, type(one)):
            for name, value in metric.compute(one).items():
                if name in numbers or name in _TAKEN:
                    raise RequestError(f"metric '{metric.name}' gives the number '{name}', which is there already")
                numbers[name] = value
                of_plugins += [name] if _is_third_party(metric.__module__) else []
                of_tasks += [name] if isinstance(one, TaskEvidence) else []
    lists = {"of_plugins": of_plugins, "of_tasks": of_tasks}
    return numbers | {key: names for key, names in lists.items() if names}


def _is_third_party(module: str) -> bool:
    return module.partition(".")[0] != "olivine"


def metric_modules(given: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The modules of third parties among them: part of what a score depends on."""
    classes = (metrics.find(name) for name in sorted(given))
    modules = [metric.__module__ for metric in classes if metric is not None]
    return [module for module in modules if _is_third_party(module)]

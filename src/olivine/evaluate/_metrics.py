"""Which metrics a score has: all of ours, and those of third parties that a config names."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from olivine.errors import Problem, RequestError
from olivine.evaluate._base import Evidence, Metric, OutputEvidence
from olivine.registry import Registry

metrics: Registry[Metric] = Registry("olivine.evaluate", Metric, group="olivine.evaluate")  # type: ignore[type-abstract]

_TAKEN = ("model", "format", "size_bytes", "n_rows", "n_tokens")  # of a table's row


def check_metrics(
    given: Mapping[str, Mapping[str, Any]], kind: type[Evidence | OutputEvidence] = Evidence
) -> Iterator[Problem]:
    """What is wrong with metrics and their params, by name; the key of a problem leads to it.

    kind: of the evidence that the models of the config give.
    """
    for name, params in given.items():
        metric = metrics.find(name)
        if metric is None:
            yield Problem("invalid-value", "", f"{metrics.missing(name, 'metric')}.".replace("?.", "?"), key=(name,))
            continue
        if metric.reads is not kind:
            needs = "text that a model writes" if metric.reads is Evidence else "the outputs of a graph"
            fix = "Leave it out."
            yield Problem("invalid-value", "", f"metric '{name}' is computed from {needs}.", fix, key=(name,))
            continue
        try:
            metric.Params.model_validate(params)
        except ValidationError as error:
            for fault in error.errors():
                message = f"metric '{name}': {'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}."
                known = ", ".join(metric.Params.model_fields) or "none"
                yield Problem("invalid-value", "", message, f"Its params: {known}.", key=(name, *fault["loc"]))


def chosen(given: Mapping[str, Mapping[str, Any]], kind: type[Evidence | OutputEvidence]) -> list[Metric]:
    """The metrics of a score that read that kind of evidence, with their params; see `check_metrics`."""
    classes = {metric: dict[str, Any]() for metric in metrics.own.values()}
    for name, params in given.items():
        if (metric := metrics.find(name)) is None:
            raise RequestError(metrics.missing(name, "metric"))
        classes[metric] = dict(params)
    fitting = {metric: params for metric, params in classes.items() if metric.reads is kind}
    return [metric(metric.Params.model_validate(params)) for metric, params in fitting.items()]


def measured(given: Mapping[str, Mapping[str, Any]], evidence: Evidence | OutputEvidence) -> dict[str, float]:
    """The numbers of all those metrics. RequestError for two that give a number of one name."""
    numbers: dict[str, float] = {}
    for metric in chosen(given, type(evidence)):
        for name, value in metric.compute(evidence).items():
            if name in numbers or name in _TAKEN:
                raise RequestError(f"metric '{metric.name}' gives the number '{name}', which is there already")
            numbers[name] = value
    return numbers


def metric_modules(given: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The modules of third parties among them: part of what a score depends on."""
    classes = (metrics.find(name) for name in sorted(given))
    modules = [metric.__module__ for metric in classes if metric is not None]
    return [module for module in modules if module.partition(".")[0] != "olivine"]

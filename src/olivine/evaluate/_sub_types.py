"""What an evaluator of a config asks for, by the type and sub type that it writes: a metric, and one of its numbers."""

import difflib
from collections.abc import Iterable

from olivine.errors import RequestError
from olivine.evaluate._base import Evidence, Metric, Number, OutputEvidence
from olivine.evaluate._metrics import fits, metrics

Kind = type[Evidence | OutputEvidence]
_IN_WORDS = {Evidence: "a model that writes text", OutputEvidence: "a graph that writes no text"}


def number_of(type_name: str, sub_type: str | None, kind: Kind) -> tuple[type[Metric], Number | None]:
    """The metric that is meant, and its number; None where the metric itself does not tell its numbers.

    kind: of the evidence that the models give. sub_type: None for the first there is. Raises RequestError, with the
    nearest name, for what nobody has, and for what such models do not have.
    """
    of_type = [metric for metric in metrics.classes.values() if type_name.lower() in _type_names(metric)]
    if not of_type:
        raise RequestError(_missing_type(type_name))
    of_kind = [metric for metric in of_type if fits(metric, kind)]
    if not of_kind:
        raise RequestError(f"there is no {type_name} of {_IN_WORDS[kind]}")
    wanted = sub_type or _default(type_name, of_kind)
    for metric in of_kind:
        if (number := metric.number(wanted) or metric.number(wanted.lower())) is not None:
            if number.of not in (None, kind):
                raise RequestError(f"there is no {wanted.lower()} of {_IN_WORDS[kind]}")
            return metric, number
        if not metric.numbers:
            return metric, None
    if any(wanted.lower() in metric.numbers for metric in of_type):
        raise RequestError(f"there is no {wanted.lower()} of {_IN_WORDS[kind]}")
    known = sorted({name for metric in of_kind for name in metric.numbers})
    raise RequestError(f"'{sub_type}' is no sub type of {type_name}; {_hint(wanted.lower(), known)}")


def _default(type_name: str, of_kind: list[type[Metric]]) -> str:
    """The sub type that is called as the type is, or the first of the metric of that name."""
    if any(type_name.lower() in metric.numbers for metric in of_kind):
        return type_name
    own = next((metric for metric in of_kind if type_name.lower() == metric.name), of_kind[0])
    return next(iter(own.numbers), type_name)


def _type_names(metric: type[Metric]) -> set[str]:
    return {name.lower() for name in (metric.name, *metric.aliases, *metric.types)}


def _missing_type(type_name: str) -> str:
    if (why := metrics.why_missing(type_name)) is not None:
        return f"the metric {why}"
    known = {name for metric in metrics.classes.values() for name in _type_names(metric)}
    return f"there is no metric of type '{type_name}'; {_hint(type_name.lower(), sorted(known))}"


def _hint(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"there is: {', '.join(known)}"

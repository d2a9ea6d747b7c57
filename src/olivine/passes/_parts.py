"""A pass and what reaches it: one model, or several parts of which it works on each as if that were the model."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from olivine.config.schema import DataConfig
from olivine.errors import ModelError, Problem, Unsupported
from olivine.models import Model
from olivine.models.deciding import deciding_files
from olivine.models.facts import ModelFacts
from olivine.models.interface import composite_facts
from olivine.passes._base import Pass
from olivine.work import Context, Estimate, Machine, Reporter


def serves(plugin: type[Pass], facts: ModelFacts) -> bool:
    """Whether a pass works on that kind of model, or on each part of it."""
    if not facts.parts:
        return facts.kind in plugin.kinds
    if plugin.of_parts == "whole":
        return True
    return plugin.of_parts == "each" and all(serves(plugin, part) for part in _worked_on(plugin, facts).values())


def check(one: Pass, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:
    """What a pass says of the model that reaches it, or of each of its parts; what is said of several, once."""
    if not _is_for_each(one, facts):
        yield from one.check(facts, machine, data)
        return
    told: dict[str, tuple[Problem, list[str]]] = {}  # by what is said: what could be done may differ
    parts = _worked_on(type(one), facts)
    for name, part in parts.items():
        for problem in one.check(part, machine, data):
            told.setdefault(problem.message, (problem, []))[1].append(name)
    for problem, names in told.values():
        if one.names_in_parts and len(names) < len(parts):
            continue
        of_some = f"of the part '{names[0]}': " if len(names) < len(facts.parts) else ""
        yield replace(problem, message=f"{of_some}{problem.message}")


def notes(one: Pass, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[str]:
    """The same of what the user should know."""
    if not _is_for_each(one, facts):
        yield from one.notes(facts, machine, data)
        return
    parts = _worked_on(type(one), facts)
    told = [note for part in parts.values() for note in one.notes(part, machine, data)]
    yield from dict.fromkeys(told)
    if waiting := [f"'{name}'" for name in facts.parts if name not in parts]:
        yield f"{', '.join(waiting)} {'is a graph' if len(waiting) == 1 else 'are graphs'} already, and left as it is"


def estimate(one: Pass, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:
    """What a step will need: the parts come one after another, and all of them are kept."""
    if not _is_for_each(one, facts):
        return one.estimate(facts, machine, data)
    needs = [one.estimate(part, machine, data) for part in _worked_on(type(one), facts).values()]
    return Estimate(
        memory_bytes=max(need.memory_bytes for need in needs),
        device_memory_bytes=max(need.device_memory_bytes for need in needs),
        disk_bytes=sum(need.disk_bytes for need in needs),
        download_bytes=sum(need.download_bytes for need in needs),
    )


def forecast(one: Pass, facts: ModelFacts) -> ModelFacts:
    """The facts of the result, that of each part among them."""
    if not _is_for_each(one, facts):
        return one.forecast(facts)
    parts = {name: one.forecast(part) for name, part in _worked_on(type(one), facts).items()}
    return composite_facts({name: parts.get(name, part) for name, part in facts.parts.items()}, facts.task)


def _worked_on(plugin: type[Pass], facts: ModelFacts) -> Mapping[str, ModelFacts]:
    """The parts that a pass works on: all, but where some have yet to become graphs, those that are no graphs."""
    others = {name: part for name, part in facts.parts.items() if part.kind != "graph"}
    return others if others and _makes_graphs(plugin) else facts.parts


def _makes_graphs(plugin: type[Pass]) -> bool:
    """Whether it makes graphs of ONNX of what is none."""
    return plugin.produces == "onnx" and "onnx" not in plugin.accepts


def _is_for_each(one: Pass, facts: ModelFacts) -> bool:
    return bool(facts.parts) and one.of_parts != "whole"


def run(step: Pass, model: Model, context: Context) -> Model:
    """Do what a pass does, and hold it to what it promises; on each part, where that is how it takes several.

    Every part gets a folder of its own in `context.output`, and what belongs to all of them lies beside these.
    """
    if model.format != "composite" or step.of_parts == "whole":
        step.requires(model)
        result = step.run(model, context)
        step.ensures(result)
        return result
    if step.of_parts == "neither":
        raise Unsupported(f"pass '{step.name}' takes one model, but got the parts {', '.join(model.parts)}")
    waiting = [name for name, part in model.parts.items() if part.form == "onnx" and _makes_graphs(type(step))]
    told = _Told(context.report, len(model.parts) - len(waiting))
    parts = {
        name: part if name in waiting else _run_part(step, name, model, context, told)
        for name, part in model.parts.items()
    }
    if all(parts[name] == model.parts[name] for name in parts):  # a pass that only looked
        return model
    for name, path in deciding_files(model):
        (context.output / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, context.output / name)
    context.report.record(parts=told.facts, summary="; ".join(told.summaries))
    return replace(model, path=context.output, parts=parts)


def _run_part(step: Pass, name: str, model: Model, context: Context, told: "_Told") -> Model:
    inner = replace(
        context,
        output=context.output / name,
        scratch=context.scratch / name,
        report=told.of(name),
        whole=model,
        part=name,
        models={key: other.part(name) for key, other in context.models.items()},
    )
    inner.output.mkdir()
    inner.scratch.mkdir(exist_ok=True)
    try:
        return run(step, model.parts[name], inner)
    except (ModelError, Unsupported) as error:
        raise type(error)(f"the part '{name}': {error}") from error


@dataclass
class _Told:
    """What is said of all parts. n_parts: so many there are."""

    report: Reporter
    n_parts: int
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def summaries(self) -> list[str]:
        return [f"{name}: {facts['summary']}" for name, facts in self.facts.items() if "summary" in facts]

    def of(self, name: str) -> "_OfPart":
        self.facts[name] = {}
        return _OfPart(self, name, len(self.facts) - 1)


@dataclass(frozen=True)
class _OfPart:
    """A Reporter of one part: its sentences name the part, and its progress is a share of the whole."""

    told: _Told
    name: str
    place: int

    def progress(self, done: float, total: float, **metrics: float | str) -> None:
        share = done / total if total else 0.0
        self.told.report.progress(self.place + share, self.told.n_parts, **metrics)

    def note(self, message: str) -> None:
        self.told.report.note(f"{self.name}: {message}")

    def warn(self, message: str) -> None:
        self.told.report.warn(f"{self.name}: {message}")

    def record(self, **facts: Any) -> None:
        self.told.facts[self.name] |= facts

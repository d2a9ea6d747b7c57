"""The chain of a workflow, pure: passes in order become steps, each planned for the model that reaches it.

A plan adds pass by pass and explains what does not fit; a search makes the chain of each point that it tries.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from olivine.config.schema import DataConfig
from olivine.models.facts import ModelFacts
from olivine.passes import UNCHANGED, Pass, parts, passes
from olivine.systems import Installed
from olivine.work import Estimate, Machine
from olivine.workflow.steps import Step


@dataclass(frozen=True)
class Spec:
    """A pass as a config asks for it. params: as they are written; what they leave out may be inherited."""

    name: str
    plugin: type[Pass]
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Chain:
    """The steps so far, and the model that reaches the next one: its facts and format, None where not known.

    machine, host, versions: where the next step runs, as of a Step.
    """

    machine: Machine
    facts: ModelFacts | None
    form: str | None
    steps: tuple[Step, ...] = ()
    passes: tuple[Pass, ...] = ()
    host: str | None = None
    versions: Mapping[str, str] = field(default_factory=Installed, repr=False, compare=False)

    def configured(self, spec: Spec, known_data: Collection[str]) -> Pass:
        """The pass with its params, those that it inherits from the passes before it among them.

        known_data: names of data configs; another one is not inherited, as the pass that named it has been told.
        Raises pydantic's ValidationError.
        """
        inherited = {
            key: value
            for key, value in spec.plugin.inherited(self.passes).items()
            if not key.endswith("data_config") or value in known_data
        }
        return spec.plugin(spec.plugin.Params.model_validate({**inherited, **spec.params}))

    def then(self, name: str, one: Pass, data: Mapping[str, DataConfig], *, implicit: bool = False) -> Self:
        """The chain with one more step. data: the configs that the pass names."""
        step = Step(
            name=name,
            pass_name=one.name,
            params=one.said(),
            parent=next((step.name for step in reversed(self.steps) if step.produces != UNCHANGED), None),
            machine=self.machine,
            host=self.host,
            versions=self.versions,
            data=data,
            models=tuple(one.model_names()),
            trains_on=one.trains_on(),
            calibrates_on=one.calibrates_on(),
            files=tuple(one.files()),
            implicit=implicit,
            estimate=parts.estimate(one, self.facts, self.machine, data) if self.facts else Estimate(),
            produces=one.gives(self.form),
        )
        facts = parts.forecast(one, self.facts) if self.facts else None
        return replace(self.past(type(one)), facts=facts, steps=(*self.steps, step), passes=(*self.passes, one))

    def past(self, plugin: type[Pass] | None) -> Self:
        """The chain after a pass that gives no step; what an unknown one would give is not known."""
        if plugin is None:
            return replace(self, form=None)
        return self if plugin.produces == UNCHANGED else replace(self, form=plugin.gives(self.form))

    def begun(self, first: type[Pass] | None, taken: Collection[str], base: str | None = None) -> Self:
        """The chain with the step that reads a GGUF file, where the first pass does not take one itself.

        taken: names that the user's passes have. base: the format of the input model's base; that of an adapter may be
        such a file.
        """
        if self.form == "adapter" and base == "gguf":
            loads = "gguf_base"
        elif self.form == "gguf" and (first is None or self.form not in first.accepts):
            loads = "gguf"
        else:
            return self
        plugin, name = passes[loads], "gguf"
        while name in taken:
            name = f"load-{name}"
        return self.then(name, plugin(plugin.Params()), {}, implicit=True)


def chain(
    facts: ModelFacts,
    form: str,
    specs: Iterable[Spec],
    machine: Machine,
    data: Mapping[str, DataConfig],
    base: str | None = None,
) -> tuple[Step, ...]:
    """The steps that passes come to on an input model of that format.

    data: every data config by its name. base: see Chain.begun.
    """
    specs = list(specs)
    links = Chain(machine, facts, form).begun(specs[0].plugin if specs else None, [spec.name for spec in specs], base)
    for spec in specs:
        one = links.configured(spec, data)
        links = links.then(spec.name, one, {name: data[name] for name in one.data_names()})
    return links.steps


def bridge(form: str, accepted: Collection[str]) -> list[str]:
    """The usual passes that lead from one format to one of others, the fewest that do; empty when none do."""
    ways: dict[str, list[str]] = {form: []}
    waiting = [form]
    while waiting:
        reached = waiting.pop(0)
        if reached in accepted:
            return ways[reached]
        for one in passes.classes.values():
            if one.is_usual_way and reached in one.accepts and one.produces not in ways:
                ways[one.produces] = [*ways[reached], one.name]
                waiting.append(one.produces)
    return []

"""Keys that a section does not have and another has: a newcomer's commonest slip, told with the place."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from pydantic import BaseModel

from olivine.config.explain import synonym
from olivine.config.schema import InputModel, LoadDataset, PreProcess, Quality, Workflow
from olivine.errors import Problem
from olivine.passes import Pass, passes

_EVERYWHERE = frozenset({"name", "type", "params", "config"})  # what many sections have, so that none of them is meant


def with_places(problems: Iterable[Problem], workflow: Workflow) -> list[Problem]:
    """The problems; an unknown key that has its place elsewhere in this config is told where.

    A key of that very name elsewhere says more than one of like spelling here; what other tools call so is looked for
    where nothing was near.
    """
    return [_with_place(problem, workflow) for problem in problems]


def _with_place(problem: Problem, workflow: Workflow) -> Problem:
    head, _, hint = problem.message.partition(";")
    if not problem.key or not head.startswith("unknown key"):
        return problem
    key, has_near = str(problem.key[-1]), "did you mean" in hint
    ours = synonym(key)
    if key in _EVERYWHERE or (has_near and f"'{ours}'" in hint):
        return problem
    place = next(_places(key, problem, workflow), None)
    if place is None and not has_near:
        place = next(_meant(key, ours, problem, workflow), None)
    return problem if place is None else replace(problem, message=f"{head.rstrip('.')}; did you mean '{place}'?")


def _places(key: str, problem: Problem, workflow: Workflow) -> Iterator[str]:
    """Where else in the config a key of this name may stand, today's sections first."""
    for place, section in _sections(problem, workflow):
        if key in section.model_fields:
            yield f"{place}.{key}"
    for name, plugin in _passes(problem, workflow):
        if key in plugin.Params.model_fields or key in plugin.spellings:
            yield f"passes.{name}.{key}"
        elif (inside := _inside(plugin, key, problem)) is not None and inside.endswith(f".{key}"):
            yield f"passes.{name}.{inside}"


def _meant(key: str, ours: str | None, problem: Problem, workflow: Workflow) -> Iterator[str]:
    """Where the key stands that other tools call so."""
    for name, plugin in _passes(problem, workflow):
        if (inside := _inside(plugin, key, problem)) is not None:
            yield f"passes.{name}.{inside}"
    if ours is not None:
        yield from _places(ours, problem, workflow)


def _inside(plugin: type[Pass], key: str, problem: Problem) -> str | None:
    """Where in a param of the pass the key belongs; one of a pass is hardly meant for another's training."""
    return None if problem.key[0] == "passes" else plugin.Params.belongs_in(key)


def _sections(problem: Problem, workflow: Workflow) -> Iterator[tuple[str, type[BaseModel]]]:
    """Sections that are written once, and those of the data config that the problem is in, or the first."""
    yield "input_model", InputModel
    index = next((part for part in problem.key[:2] if isinstance(part, int)), 0)
    if index < len(workflow.data_configs):
        yield f"data_configs[{index}].pre_process_data_config", PreProcess
        yield f"data_configs[{index}].load_dataset_config", LoadDataset
    yield "quality", Quality


def _passes(problem: Problem, workflow: Workflow) -> Iterator[tuple[str, type[Pass]]]:
    """The passes that the key does not stand in already."""
    here = problem.key[1] if problem.key[0] == "passes" and len(problem.key) > 1 else None
    for name, config in workflow.passes.items():
        plugin = passes.find(config.type)
        if plugin is not None and name != here:
            yield name, plugin

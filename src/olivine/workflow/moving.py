"""Data that is named and not here: what its rows were when the run began becomes part of every key."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from olivine import data
from olivine.config.schema import DataConfig
from olivine.workflow.rows import usual_label
from olivine.workflow.steps import Plan


def moving(plan: Plan) -> list[DataConfig]:
    """The data configs of a plan whose name may point to other rows today than at the last run, each once."""
    found = {config.name: config for config in _configs(plan) if data.may_move(config)}
    return list(found.values())


def reader(config: DataConfig, plan: Plan) -> str | None:
    """The host that reads rows first: they may lie where this machine does not reach."""
    readers = [step.host for step in plan.steps if any(one.name == config.name for one in step.data.values())]
    return readers[0] if readers else plan.score.host if plan.score is not None else None


def with_rows(plan: Plan, told: Mapping[str, Mapping[str, Any]], template: str) -> Plan:
    """The plan with its moving data as it is now.

    told: for each data config by name, `content`, the hash of its rows, and `sample`, the first of them, which with the
    model's chat template tell the form of all.
    """

    def known(config: DataConfig) -> DataConfig:
        if config.name not in told:
            return config
        rows = told[config.name]
        return data.for_model(config.model_copy(update={"content": rows["content"]}), template, rows["sample"])

    steps = [replace(step, data={name: known(config) for name, config in step.data.items()}) for step in plan.steps]
    score = plan.score
    if score is not None and score.data is not None:
        rows = told.get(score.data.name, {}).get("sample", ())
        columns = list(dict.fromkeys(column for row in rows for column in row))
        target = score.target or (usual_label(columns, plan.facts) if score.on_outputs else "")
        score = replace(score, data=known(score.data), target=target)
    return replace(plan, steps=tuple(steps), score=score)


def _configs(plan: Plan) -> Iterator[DataConfig]:
    for step in plan.steps:
        yield from step.data.values()
    if plan.score is not None and plan.score.data is not None:
        yield plan.score.data

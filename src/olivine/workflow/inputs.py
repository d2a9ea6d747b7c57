"""What a run needs before anything is keyed: the input model, here, and the rows of data that lies elsewhere."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from olivine import data
from olivine.config.schema import DataConfig
from olivine.errors import ConfigError, StepFailed
from olivine.models import Model
from olivine.models.chat_template import read_chat_template
from olivine.store.hashes import digest
from olivine.workflow.events import RowsRead, StepDone, StepStarted
from olivine.workflow.fetch import bring, forget_cleared
from olivine.workflow.keys import absolute, fetch_key, fetched_model, trusts_code
from olivine.workflow.moving import moving, reader, with_rows
from olivine.workflow.plan import make_plan
from olivine.workflow.source import exporting
from olivine.workflow.steps import Host, Plan
from olivine.workflow.survey import STEP, survey
from olivine.workflow.workshop import Task, Workshop


def bring_hosts(plan: Plan, workshop: Workshop) -> Plan:
    """The plan with what every host has: environments and images that are still to be made are made now."""
    unknown = {name: host for name, host in plan.hosts.items() if not host.is_known}
    if not unknown or plan.source is None:
        return plan
    for name, host in unknown.items():
        _prepare(
            Task(f"prepare:{name}", digest({"prepare": name}), f"Make the environment of '{name}'"), host, workshop
        )
    again = make_plan(plan.source, offline=plan.machine.offline, asked=plan.hosts)
    if again.problems:
        raise StepFailed("prepare", " ".join(f"{one.message} {one.fix}".strip() for one in again.problems))
    return again


def _prepare(task: Task, host: Host, workshop: Workshop) -> None:
    workshop.tell(StepStarted(**task.origin, description=task.description))
    started = time.monotonic()
    log = workshop.new_log(task.step)
    try:
        host.system.prepare(log)
    except StepFailed as error:
        failure = StepFailed(task.step, error.cause, error.log or log)
        workshop.fail(task, failure)
        raise failure from None
    workshop.tell(StepDone(**task.origin, seconds=round(time.monotonic() - started, 2)))


def bring_remotes(plan: Plan, workshop: Workshop) -> Plan:
    """The plan with what it names elsewhere in the cache: made once more when something has come.

    Raises StepFailed when what came cannot be used: until then it was known by its beginnings.
    """
    systems = {name: host.system for name, host in plan.hosts.items()}
    is_gone = not plan.machine.offline and forget_cleared(plan.remotes, workshop.store, systems)
    if is_gone and plan.source is not None:
        plan = make_plan(plan.source, asked=plan.hosts)
    bring(plan.remotes, workshop, systems, plan.machine)
    if not plan.awaits or plan.source is None:
        return plan
    settled = make_plan(plan.source, offline=plan.machine.offline, asked=plan.hosts)
    if settled.problems:
        raise StepFailed("fetch", " ".join(f"{problem.message} {problem.fix}".strip() for problem in settled.problems))
    return settled


def bring_model(plan: Plan, workshop: Workshop) -> Model:
    """The input model, fetched when it lies on the hub."""
    model = plan.input_model or fetched_model(workshop.store, plan)
    if model is None:
        model = _fetch(plan, workshop)
    _check_fetched(plan, model)
    if plan.hub_name is not None and plan.source is not None and plan.source.workflow is not None:
        model = replace(model, attributes=exporting(plan.source.workflow))
    return model


def _fetch(plan: Plan, workshop: Workshop) -> Model:
    params = {"name": plan.hub_name, "revision": plan.hub_revision, "trust_remote_code": trusts_code(plan)}
    task = Task(f"fetch:{plan.hub_name}", fetch_key(plan), f"Bring {plan.hub_name} from the hub", params=params)

    def fetch(content: Path) -> Mapping[str, Any]:
        return workshop.do("fetch", task, content, plan.machine)

    workshop.store.remove(task.key)  # it names a place where the model is no longer
    return Model.from_json(workshop.obtain(task, fetch).result["model"])


def _check_fetched(plan: Plan, model: Model) -> None:
    """Plan once more with the model that came: until then it was known from what the hub said of it, if at all."""
    if plan.hub_name is None or plan.source is None:
        return
    problems = make_plan(plan.source, offline=plan.machine.offline, fetched=model.path, asked=plan.hosts).problems
    if problems:
        raise StepFailed("fetch", " ".join(f"{problem.message} {problem.fix}".strip() for problem in problems))


def look_at_data(plan: Plan, model: Model, workshop: Workshop) -> Plan:
    """The plan with the rows of data that is not here as they are now: the same name may give others today."""
    configs = moving(plan)
    told = {config.name: _look_at(config, plan, workshop) for config in configs}
    if not told:
        return plan
    template = read_chat_template(model) or ""
    is_text = plan.facts is None or plan.facts.decoder is not None  # else columns are inputs and labels of a model
    for config in configs if is_text else ():
        for doubt in data.doubts(config, template, told[config.name]["sample"]):
            workshop.warn(f"rows:{config.name}", doubt)
    return with_rows(plan, told, template)


def look_at_rows(plan: Plan, model: Model, workshop: Workshop) -> list[str]:
    """What is to be told of rows that could not be looked at before the run; StepFailed when they cannot be used."""
    try:
        return survey(plan, model, workshop)
    except ConfigError as error:
        raise StepFailed(STEP, str(error)) from None


def _look_at(config: DataConfig, plan: Plan, workshop: Workshop) -> Mapping[str, Any]:
    key = digest({"rows": config.name, "at": str(plan.output_dir)})
    description = f"Look at the rows of {config.load_dataset_config.data_name}"
    task = Task(f"rows:{config.name}", key, description, host=reader(config, plan))
    workshop.tell(StepStarted(**task.origin, description=description))
    given = {config.name: absolute(config).model_dump(mode="json")}
    try:
        told = workshop.do("rows", task, workshop.store.scratch(key), plan.machine, data=given)
    except StepFailed as error:
        workshop.fail(task, error)
        raise
    workshop.store.drop_scratch(key)
    workshop.tell(RowsRead(step=task.step, data=config.name, content=told["content"], n_rows=told["n_rows"]))
    return told

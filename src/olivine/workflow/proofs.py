"""Which exports of a plan are proven before any work, by which key, and what is said of it."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from olivine.models import Model
from olivine.passes import Pass, passes
from olivine.store.entries import Cache
from olivine.store.hashes import Hashes, digest
from olivine.workflow.code import code_digest
from olivine.workflow.keys import fetched_model, library_versions
from olivine.workflow.steps import Plan, Step
from olivine.workflow.workshop import Task, Workshop

PROOF = "the export of this architecture equals the checkpoint"


def claims(plan: Plan) -> list[Step]:
    """The steps that can prove what they make."""
    return [step for step in plan.steps if _pass(step).claim() is not None]


def model_to_prove(plan: Plan, folder: Path) -> Model | None:
    """The input model; one that is still on the hub is its config alone, in `folder`. None where that is not known."""
    model = plan.input_model or fetched_model(Cache(plan.cache_dir), plan)
    if model is not None or not plan.model_config:
        return model
    (folder / "config.json").write_text(json.dumps(plan.model_config), encoding="utf-8")
    return Model("hf", folder)


def job_fields(step: Step, model: Model) -> dict[str, Any]:
    """Fields of the Job that proves a step."""
    machine = asdict(step.machine)
    return {
        "kind": "prove",
        "name": step.pass_name,
        "params": step.params,
        "files": tuple(map(str, step.files)),
        "model": model.to_json(),
        "machine": machine,
    }


def proof_key(step: Step, model: Model, hashes: Hashes) -> str | None:
    """The key of the proof that a step is right for the input model's config; None for a step that proves nothing.

    Models that were trained from the same config share it.
    """
    plugin = _pass(step)
    claim = plugin.claim()
    if claim is None:
        return None
    return digest(
        {
            "prove": plugin.name,
            "code": code_digest(type(plugin).__module__),
            "claim": claim,
            "execution_provider": step.machine.execution_provider,
            "config": _config_content(model, hashes),
            "libraries": library_versions(plugin.libraries, step.versions),
        }
    )


def in_words(result: Mapping[str, Any]) -> str:
    """How far a proof went."""
    proof = result["proof"]
    if not proof["lengths"]:
        return "not proven"
    return f"up to {max(proof['lengths']):,} tokens, logits within {proof['largest_difference']:.0e}"


def _pass(step: Step) -> Pass:
    plugin = passes.find(step.pass_name)
    if plugin is None:
        raise LookupError(f"no pass '{step.pass_name}'")
    return plugin(plugin.Params.model_validate(step.params))


def _config_content(model: Model, hashes: Hashes) -> str:
    """Hash of what a model's config is read from: config.json, or the GGUF file that holds it."""
    if model.format == "adapter" and model.base is not None:
        return _config_content(model.base, hashes)
    return hashes.file(model.path / "config.json" if model.path.is_dir() else model.path)


def prove(plan: Plan, model: Model, models: Mapping[str | None, str], workshop: Workshop) -> None:
    """Before any work: that every export to be made is the model, on a small one of its config.

    models: the keys of the plan; what is in the store under them is not made.
    """
    steps = [step for step in plan.steps if not workshop.store.has(models[step.name])]
    keys = {key: step for step in steps if (key := proof_key(step, model, workshop.store.hashes)) is not None}
    for key, step in keys.items():
        origin = {"parent_key": models[None], "host": step.host}
        task = Task("prove", key, PROOF, step.pass_name, step.params, summary=in_words, **origin)
        entry = workshop.obtain(task, partial(_prove, step, model, task, workshop))
        for sentence in entry.result["proof"]["unproven"]:
            workshop.warn("prove", sentence)


def _prove(step: Step, model: Model, task: Task, workshop: Workshop, content: Path) -> Mapping[str, Any]:
    try:
        return workshop.do("prove", task, content, step.machine, model, name=step.pass_name)
    finally:  # there is nothing to go on from
        workshop.store.drop_scratch(task.key)

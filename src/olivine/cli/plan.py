"""`olivine plan`."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from olivine.cli._common import config_options, json_option, on_option, print_json, print_problems, read_plan, say

if TYPE_CHECKING:
    from olivine.models import Model
    from olivine.workflow.steps import Plan, Step


@click.command("plan")
@config_options
@on_option
@click.option(
    "--prove",
    is_flag=True,
    help="Also look at all rows with the tokenizer, and prove that what is exported is the model; takes seconds.",
)
@json_option
def command(config: Path, overrides: tuple[str, ...], offline: bool, prove: bool, as_json: bool) -> int:
    """Show what would run, what it needs and every problem; touches nothing.

    Exit code 0 when the workflow could run here, 2 when anything keeps it from running. --prove does what a run does
    before any work: it looks at all rows with the model's tokenizer, exports a small random model of the same config
    and compares it with transformers: exit code 1 when they differ.
    """
    plan = read_plan(config, overrides, offline=offline)
    if prove and not plan.problems:
        plan = _with_rows_looked_at(plan)
    proof = _proof(plan) if prove and not plan.problems else {}
    from olivine.workflow.words import lines, to_json

    if as_json:
        print_json(to_json(plan) | ({"proof": proof} if prove else {}))
    else:
        for line in lines(plan):
            say(line)
        print_problems(plan.problems)
        _print(proof)
    if plan.problems:
        return 2
    return 1 if proof.get("differs") else 0


def _with_rows_looked_at(plan: "Plan") -> "Plan":
    """The plan with what the tokenizer tells of its rows; nothing of that is kept."""
    from olivine.cli._screen import Screen
    from olivine.errors import ConfigError
    from olivine.systems import SystemParams
    from olivine.systems.local import Local
    from olivine.workflow.survey import first_look
    from olivine.workflow.workers import Workers

    screen = Screen()
    with tempfile.TemporaryDirectory(prefix="olivine-rows-") as folder:
        try:
            with Workers.of([(None, Local(SystemParams()))], Path(folder)) as workers:
                told = first_look(replace(plan, cache_dir=Path(folder)), workers, screen)
        except ConfigError as error:
            return replace(plan, problems=tuple(error.problems()))
        finally:
            screen.close()
    return replace(plan, translated=(*plan.translated, *(f"warning: {sentence}" for sentence in told or ())))


def _proof(plan: "Plan") -> dict[str, list[str]]:
    """What the proof of every export of the plan came to, in sentences: "proven", "unproven", "differs"."""
    from olivine.workflow.proofs import claims, model_to_prove

    found: dict[str, list[str]] = {"proven": [], "unproven": [], "differs": []}
    steps = claims(plan)
    if not steps:
        found["unproven"].append("no step exports a model, so there is nothing to prove")
    with tempfile.TemporaryDirectory(prefix="olivine-prove-") as folder:
        model = model_to_prove(plan, Path(folder))
        if model is None:
            found["unproven"].append(
                f"'{plan.model_address}' is still to be fetched; 'olivine run' proves it after that"
            )
            return found
        for step in steps:
            _prove(step, model, found)
    return found


def _prove(step: "Step", model: "Model", found: dict[str, list[str]]) -> None:
    from olivine.cli._alone import run_alone
    from olivine.errors import RequestError, StepFailed
    from olivine.workflow.proofs import PROOF, in_words, job_fields

    try:
        result: dict[str, Any] = run_alone("prove", PROOF, **job_fields(step, model))
    except (StepFailed, RequestError) as failure:
        cause = str(failure)
        if isinstance(failure, StepFailed):
            cause = failure.cause
            if failure.log is not None:  # nothing but what is told
                failure.log.unlink(missing_ok=True)
        found["differs"].append(f"step '{step.name}': {cause}")
        return
    if result["proof"]["lengths"]:
        found["proven"].append(f"step '{step.name}': {PROOF}: {in_words(result)}")
    found["unproven"] += result["proof"]["unproven"]


def _print(proof: dict[str, list[str]]) -> None:
    for sentence in proof.get("proven", ()):
        say(sentence)
    for sentence in proof.get("unproven", ()):
        say(f"not proven: {sentence}")
    for sentence in proof.get("differs", ()):
        say(f"olivine: {sentence}", err=True, fg="red")

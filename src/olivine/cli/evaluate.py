"""`olivine evaluate`."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from olivine.cli._common import config_options, json_option, print_json, read_plan, say

if TYPE_CHECKING:
    from olivine.models import Model
    from olivine.workflow.steps import Plan, ScoreRows

_NO_MODEL = ("missing-model", "network")  # problems of a plan that leave it without its input model


@click.command("evaluate")
@click.argument("model_dir", type=click.Path(path_type=Path))
@config_options
@json_option
def command(model_dir: Path, config: Path, overrides: tuple[str, ...], offline: bool, as_json: bool) -> int:
    """Score a model on the rows of a config.

    MODEL_DIR is a Hugging Face folder, an adapter folder of the config's input model, an ONNX folder or file, or a
    GGUF file. The rows are those on which `olivine run` would score every seam, the numbers those that the config's
    evaluator asks for beside. Exit code 1 when the model's output is broken, or misses a threshold of the evaluator.
    """
    from olivine.errors import ConfigError
    from olivine.workflow.steps import timing_params

    plan = read_plan(config, overrides, offline=offline)
    rows = plan.score
    if rows is None:
        raise click.UsageError("the config names no rows to score; set quality.data_config")
    if blocking := [problem for problem in plan.problems if problem.kind in ("missing-data", "missing-file")]:
        raise ConfigError(blocking)
    result = _score(plan, rows, _model(model_dir, plan))
    if (timing := timing_params(plan.asked)) is not None:
        result["scores"] |= _times(plan, timing, _model(model_dir, plan))
    table = _asked(plan, result["scores"])
    if as_json:
        print_json({**result, **({"measured": table} if table else {})})
    else:
        _print(model_dir, rows, result["scores"])
        _print_asked(table)
    return _verdict(result["scores"], table)


def _asked(plan: "Plan", scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the evaluator asks for, as far as one model alone tells it: no distances, no goals but thresholds."""
    from olivine.workflow.events import Scored
    from olivine.workflow.verdict import rows_of

    asked = [
        replace(one, goal=None if one.goal and one.goal.is_relative else one.goal)
        for one in plan.asked
        if not one.compares
    ]
    one = Scored(model="model", scores=scores, size_bytes=scores.get("size_bytes"))
    return [{**row, "baseline": None} for row in rows_of(asked, [one], result="model")]


def _print_asked(table: list[dict[str, Any]]) -> None:
    from olivine.cli._screen import asked_table

    if table:
        click.echo("\n".join(["", *asked_table(table)]))


def _print(model_dir: Path, rows: "ScoreRows", scores: Mapping[str, Any]) -> None:
    """The model as a line of the table that a run prints, and what it was scored on."""
    from olivine.cli._screen import score_table, table_notes

    name = model_dir.resolve().name
    say(f"{model_dir} on {scores['n_rows']} {_in_words(rows)}:\n")
    if rows.data is None and "degenerate" not in scores:
        say("the outputs are numbers; how good they are is told by rows with labels (quality.data_config)")
        return
    click.echo("\n".join(score_table([{**scores, "model": name}])))
    if scores.get("perplexity") is not None:
        say(f"\nperplexity {scores['perplexity']:.4g}, over {scores['n_tokens']:,} tokens")
    for note in table_notes([{**scores, "model": name}]):
        say(note)


def _in_words(rows: "ScoreRows") -> str:
    if rows.on_text:
        return "passages of text (the config names no rows to score)"
    if rows.data is None:
        return "made-up rows (the config names none to score)"
    kind = {"eval": "held-out rows", "all": "rows", "train": "training rows (trained on!)"}[rows.part]
    return f"{kind} of '{rows.data.name}'"


def _verdict(scores: Mapping[str, Any], table: list[dict[str, Any]]) -> int:
    """Say what is wrong with the model; 1 when it is broken, or misses a threshold."""
    from olivine.workflow.remarks import remarks

    for remark in remarks(scores, None, trained=False):
        say(f"olivine: {remark}", err=True, fg="red" if "degenerate" in scores else "yellow")
    missed = [row["name"] for row in table if row["is_met"] is False]
    for name in missed:
        say(f"olivine: {name} misses its goal", err=True, fg="red")
    return 1 if "degenerate" in scores or missed else 0


def _model(folder: Path, plan: "Plan") -> "Model":
    """The model in the folder; an adapter there adapts the config's input model."""
    from olivine.errors import ConfigError
    from olivine.evaluate.parity import open_model

    base = plan.input_model
    if base is not None and base.format == "onnx" and base.packaging == "plain":
        return _graph(folder)
    is_adapter = (folder / "adapter_config.json").is_file()
    if is_adapter and base is None and (no_base := [one for one in plan.problems if one.kind in _NO_MODEL]):
        raise ConfigError(no_base)
    if is_adapter and (base is None or base.format not in ("hf", "gguf")):
        raise click.UsageError(
            f"{folder} is an adapter; input_model must be the local Hugging Face folder or GGUF file that it adapts"
        )
    model = open_model(folder, base.path if base else None)
    if model.format == "onnx":
        return replace(model, attributes={"execution_provider": plan.machine.execution_provider})
    return replace(model, base=base) if model.format == "adapter" else model


def _graph(path: Path) -> "Model":
    """The graph at the path: the config's models are measured by their outputs."""
    from olivine.models.onnx_files import check_onnx, onnx_model

    model = onnx_model(path.absolute())
    if model.packaging != "plain":
        raise click.UsageError(f"{path} writes text, and the config's input model is a graph that does not")
    check_onnx(model)
    return model


def _times(plan: "Plan", params: Mapping[str, Any], model: "Model") -> dict[str, Any]:
    """What is timed of the model, where nothing else is at work."""
    from olivine.cli._alone import run_alone

    machine, models = asdict(plan.machine), {"model": model.to_json()}
    timed = run_alone("evaluate", str(model.path), kind="time", params=params, models=models, machine=machine)
    numbers: dict[str, Any] = timed["numbers"]["model"]
    return numbers


def _score(plan: "Plan", rows: "ScoreRows", model: "Model") -> dict[str, Any]:
    from olivine.cli._alone import run_alone
    from olivine.workflow.keys import score_params

    return run_alone(
        "evaluate",
        str(model.path),
        kind="score",
        params=score_params(rows) | {"previous": None},
        model=model.to_json(),
        machine=asdict(plan.machine),
    )

"""`olivine evaluate`."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from olivine.cli._common import config_options, json_option, print_json, read_plan

if TYPE_CHECKING:
    from olivine.models import Model
    from olivine.workflow.steps import Plan, ScoreRows


@click.command("evaluate")
@click.argument("model_dir", type=click.Path(path_type=Path))
@config_options
@json_option
def command(model_dir: Path, config: Path, overrides: tuple[str, ...], offline: bool, as_json: bool) -> int:
    """Score a model on the rows of a config.

    MODEL_DIR is a Hugging Face folder, an adapter folder of the config's input model, an ONNX folder or a GGUF file.
    The rows are those on which `olivine run` would score every seam. Exit code 1 when the model's output is broken.
    """
    from olivine.errors import ConfigError

    plan = read_plan(config, overrides, offline=offline)
    rows = plan.score
    if rows is None:
        raise click.UsageError("the config names no rows to score; set quality.data_config")
    if blocking := [problem for problem in plan.problems if problem.kind in ("missing-data", "missing-file")]:
        raise ConfigError(blocking)
    result = _score(plan, rows, _model(model_dir, plan))
    if as_json:
        print_json(result)
        return _verdict(result["scores"])
    scores = result["scores"]
    for name, value in scores.items():
        if name != "no_number":
            shown = "not a number" if value is None else f"{value:.4g}" if isinstance(value, float) else value
            click.echo(f"{name}: {shown}")
    return _verdict(scores)


def _verdict(scores: Mapping[str, Any]) -> int:
    """Say what is wrong with the model; 1 when it is broken."""
    from olivine.workflow.remarks import remarks

    for remark in remarks(scores, None, trained=False):
        click.secho(f"olivine: {remark}", err=True, fg="red" if "degenerate" in scores else "yellow")
    return 1 if "degenerate" in scores else 0


def _model(folder: Path, plan: "Plan") -> "Model":
    """The model in the folder; an adapter there adapts the config's input model."""
    from olivine.evaluate.parity import open_model

    base = plan.input_model
    if (folder / "adapter_config.json").is_file() and (base is None or base.format not in ("hf", "gguf")):
        raise click.UsageError(
            f"{folder} is an adapter; input_model must be the local Hugging Face folder or GGUF file that it adapts"
        )
    model = open_model(folder, base.path if base else None)
    if model.format == "onnx":
        return replace(model, attributes={"execution_provider": plan.machine.execution_provider})
    return replace(model, base=base) if model.format == "adapter" else model


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

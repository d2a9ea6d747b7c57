"""`olivine evaluate`."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from olivine.cli._common import config_options, json_option, print_json, print_problems, read_plan

if TYPE_CHECKING:
    from olivine.models import Model
    from olivine.workflow._steps import Plan, ScoreRows


@click.command("evaluate")
@click.argument("model_dir", type=click.Path(path_type=Path))
@config_options
@json_option
def command(model_dir: Path, config: Path, overrides: tuple[str, ...], offline: bool, as_json: bool) -> int:
    """Score a model on the rows of a config.

    MODEL_DIR is a Hugging Face folder, an adapter folder of the config's input model, or an ONNX folder. The rows
    are those on which `olivine run` would score every seam.
    """
    plan = read_plan(config, overrides, offline=offline)
    rows = plan.score
    if rows is None:
        raise click.UsageError("the config names no rows to score; set quality.data_config")
    if blocking := [problem for problem in plan.problems if problem.kind in ("missing-data", "missing-file")]:
        print_problems(blocking)
        return 2
    result = _score(plan, rows, _model(model_dir, plan))
    if as_json:
        print_json(result)
        return 0
    for name, value in result["scores"].items():
        click.echo(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    return 0


def _model(folder: Path, plan: "Plan") -> "Model":
    from olivine.models import Model

    if (folder / "genai_config.json").is_file():
        return Model("onnx", folder.absolute(), attributes={"execution_provider": plan.machine.execution_provider})
    if (folder / "adapter_config.json").is_file():
        if plan.input_model is None or plan.input_model.format != "hf":
            raise click.UsageError(
                f"{folder} is an adapter; input_model must be the local Hugging Face folder that it adapts"
            )
        return Model("adapter", folder.absolute(), base=plan.input_model)
    if (folder / "config.json").is_file():
        return Model("hf", folder.absolute())
    raise click.UsageError(f"{folder} holds no model: neither genai_config.json, adapter_config.json nor config.json")


def _score(plan: "Plan", rows: "ScoreRows", model: "Model") -> dict[str, Any]:
    from olivine.cli._screen import Screen
    from olivine.systems._job import Job
    from olivine.systems.local import LocalWorker
    from olivine.workflow.keys import score_params

    screen = Screen()
    with tempfile.TemporaryDirectory() as folder, LocalWorker() as worker:
        job = Job(
            kind="score",
            step="evaluate",
            output=Path(folder),
            scratch=Path(folder),
            params=score_params(rows) | {"previous": None},
            model=model.to_json(),
            machine=asdict(plan.machine),
            log=str(Path(folder) / "evaluate.log"),
        )
        screen.step_started("evaluate", str(model.path))

        def listen(event: str, fields: Any) -> None:
            if event == "progress":
                screen.progress("evaluate", fields["done"], fields["total"], fields["metrics"])
            elif event == "warning":
                screen.warning("evaluate", fields["message"])

        try:
            return worker.run(job, listen)
        finally:
            screen.close()

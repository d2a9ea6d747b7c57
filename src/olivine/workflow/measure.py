"""One model scored on the rows of a config, outside of a run."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from olivine.errors import ConfigError, RequestError
from olivine.evaluate.parity import open_model
from olivine.models import Model
from olivine.models.onnx_files import check_onnx, onnx_model
from olivine.models.openvino_files import is_openvino, openvino_model
from olivine.workflow.alone import run_alone
from olivine.workflow.events import Listener, Scored
from olivine.workflow.keys import score_params
from olivine.workflow.steps import Plan, ScoreRows, timing_params
from olivine.workflow.verdict import rows_of

_NO_MODEL = ("missing-model", "network")  # problems of a plan that leave it without its input model


def rows_to_score(plan: Plan) -> ScoreRows:
    """The rows on which `olivine run` would score every seam; RequestError where there are none, or they are wrong."""
    if plan.score is None:
        raise RequestError("the config names no rows to score; set quality.data_config")
    if blocking := [problem for problem in plan.problems if problem.kind in ("missing-data", "missing-file")]:
        raise ConfigError(blocking)
    return plan.score


def score_model(plan: Plan, folder: Path, listen: Listener) -> dict[str, Any]:
    """The scores of the model in a folder, its samples, and as "measured" what the evaluator of the plan asks for.

    Each stands under its name in what `olivine evaluate --json` prints; there is no "measured" without an evaluator.
    """
    rows, model = rows_to_score(plan), _model(folder, plan)
    record, machine = model.to_json(), asdict(plan.machine)
    params = score_params(rows) | {"previous": None}
    result = run_alone("evaluate", str(model.path), listen, kind="score", params=params, model=record, machine=machine)
    if (timing := timing_params(plan.asked)) is not None:
        models = {"model": record}
        timed = run_alone(
            "evaluate", str(model.path), listen, kind="time", params=timing, models=models, machine=machine
        )
        result["scores"] |= timed["numbers"]["model"]
    table = _asked(plan, result["scores"])
    return {**result, **({"measured": table} if table else {})}


def _asked(plan: Plan, scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the evaluator asks for, as far as one model alone tells it: no distances, no goals but thresholds."""
    asked = [
        replace(one, goal=None if one.goal and one.goal.is_relative else one.goal)
        for one in plan.asked
        if not one.compares
    ]
    one = Scored(model="model", scores=scores, size_bytes=scores.get("size_bytes"))
    return [{**row, "baseline": None} for row in rows_of(asked, [one], result="model")]


def _model(folder: Path, plan: Plan) -> Model:
    """The model in the folder; an adapter there adapts the config's input model."""
    base = plan.input_model
    if base is not None and base.is_graph:
        return _graph(folder)
    is_adapter = (folder / "adapter_config.json").is_file()
    if is_adapter and base is None and (no_base := [one for one in plan.problems if one.kind in _NO_MODEL]):
        raise ConfigError(no_base)
    if is_adapter and (base is None or base.format not in ("hf", "gguf")):
        raise RequestError(
            f"{folder} is an adapter; input_model must be the local Hugging Face folder or GGUF file that it adapts"
        )
    model = open_model(folder, base.path if base else None)
    if model.format == "onnx":
        return replace(model, attributes={"execution_provider": plan.machine.execution_provider})
    return replace(model, base=base) if model.format == "adapter" else model


def _graph(path: Path) -> Model:
    """The graph at the path: the config's models are measured by their outputs."""
    if is_openvino(path):
        return openvino_model(path.absolute())
    model = onnx_model(path.absolute())
    if model.packaging != "plain":
        raise RequestError(f"{path} writes text, and the config's input model is a graph that does not")
    check_onnx(model)
    return model

"""Before anything is trained or scored: that every row can be used as the plan's steps and scores will use it.

Only the tokenizer tells whether rows lose their answer at the maximum length, whether its chat template takes them, and
whether there are enough of them to calibrate with. A worker asks it first, and keeps the answer by what it depends on.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from olivine.config.schema import DataConfig
from olivine.errors import ConfigError, Problem, StepFailed
from olivine.models import Model
from olivine.models.deciding import deciding_files
from olivine.store.entries import Cache
from olivine.store.hashes import Hashes, digest
from olivine.systems import Installed
from olivine.workflow.code import code_digest
from olivine.workflow.events import Listener
from olivine.workflow.keys import absolute, data_content, library_versions, score_params, seams
from olivine.workflow.moving import moving, reader
from olivine.workflow.steps import Plan, Step
from olivine.workflow.workers import Workers
from olivine.workflow.workshop import Task, Workshop

STEP = "data"
_LIBRARIES = ("transformers", "tokenizers", "jinja2")
_WEIGHTS = (".safetensors", ".bin")  # no tokenizer reads them


def first_look(plan: Plan, workers: Workers, listen: Listener | None) -> list[str] | None:
    """What is to be told of the rows, before the run begins; ConfigError when they cannot be used.

    None where that is not known before it: the model or the rows have yet to come, or the worker failed, which the run
    meets again and tells.
    """
    if plan.input_model is None or plan.awaits or moving(plan) or not _uses(plan):
        return None
    store = Cache(plan.cache_dir)
    store.prepare()
    with store, tempfile.TemporaryDirectory(prefix="olivine-data-", ignore_cleanup_errors=True) as folder:
        try:
            return survey(plan, plan.input_model, Workshop(Path(folder), store, workers, listen or (lambda _: None)))
        except (StepFailed, OSError):
            return None


def survey(plan: Plan, model: Model, workshop: Workshop) -> list[str]:
    """What is to be told of the rows, a sentence each. ConfigError when they cannot be used."""
    configs: list[DataConfig] = []
    uses = [_numbered(use, configs) for use in _uses(plan)]
    if not uses:
        return []
    key = _key(uses, configs, model, workshop.store.hashes)
    host = next((reader(config, plan) for config in moving(plan)), None)
    task = Task(STEP, key, "Look at all rows with the model's tokenizer", host=host)

    def make(content: Path) -> Mapping[str, Any]:
        data = {str(number): absolute(config).model_dump(mode="json") for number, config in enumerate(configs)}
        try:
            told = workshop.do("survey", task, content, plan.machine, model, params={"uses": uses}, data=data)
        finally:  # the tokens lie beside it; there is nothing to go on from
            workshop.store.drop_scratch(key)
        if told["problems"]:
            raise ConfigError([_problem(plan, **problem) for problem in told["problems"]])
        return told

    told = workshop.obtain(task, make).result["warnings"]
    return [sentence for sentence in told if not any(sentence in known for known in plan.translated)]


def _uses(plan: Plan) -> list[dict[str, Any]]:
    """What steps and scores do with rows, see systems._survey; data as configs. None once all of them are made.

    A run that goes on asks what the run before it asked, whose answer is kept.
    """
    if plan.input_model is not None and plan.input_model.format in ("onnx", "openvino"):
        return []  # a graph may be no model of text
    uses: list[dict[str, Any]] = []
    are_made = True
    for step in plan.steps:
        of_step = list(_uses_of(step))
        uses += of_step
        are_made &= not of_step or step.name in plan.cached
    rows = plan.score
    if rows is not None and rows.data is not None and not rows.on_text and not rows.on_outputs:
        params = {key: value for key, value in score_params(rows).items() if key != "data"}
        uses.append({"kind": "score", "step": "score", "data": rows.data, "params": params})
        are_made &= all(f"score:{seam.name}" in plan.cached for seam in seams(plan))
    return [] if are_made else uses


def _uses_of(step: Step) -> Iterator[dict[str, Any]]:
    if (trained := step.trains_on) is not None and trained.data in step.data:
        yield {
            "kind": "train",
            "step": step.name,
            "data": step.data[trained.data],
            "eval_data": step.data.get(trained.eval_data or ""),
            "eval_size": trained.eval_size,
            "seed": trained.seed,
        }
    if (drawn := step.calibrates_on) is not None and drawn.data in step.data:
        yield {
            "kind": "calibrate",
            "step": step.name,
            "data": step.data[drawn.data],
            "held_out": drawn.held_out,
            "seed": drawn.seed,
            "may_be_short": drawn.may_be_short,
            "param": drawn.param,
        }


def _numbered(use: Mapping[str, Any], configs: list[DataConfig]) -> dict[str, Any]:
    """The use with numbers for its configs, which are put into the list."""
    numbered = dict(use)
    for key in ("data", "eval_data"):
        if (config := use.get(key)) is not None:
            if config not in configs:
                configs.append(config)
            numbered[key] = str(configs.index(config))
    return numbered


def _key(uses: list[dict[str, Any]], configs: list[DataConfig], model: Model, hashes: Hashes) -> str:
    """Everything that the answer depends on: the rows, what is done with them, and the tokenizer."""
    return digest(
        {
            "survey": code_digest("olivine.systems._survey"),
            "uses": uses,
            "names": [config.name for config in configs],
            "data": [data_content(config, hashes) for config in configs],
            "model": [_asked(one, hashes) for one in _made_from(model)],
            "libraries": library_versions(_LIBRARIES, Installed()),
        }
    )


def _made_from(model: Model | None) -> Iterator[Model]:
    while model is not None:
        yield model
        model = model.base


def _asked(model: Model, hashes: Hashes) -> dict[str, str]:
    """The files of a model that say how it reads text."""
    files = {name: path for name, path in deciding_files(model) if path.suffix not in _WEIGHTS}
    return {name: hashes.file(path) for name, path in sorted(files.items())}


def _problem(plan: Plan, data: str, message: str, fix: str) -> Problem:
    """A problem at the data config that it is about."""
    where = f"data config '{data}'"
    if plan.source is not None and plan.source.workflow is not None:
        names = [config.name for config in plan.source.workflow.data_configs]
        where = plan.source.document.where(("data_configs", names.index(data))) if data in names else where
    return Problem("missing-data", where, message, fix)

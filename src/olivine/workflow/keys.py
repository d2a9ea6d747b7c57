"""Content keys: everything that a result depends on, hashed.

The input model's files, the data files and user scripts are hashed by their bytes; the input of a later step is the key
of the step before it, so nothing is hashed twice. Hashes are remembered by path, size, modification time and inode: a
second run does one `stat` a file, however large the checkpoint is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from olivine import data
from olivine.absent import absent
from olivine.config.schema import DataConfig
from olivine.errors import ModelError, OlivineError
from olivine.models import Model
from olivine.models.deciding import deciding_files
from olivine.models.scripted import SCRIPT, given_to_loader, script_files
from olivine.passes import UNCHANGED, passes
from olivine.paths import is_folder
from olivine.store.entries import Cache
from olivine.store.hashes import Hashes, digest
from olivine.store.packing import unpack
from olivine.workflow.code import code_digest
from olivine.workflow.steps import TASKS, Plan, ScoreRows, Script, Step, timing_params

SCORE_LIBRARIES = ("torch", "transformers", "peft", "onnxruntime", "onnxruntime-genai", "openvino")

_NOT_THE_MODEL = ("path", "folder", "max_seconds")  # of what a record says of a script
# One library, published under a name for each kind of hardware.
_VARIANTS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml"),
    "onnxruntime-genai": ("onnxruntime-genai", "onnxruntime-genai-cuda", "onnxruntime-genai-directml"),
}


def model_content(model: Model, hashes: Hashes) -> str:
    """The content of a model record: its deciding files, what it was made from, and how it is to be loaded."""
    if not model.path.exists():
        raise ModelError(f"the model '{model.path}' does not exist")
    record = model.to_json() | {
        "path": {name: _content(path, hashes) for name, path in sorted(deciding_files(model))},
        "base": model_content(model.base, hashes) if model.base else None,
    }
    if model.parts:
        record["parts"] = [[name, model_content(part, hashes)] for name, part in model.parts.items()]
    if files := script_files(model):
        told = {key: value for key, value in model.attributes[SCRIPT].items() if key not in _NOT_THE_MODEL}
        told |= {"files": {name: hashes.file(path) for name, path in files.items()}}
        if (given := given_to_loader(model)) is not None:
            told["model_path"] = given.name
        record["attributes"] = {**model.attributes, SCRIPT: told}
    return digest(record)


def _content(path: Path, hashes: Hashes) -> str:
    """The hash of a file's bytes, wherever they lie."""
    elsewhere = absent(path)
    return elsewhere.blake3 if elsewhere is not None else hashes.file(path)


def data_content(config: DataConfig, hashes: Hashes) -> Mapping[str, Any]:
    """What a data config reads: its settings without places, and the bytes of its files in the order of reading."""
    settings = config.model_dump(mode="json", exclude={"folder", "name", "user_script", "script_dir", "max_seconds"})
    files = data.data_files(config)
    if files:  # names decide how files are read and which split they are of; their place does not matter
        settings["load_dataset_config"] |= {"data_files": data.file_names(config), "data_dir": None}
        name = settings["load_dataset_config"]["data_name"]
        settings["load_dataset_config"]["data_name"] = PurePath(name).name
    code = {"code": [code_digest(module) for module in modules]} if (modules := data.plugin_modules(config)) else {}
    named = {"named": [hashes.file(path) for path in paths]} if (paths := data.named_files(config)) else {}
    return {"settings": settings, "files": [hashes.file(path) for path in files], **named, **code}


def step_key(step: Step, models: Mapping[str | None, str], hashes: Hashes) -> str:
    """The key of a step's result: the pass, its code and params, its input, the bytes it reads, its libraries.

    models: the keys of the steps before it, None for the input model.
    """
    plugin = passes.find(step.pass_name)
    if plugin is None:
        raise LookupError(f"no pass '{step.pass_name}'")  # a plan with an unknown pass has a problem and is not run
    return digest(
        {
            "pass": plugin.name,
            "version": plugin.version,
            "code": code_digest(plugin.__module__),
            "params": _without_scripts(step.params),
            "input": models[step.parent],
            **({"models": [models[None if name == "input" else name] for name in step.models]} if step.models else {}),
            "data": {name: data_content(config, hashes) for name, config in step.data.items()},
            "files": [hashes.file(path) for path in step.files],
            "libraries": library_versions(plugin.libraries, step.versions),
            "device": step.machine.device,
            **({"devices": step.machine.n_processes} if step.machine.n_processes > 1 and plugin.spreads else {}),
            # weights do not depend on what will run them; a graph and what is measured of it do
            "execution_provider": step.machine.execution_provider if plugin.produces in ("onnx", UNCHANGED) else None,
        }
    )


def _without_scripts(params: Mapping[str, Any]) -> dict[str, Any]:
    """Params without where a script lies: the bytes of its files decide."""
    return {key: value for key, value in params.items() if key not in ("user_script", "script_dir")}


def score_key(model_key: str, rows: ScoreRows, previous_key: str | None, device: str, hashes: Hashes) -> str:
    """The key of a model's scores on those rows, compared with the model whose scores have `previous_key`."""
    return digest(
        {
            "score": code_digest("olivine.evaluate"),
            "metrics": _metric_code(rows),
            "model": model_key,
            "rows": score_params(rows)
            | {"data": data_content(rows.data, hashes) if rows.data else None}
            | ({"scripts": [_script_content(script, hashes) for script in rows.scripts]} if rows.scripts else {})
            | ({"metrics": _without_place(rows), "tasks": _task_content(rows, hashes)} if rows.task_files else {}),
            "previous": previous_key,
            "device": device,
            "libraries": library_versions(_score_libraries(rows), rows.versions),
        }
    )


def _script_content(script: Script, hashes: Hashes) -> dict[str, Any]:
    """A script without its place: what is called, and the bytes of its files."""
    told = {key: value for key, value in script.to_json().items() if key not in ("user_script", "script_dir")}
    return {**told, "files": [hashes.file(path) for path in script.files]}


def _score_libraries(rows: ScoreRows) -> tuple[str, ...]:
    return (*SCORE_LIBRARIES, "lm-eval") if TASKS in rows.metrics else SCORE_LIBRARIES


def _without_place(rows: ScoreRows) -> dict[str, Any]:
    """The params of metrics without the folder of tasks, whose files decide."""
    return {
        name: {key: value for key, value in of.items() if key != "include_path"} for name, of in rows.metrics.items()
    }


def _task_content(rows: ScoreRows, hashes: Hashes) -> list[tuple[str, str]]:
    """Names below their folder and hashes of what tasks are made of."""
    folder = rows.task_folder or Path()
    files = [
        (path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name, path)
        for path in rows.task_files
    ]
    return [(name, hashes.file(path)) for name, path in files]


def timing_key(plan: Plan, models: Mapping[str | None, str]) -> str | None:
    """The key of what is timed of the input model beside the one that ships; None where nothing is to be timed.

    models: their keys, see Keys.
    """
    params, rows, places = timing_params(plan.asked), plan.score, seams(plan)
    if params is None or rows is None or not places:
        return None
    machine = rows.machine or plan.machine
    return digest(
        {
            "time": code_digest("olivine.evaluate"),
            "models": [models[seam.step] for seam in (places[0], places[-1])],
            "params": params,
            "machine": (machine.device, machine.execution_provider, machine.n_cores, machine.memory_bytes),
            "libraries": library_versions(SCORE_LIBRARIES, rows.versions),
        }
    )


def _metric_code(rows: ScoreRows) -> list[list[str]]:
    """The code of third parties' metrics that are measured; without them, nothing is imported to know it."""
    if not rows.metrics:
        return []
    from olivine.evaluate import metric_modules

    return [[module, code_digest(module)] for module in metric_modules(rows.metrics)]


def materialize_key(model_key: str) -> str:
    """The key of a model's weights written out."""
    return digest({"materialize": code_digest("olivine.models.materialize"), "model": model_key})


def addressed_key(adapter_key: str, base: str, revision: str | None) -> str:
    """The key of an adapter that names its base."""
    code = code_digest("olivine.models.adapter")
    return digest({"address": code, "adapter": adapter_key, "base": base, "revision": revision})


def contents_key(entry_key: str) -> str:
    """The key of what the files of a result hold, as their headers tell."""
    return digest({"contents": code_digest("olivine.models.contents"), "entry": entry_key})


def fetch_key(plan: Plan) -> str:
    """The key of the place where an input model from the hub lies."""
    return digest(
        {
            "fetch": plan.hub_name,
            "revision": plan.hub_revision,
            "trusted": trusts_code(plan),
            "code": code_digest("olivine.models.materialize"),  # it says which files are part of a model
        }
    )


def trusts_code(plan: Plan) -> bool:
    """Whether the config lets the input model bring its own Python."""
    return bool(plan.workflow.get("input_model", {}).get("load_kwargs", {}).get("trust_remote_code", False))


def score_params(rows: ScoreRows) -> dict[str, Any]:
    """The params of a score job."""
    return {
        "data": absolute(rows.data).model_dump(mode="json") if rows.data else None,
        "part": rows.part,
        "eval_size": rows.eval_size,
        "seed": rows.seed,
        "target": rows.target,
        "max_rows": rows.max_rows,
        "on_text": rows.on_text,
        **({"on_outputs": True} if rows.on_outputs else {}),
        **({"sizes": dict(rows.sizes)} if rows.sizes else {}),
        "metrics": dict(rows.metrics),
        **({"scripts": [script.to_json() for script in rows.scripts]} if rows.scripts else {}),
        **({"n_few": rows.n_few} if rows.n_few is not None else {}),
    }


def absolute(config: DataConfig) -> DataConfig:
    """The data config as it reads from any current folder."""
    return config.model_copy(update={"folder": str(Path(config.folder).absolute())})


@dataclass(frozen=True)
class Seam:
    """A model that is scored.

    name: what tables call it: "base", or the step's name. step: the step that made it; None for the input model. No two
    seams have one step, while a user's pass may be named as the program names things. previous: what it is compared
    with.
    """

    name: str
    step: str | None
    previous: "Seam | None"


def seams(plan: Plan) -> list[Seam]:
    """What is scored, in order: the input model (as inserted steps made it readable), then every step's result."""
    if plan.score is None or not plan.quality.enabled:
        return []
    implicit = [step.name for step in plan.steps if step.implicit and step.parent is None]
    base = Seam("base", implicit[0] if implicit else None, None)
    nearest: dict[str | None, Seam] = {None: base, base.step: base}
    found = [base]
    for step in plan.steps:
        if step.implicit:
            nearest[step.name] = nearest[step.parent]
            continue
        if step.produces != UNCHANGED:  # else its result was scored when it was made
            found.append(Seam(step.name, step.name, nearest[step.parent]))
            nearest[step.name] = found[-1]
    return found


@dataclass(frozen=True)
class Keys:
    """The keys of a whole plan, by step name, None for the input model. scores: by the step of their seam."""

    models: Mapping[str | None, str]
    scores: Mapping[str | None, str]


def plan_keys(plan: Plan, input_model: Model, hashes: Hashes) -> Keys:
    """Every key is known before anything runs: that of a step covers all steps before it."""
    models: dict[str | None, str] = {None: model_content(input_model, hashes)}
    for step in plan.steps:
        models[step.name] = step_key(step, models, hashes)
    scores: dict[str | None, str] = {}
    for seam in seams(plan):
        if plan.score is not None:
            previous = scores[seam.previous.step] if seam.previous else None
            scores[seam.step] = score_key(models[seam.step], plan.score, previous, device_of_scores(plan), hashes)
    return Keys(models, scores)


def library_versions(libraries: Iterable[str], versions: Mapping[str, str]) -> dict[str, list[str]]:
    """Versions of libraries where a job runs; one that is published under several names counts with each of them."""
    return {name: [versions.get(variant, "none") for variant in _VARIANTS.get(name, (name,))] for name in libraries}


def device_of_scores(plan: Plan) -> str:
    """The device on which models are measured."""
    machine = plan.score.machine if plan.score is not None else None
    return (machine or plan.machine).device


def cached(plan: Plan) -> frozenset[str]:
    """What of a plan is in its cache: "NAME" for the result of a step, "score:NAME" for the scores of a seam.

    Touches nothing and stays quick: a large input file that was never hashed here means that nothing is cached.
    """
    cache = Cache(plan.cache_dir)
    model = plan.input_model or fetched_model(cache, plan)
    if model is None or not is_folder(plan.cache_dir / "steps"):
        return frozenset()
    try:
        keys = plan_keys(plan, model, Hashes(plan.cache_dir, remember_only=True))
    except (OlivineError, OSError, LookupError):  # a missing file or unknown pass is a problem of the plan, told there
        return frozenset()
    names = {name: key for name, key in keys.models.items() if name is not None}
    names |= {f"score:{seam.name}": keys.scores[seam.step] for seam in seams(plan)}
    if (timing := timing_key(plan, keys.models)) is not None:
        names[f"time:{seams(plan)[-1].name}"] = timing
    return frozenset(name for name, key in names.items() if cache.has(key))


def fetched_model(cache: Cache, plan: Plan) -> Model | None:
    """Where the input model from the hub lies, if a run has fetched it and it is still there."""
    entry = cache.peek(fetch_key(plan)) if plan.hub_name else None
    if entry is None:
        return None
    model = Model.from_json(unpack(entry.result["model"], entry.content, None))
    return model if (model.path / "config.json").is_file() else None

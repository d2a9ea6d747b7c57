"""Plans over the fake passes, in this process or (as a program) in one of their own."""

# ruff: noqa: T201 - tests read what is printed

import json
import sys
from pathlib import Path

from olivine.config.schema import DataConfig, Quality
from olivine.errors import OlivineError
from olivine.models import Model
from olivine.passes import Estimate, Machine, passes
from olivine.workflow.engine import run
from olivine.workflow.events import Event, Progress, StepDone, StepStarted, Warned
from olivine.workflow.steps import Plan, ScoreRows, Step

MACHINE = Machine("cpu", "CPUExecutionProvider", 2**34, 2**36, 2, offline=True)


def input_model(folder: Path) -> Model:
    folder.mkdir(exist_ok=True)
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights" * 100)
    return Model("hf", folder)


def rows(folder: Path) -> ScoreRows:
    file = folder / "rows.jsonl"
    if not file.exists():
        file.write_text('{"phrase": "oh", "tone": "joy"}\n')
    config = DataConfig(
        name="rows",
        folder=str(folder),
        load_dataset_config={"data_name": "json", "data_files": "rows.jsonl"},
        pre_process_data_config={"text_template": "{phrase} {tone}"},
    )
    return ScoreRows(config, "eval", 0.5, 0, "tone", 100)


def plan(folder: Path, *steps: tuple, output: str = "out", score: bool = False, quality: dict | None = None, **changes):
    """steps: (name, pass, params) in a row, each taking the result of the one before."""
    made = []
    for name, pass_name, params in steps:
        plugin = passes.find(pass_name)
        full = plugin.Params.model_validate(params).model_dump(mode="json")
        made.append(Step(name, plugin.name, full, made[-1].name if made else None, MACHINE, produces=plugin.produces))
    fields = {
        "steps": tuple(made),
        "problems": (),
        "translated": (),
        "estimate": Estimate(),
        "input_model": input_model(folder / "base"),
        "hub_name": None,
        "hub_revision": None,
        "score": rows(folder) if score else None,
        "quality": Quality(**(quality or {})),
        "cache_dir": folder / "cache",
        "output_dir": folder / output,
        "machine": MACHINE,
        "workflow": {"passes": {name: {"type": kind, **params} for name, kind, params in steps}},
    }
    return Plan(**(fields | changes))


def loud(event: Event) -> None:
    """A listener that a test can read."""
    match event:
        case StepStarted():
            print("started", event.step, flush=True)
        case Progress():
            print("progress", event.step, event.done, flush=True)
        case StepDone():
            print("done", event.step, "cached" if event.is_cached else event.seconds, flush=True)
        case Warned():
            print("warning", event.step, event.message, flush=True)


def main() -> int:
    """Run steps given as JSON: FOLDER OUTPUT STEPS [FILE SIZE LIMIT]."""
    if len(sys.argv) > 4:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
    try:
        result = run(plan(Path(sys.argv[1]), *json.loads(sys.argv[3]), output=sys.argv[2]), loud)
    except OlivineError as error:
        print(f"olivine: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(result.to_json()))
    heavy = {"torch", "numpy", "transformers", "onnx_ir", "datasets", "onnxruntime", "peft"} & set(sys.modules)
    assert not heavy, heavy
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Evaluations until a search meets its goals, and the time of the whole command, beside the peer's on the same config.

    python benchmarks/search.py [--seeds 5] [--samplers tpe,random,sequential] [--peer PYTHON] [--no-peer] [--smoke]

A graph of matrix products is quantized in blocks: bits, block size and symmetry give 20 models, of which those in 4
bits with blocks of 16 are small enough and near enough to the graph. One config is read by both: the values, sampler
and seed, the goals, and a script that measures, which notes each call. Whole commands in turns, with caches of their
own. Neither ends before all its trials (the peer's stop_when_goals_met ends with models that miss them): what is told
is how many models and seconds it took until the first that meets the goals, and the seconds of all.

The peer is olive-ai 0.9.3: 0.13.0 stops at any custom metric, as it cannot write that it has no backend.
"""

import argparse
import json
import os
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path

from _machine import RESULTS, ROOT, environment, measured, median, olive_python

WORK = ROOT / ".bench" / "search"
CALLS = "OLIVINE_BENCH_CALLS"  # the file of the script's notes
SCRIPT = """
import json, os, time
import numpy as np
import onnx
import onnxruntime

def measure(model, device=None, execution_providers=None):
    path = str(model.model_path)
    if os.path.isdir(path):
        path = next(os.path.join(path, name) for name in sorted(os.listdir(path)) if name.endswith(".onnx"))
    kept = np.load(os.path.join(os.path.dirname(os.path.abspath(__file__)), "reference.npz"))
    given, = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": kept["x"]})
    error = float(np.linalg.norm(given - kept["y"]) / np.linalg.norm(kept["y"]))
    graph = onnx.load(path).graph
    used = {name for node in graph.node for name in node.input}
    size = sum(onnx.numpy_helper.to_array(one).nbytes for one in graph.initializer if one.name in used)
    told = {"error": error, "megabytes": size / 1e6}
    with open(os.environ["OLIVINE_BENCH_CALLS"], "a") as file:
        file.write(json.dumps({**told, "time": time.time()}) + "\\n")
    return told
"""
VALUES = {"bits": [4, 8], "block_size": [16, 32, 64, 128, 256], "is_symmetric": [True, False]}


OLIVE = (
    "olive-ai==0.9.3",
    "huggingface_hub==0.36.2",
    f"onnxruntime=={version('onnxruntime')}",
    "optuna",
    "tokenizers==0.22.2",
)
OLIVE += ("torch==2.13.0", "transformers==4.57.6", "requests")


def make_graph(folder: Path, width: int, n_layers: int) -> Path:
    """A graph of so many products with a ReLU between them, and what it gives on some rows."""
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = [random.standard_normal((width, width)).astype(np.float32) * (2 / width) ** 0.5 for _ in range(n_layers)]
    tensors = [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)]
    nodes = []
    for index in range(n_layers):
        nodes.append(
            helper.make_node("MatMul", [f"a{index}" if index else "x", f"w{index}"], [f"m{index}"], f"product{index}")
        )
        nodes.append(helper.make_node("Relu", [f"m{index}"], [f"a{index + 1}"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width]) for name in ("x", f"a{n_layers}")]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], tensors)
    path = folder / "given" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    rows = random.standard_normal((64, width)).astype(np.float32)
    (answers,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": rows})
    np.savez(folder / "reference.npz", x=rows, y=answers)
    (folder / "measure.py").write_text(SCRIPT, encoding="utf-8")
    return path


def config_of(folder: Path, graph: Path, sampler: str, seed: int, goals: dict[str, float]) -> dict:
    """The search, as both tools read it."""
    values = {
        name: {"olive_parameter_type": "SearchParameter", "type": "Categorical", "support": support}
        for name, support in VALUES.items()
    }
    sub_types = [
        {"name": name, "priority": number, "higher_is_better": False, "goal": {"type": "threshold", "value": value}}
        for number, (name, value) in enumerate(goals.items(), 1)
    ]
    script = {"user_script": str(folder / "measure.py"), "evaluate_func": "measure"}
    settings = {"max_samples": 20} | ({"seed": seed} if sampler != "sequential" else {})
    return {
        "input_model": {"type": "ONNXModel", "model_path": str(graph)},
        "evaluators": {
            "own": {"metrics": [{"name": "own", "type": "custom", "sub_types": sub_types, "user_config": script}]}
        },
        "evaluator": "own",
        "passes": {"quantize": {"type": "OnnxBlockWiseRtnQuantization", **values}},
        "search_strategy": {
            "execution_order": "joint",
            "sampler": sampler,
            "sampler_config": settings,
        },
    }


def searched(python: str, module: str, config: dict, place: Path, goals: dict[str, float]) -> dict:
    """One whole command: its seconds, how often the script was called until the goals were met, and in all."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    path, calls = place.with_suffix(".json"), place / "calls.jsonl"  # a script runs beside its config
    path.write_text(
        json.dumps(config | {"cache_dir": str(place / "cache"), "output_dir": str(place / "out")}, indent=1)
    )
    os.environ[CALLS], started = str(calls), time.time()
    found = measured([python, "-m", module, "run", "--config", str(path)])
    told = [json.loads(line) for line in calls.read_text().splitlines()] if calls.is_file() else []
    met = [number for number, one in enumerate(told) if all(one[name] <= value for name, value in goals.items())]
    if found["exit"] or not met:
        raise SystemExit(f"{module} ended with {found['exit']} and {len(told)} calls:\n{found['output']}")
    numbers = [(round(one["error"], 6), round(one["megabytes"], 3)) for one in told]
    return {
        **{key: found[key] for key in ("seconds", "cpu_seconds", "peak_gb")},
        "calls": len(told),
        "models": len(set(numbers)) - 1,  # without the graph itself
        "models_to_goal": len(set(numbers[: met[0] + 1])) - 1,
        "seconds_to_goal": round(told[met[0]]["time"] - started, 2),
    }


def goals_of(folder: Path, graph: Path) -> dict[str, float]:
    """Goals that blocks of 16 in 4 bits meet and no other model: between the numbers of what was made with ours."""
    from olivine import load_config, run

    numbers = {}
    for bits, block in ((4, 16), (4, 32), (8, 256)):
        os.environ[CALLS] = str(folder / "trial.jsonl")
        config = config_of(folder, graph, "sequential", 1, {"error": 1e9, "megabytes": 1e9})
        config["passes"]["quantize"] |= {"bits": bits, "block_size": block, "is_symmetric": True}
        config |= {"search_strategy": False, "cache_dir": str(folder / "cache"), "output_dir": str(folder / "out")}
        path = folder / "trial.json"
        path.write_text(json.dumps(config))
        run(load_config(path))
        numbers[bits, block] = json.loads((folder / "trial.jsonl").read_text().splitlines()[-1])
    error = (numbers[4, 16]["error"] + numbers[4, 32]["error"]) / 2
    return {"error": error, "megabytes": (numbers[4, 16]["megabytes"] + numbers[8, 256]["megabytes"]) / 2}


def main() -> None:
    """Every sampler and seed with both tools in turns; the result is written after all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samplers", default="tpe,random,sequential")
    parser.add_argument("--peer", help="a Python that has the peer; else one is made under .bench")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="a tiny graph, one seed; writes nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / "search.json")
    given = parser.parse_args()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    graph = make_graph(WORK, *((256, 2) if given.smoke else (1024, 8)))
    goals = goals_of(WORK, graph)
    tools = {"olivine": sys.executable}
    if not given.no_peer:
        tools["olive"] = given.peer or olive_python("olive-search", OLIVE)
    seeds, result = range(1, 2 if given.smoke else given.seeds + 1), {}
    for sampler in given.samplers.split(",")[: 1 if given.smoke else None]:
        runs: dict[str, list[dict]] = {tool: [] for tool in tools}
        for seed in seeds:
            config = config_of(WORK, graph, sampler, seed, goals)
            for tool, python in tools.items():
                runs[tool].append(searched(python, tool, config, WORK / f"{tool}-{sampler}-{seed}", goals))
                print(sampler, seed, tool, runs[tool][-1], flush=True)
        result[sampler] = {
            tool: {key: median([one[key] for one in rounds]) for key in rounds[0]} | {"runs": rounds}
            for tool, rounds in runs.items()
        }
    if not given.smoke:
        given.out.write_text(json.dumps({"environment": environment(), "goals": goals, **result}, indent=2) + "\n")
        print(f"written: {given.out}")


if __name__ == "__main__":
    main()

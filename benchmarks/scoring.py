"""`olivine evaluate` of one model as a Hugging Face folder and as ONNX folders of it: whole commands, 1,000 rows.

    python benchmarks/scoring.py [--rows 1000] [--rounds 3] [--out FILE] [--smoke]

The demo's model: SmolLM2-135M that names the tone of phrases, trained, merged and built by `olivine run` (what
`make demo` made is taken from its cache). The rows are the demo's 760 phrases, going round. Each number is the median
of whole processes, from the start of the command to its end; the folders take turns, so that a machine that slows down
slows all of them. The goal is at most twice the time of transformers.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from itertools import cycle, islice
from pathlib import Path

from _machine import RESULTS, ROOT, environment, measured, median

TONE = ROOT / "examples" / "tone"
WORK = ROOT / ".bench" / "scoring"
HF = "transformers"
# name in the result -> precision of the ONNX folder; None is the merged checkpoint
FOLDERS = {HF: None, "ONNX, int4": "int4", "ONNX, fp32": "fp32"}


def config_of(precision: str | None, rows: Path, n_rows: int, n_steps: int | None) -> dict:
    """The demo's workflow up to that folder, scored on `rows` when it is evaluated."""
    config = json.loads((TONE / "olive-config.json").read_text(encoding="utf-8"))
    for goals in ("evaluator", "evaluators", "search_strategy"):  # no folder is held to anything, none is looked for
        config.pop(goals, None)
    for data in config["data_configs"]:
        files = data["load_dataset_config"]["data_files"]
        data["load_dataset_config"]["data_files"] = str(ROOT / files)
    config["data_configs"].append(
        {
            **config["data_configs"][0],
            "name": "rows",
            "load_dataset_config": {"data_name": "json", "data_files": str(rows), "split": "train"},
        }
    )
    config["passes"].pop("builder")
    if precision is not None:
        config["passes"]["builder"] = {"type": "ModelBuilder", "precision": precision}
    if n_steps is not None:
        config["passes"]["lora"]["training_args"]["max_steps"] = n_steps
    config["input_model"]["model_path"] = str(ROOT / config["input_model"]["model_path"])
    config["quality"] = {"data_config": "rows", "max_samples": n_rows}
    return config | {"cache_dir": str(ROOT / config["cache_dir"])}


def write_rows(path: Path, n_rows: int) -> None:
    """The demo's phrases, held-out ones first, going round."""
    phrases = [
        line for name in ("heldout", "train") for line in (TONE / f"{name}.jsonl").read_text("utf-8").splitlines()
    ]
    path.write_text("".join(f"{line}\n" for line in islice(cycle(phrases), n_rows)), encoding="utf-8")


def olivine(*arguments: str) -> list[str]:
    """The command as it is typed."""
    return [sys.executable, "-m", "olivine", *arguments]


def make(name: str, config: dict) -> tuple[Path, Path]:
    """The folder of that name, and the config that it was made with."""
    place = WORK / (FOLDERS[name] or "merged")
    path = place.with_suffix(".json")
    path.write_text(json.dumps(config | {"output_dir": str(place)}, indent=2), encoding="utf-8")
    print("making", name, flush=True)
    subprocess.run(olivine("run", "--config", str(path), "--set", "quality.enabled=false"), check=True, cwd=ROOT)
    return place / "model", path


def evaluated(folder: Path, config: Path) -> dict:
    """Seconds and memory of one whole `olivine evaluate`, and its scores."""
    command, answer = olivine("evaluate", str(folder), "--config", str(config), "--json"), WORK / "scores.json"
    found = measured(["sh", "-c", f"exec {shlex.join(command)} > {shlex.quote(str(answer))}"])
    if found["exit"]:
        raise SystemExit(f"olivine evaluate failed:\n{found['output']}")
    scores = json.loads(answer.read_text(encoding="utf-8"))["scores"]
    kept = ("n_rows", "n_tokens", "label_accuracy", "label_accuracy_standard_error", "loss", "n_other_tokens")
    return {**{key: found[key] for key in ("seconds", "peak_gb")}, **{k: scores.get(k) for k in kept}}


def summary(runs: dict[str, list[dict]]) -> dict:
    """Medians of each folder, and how often the time of transformers it takes."""
    told = {}
    for name, rounds in runs.items():
        medians = {key: median([one[key] for one in rounds]) for key in ("seconds", "peak_gb")}
        last = {key: value for key, value in rounds[-1].items() if key not in medians and value is not None}
        told[name] = medians | last
    for numbers in told.values():
        numbers["times the time of transformers"] = round(numbers["seconds"] / told[HF]["seconds"], 2)
    return told


def main() -> None:
    """Make the folders, then evaluate them in turns; the result is written at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "scoring.json")
    parser.add_argument("--smoke", action="store_true", help="two steps, 24 rows, one round, to try the script")
    given = parser.parse_args()
    n_rows, n_rounds, n_steps = (24, 1, 2) if given.smoke else (given.rows, given.rounds, None)
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    if not any((ROOT / ".demo").glob("*.gguf")):
        subprocess.run([sys.executable, str(TONE / "prepare.py"), str(ROOT / ".demo")], check=True, cwd=ROOT)
    write_rows(WORK / "rows.jsonl", n_rows)
    made = {name: make(name, config_of(kind, WORK / "rows.jsonl", n_rows, n_steps)) for name, kind in FOLDERS.items()}
    runs: dict[str, list[dict]] = {name: [] for name in made}
    for number in range(n_rounds):
        for name, (folder, config) in made.items():
            runs[name].append(evaluated(folder, config))
            print(number, name, runs[name][-1], flush=True)
    result = {"environment": environment(), "rows": n_rows, "rounds": n_rounds, "median": summary(runs), "runs": runs}
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["median"], indent=2))


if __name__ == "__main__":
    main()

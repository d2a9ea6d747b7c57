"""Rows to training samples: ours beside Olive's own path, on the same generated JSON lines and the same tokenizer.

    python benchmarks/prepare.py [--rows 50000] [--runs 3] [--large 1000000] [--no-peer]

Phrases of 8 to 40 words with a tone, the 2024 template, `line-by-line`, no padding, everything trained: the form that
both can do. The peer is `get_training_dataset` of olive-ai 0.13.0, what its LoRA pass calls. `seconds` is the
preparation alone, `process` the whole process with its imports; each run begins with empty caches, in turns.
`--large` is ours alone, at two sizes, to show that memory does not grow with the rows, and with the prompt masked.
Writes benchmarks/results/prepare.json.
"""

import argparse
import json
import os
import random
import shutil
import sys
from pathlib import Path

from _machine import ROOT, last_json, measured, median, olive_python, write

WORK = ROOT / ".bench" / "prepare"
MODEL = ROOT / ".demo" / "SmolLM2-135M-Instruct.Q4_1.gguf"
TEMPLATE = "### Text: {phrase}\n### The tone is:\n{tone}"
TOKENIZER = """
import json, sys
from pathlib import Path
from transformers import AutoTokenizer
source, folder = Path(sys.argv[1]), Path(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
folder.mkdir(parents=True)
tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
special = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token, "pad_token": tokenizer.eos_token}
# in the words that both major versions of transformers read
config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192, **special}
(folder / "tokenizer_config.json").write_text(json.dumps(config))
(folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": len(tokenizer)}))
"""
OURS = """
import json, resource, sys, time
from pathlib import Path
from transformers import AutoTokenizer
from olivine.config.schema import DataConfig
from olivine.data import prepare
rows, tokenizer, cache, template, train_on = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(tokenizer)
text = {"text_template": template, "strategy": "line-by-line", "max_seq_len": 128, "train_on": train_on}
data = {"data_name": "json", "data_files": rows}
config = DataConfig.model_validate({"name": "rows", "load_dataset_config": data, "pre_process_data_config": text})

def anonymous():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1e6
    return 0.0

before, most = anonymous(), 0.0

def watch(done, total, **metrics):
    global most
    most = max(most, anonymous() - before)

started = time.perf_counter()
prepared = prepare(config, tokenizer, Path(cache), watch)
streamed = time.perf_counter() - started
samples = prepared.samples()
seconds = time.perf_counter() - started
numbers = samples.statistics
laid_out = anonymous() - before
started = time.perf_counter()
prepare(config, tokenizer, Path(cache)).samples()
again = time.perf_counter() - started
print(json.dumps({
    "seconds": seconds, "again": again, "n_samples": len(samples), "n_tokens": numbers.n_tokens,
    "first": samples[0]["input_ids"], "streaming_gb": most, "laid_out_gb": laid_out,
}))
"""
OLIVE = """
import json, sys, time
from olive.data.config import DataConfig
from olive.passes.pytorch.train_utils import get_training_dataset
rows, tokenizer, cache, template, train_on = sys.argv[1:]
config = DataConfig(
    name="rows", type="HuggingfaceContainer",
    load_dataset_config={
        "type": "huggingface_dataset", "params": {"data_name": "json", "data_files": rows, "split": "train"}},
    pre_process_data_config={"type": "text_generation_huggingface_pre_process", "params": {
        "model_name": tokenizer, "text_template": template, "strategy": "line-by-line", "max_seq_len": 128,
        "pad_to_max_len": False}},
)
started = time.perf_counter()
dataset = get_training_dataset(config)
seconds = time.perf_counter() - started
n_tokens = sum(len(row) for row in dataset.with_format(None)["input_ids"]) if len(dataset) <= 200_000 else None
print(json.dumps({"seconds": seconds, "n_samples": len(dataset), "n_tokens": n_tokens,
                  "first": dataset[0]["input_ids"].tolist()}))
"""


def write_rows(path: Path, count: int) -> Path:
    """Phrases from the words of the tone example, each with its tone."""
    if path.is_file():
        return path
    lines = (ROOT / "examples" / "tone" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    words = [word for row in rows for word in row["phrase"].split()]
    tones = sorted({row["tone"] for row in rows})
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            phrase = " ".join(draw.choices(words, k=draw.randint(8, 40)))
            file.write(json.dumps({"phrase": phrase, "tone": draw.choice(tones)}) + "\n")
    return path


def one(python: str, code: str, rows: Path, train_on: str = "all") -> dict:
    """One preparation with empty caches, in a process of its own."""
    cache = WORK / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    script = WORK / "script.py"
    script.write_text(code, encoding="utf-8")
    variables = [f"{name}={cache}" for name in ("HF_HOME", "HF_DATASETS_CACHE")]
    variables += ["HF_HUB_OFFLINE=1", "TQDM_DISABLE=1", "OMP_NUM_THREADS=2"]
    arguments = [str(rows), str(WORK / "tokenizer"), str(cache), TEMPLATE, train_on]
    run = measured(["env", *variables, python, str(script), *arguments])
    found = last_json(run["output"])
    if run["exit"] or not found:
        raise SystemExit(run["output"])
    shutil.rmtree(cache, ignore_errors=True)
    return found | {"process": run["seconds"], "cpu_seconds": run["cpu_seconds"], "peak_gb": run["peak_gb"]}


def summary(runs: list[dict], n_rows: int) -> dict:
    """Medians of what was measured, and rows a second."""
    keys = ("seconds", "again", "process", "cpu_seconds", "peak_gb", "streaming_gb", "laid_out_gb")
    numbers = {key: median([run[key] for run in runs]) for key in keys if key in runs[0]}
    return {"rows": n_rows, "runs": len(runs), "rows_per_second": round(n_rows / numbers["seconds"]), **numbers}


def side_by_side(rows: Path, n_rows: int, n_runs: int, peer: str | None, python: str) -> dict:
    """Ours and the peer's in turns, on a quiet or a busy machine alike."""
    ours, theirs = [], []
    for _ in range(n_runs):
        ours.append(one(python, OURS, rows))
        print("ours", ours[-1] | {"first": None})
        if peer is not None:
            theirs.append(one(peer, OLIVE, rows))
            print("peer", theirs[-1] | {"first": None})
    found = {"ours": summary(ours, n_rows)}
    if theirs:
        found["peer"] = summary(theirs, n_rows)
        found["faster"] = round(found["peer"]["seconds"] / found["ours"]["seconds"], 1)
        # The peer puts spaces round the end token: one token more a row, in all else the same tokens.
        found["tokens"] = {"ours": ours[0]["n_tokens"], "peer": theirs[0]["n_tokens"]}
        found["first_sample"] = {"ours": ours[0]["first"], "peer": theirs[0]["first"]}
    return found


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--large", type=int, default=1_000_000, help="rows of ours alone; 0: none")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--model", type=Path, default=MODEL, help="a .gguf file whose tokenizer is used")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(WORK / "tokenizer", ignore_errors=True)
    made = measured([sys.executable, "-c", TOKENIZER, str(options.model), str(WORK / "tokenizer")])
    if made["exit"]:
        raise SystemExit(made["output"])
    peer = None if options.no_peer else olive_python()
    rows = write_rows(WORK / f"rows-{options.rows}.jsonl", options.rows)
    result = {"side_by_side": side_by_side(rows, options.rows, options.runs, peer, sys.executable)}
    if options.large:
        for n_rows in (options.large // 10, options.large):
            rows = write_rows(WORK / f"rows-{n_rows}.jsonl", n_rows)
            result[f"ours, {n_rows:,} rows"] = summary([one(sys.executable, OURS, rows)], n_rows)
        masked = one(sys.executable, OURS, rows, "completion")
        result[f"ours, {options.large:,} rows, completion only"] = summary([masked], options.large)
    write("prepare", result | {"load_average": [round(load, 1) for load in os.getloadavg()]})


if __name__ == "__main__":
    main()

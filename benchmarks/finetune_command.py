"""LoRA on one NVIDIA GPU as it is typed: `olivine run` from a checkpoint on disk to an adapter, beside Trainer + peft.

    python benchmarks/finetune_command.py [--only NAME ...] [--smoke] [--out FILE]

Random checkpoints of Phi-3-mini's and Qwen3-4B's shape and random words as text. Each row is one whole process, from
its start to its end: wall time, the tokens a second of its training as the run itself reports them (from the first step
to the last, the compilers' time included), the peak memory of the GPU, and what `olivine plan` had said of it before.
The peer is Trainer and peft as olive-ai 0.13.0 sets them up (float32 adapters, one row a micro-batch, checkpointing,
rank 64 on qkv and o), in a process of its own on the same checkpoint and rows; its tokens a second leave out its first
two steps.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _machine import RESULTS, ROOT, environment, last_json

WORK = ROOT / ".bench" / "command"
SMOKE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SHAPES: dict[str, dict[str, Any]] = {
    "phi3": {
        "class": "Phi3Config",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32064,
        "original_max_position_embeddings": 4096,
        "sliding_window": None,
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
}
LONG = {"strategy": "join", "max_seq_len": 2048}
PHRASES = {"strategy": "line-by-line", "max_seq_len": 256}
# name -> shape, pass, how rows are cut, rows of a step, steps, other training_args
CONFIGURATIONS: dict[str, tuple[str, str, dict[str, Any], int, int, dict[str, Any]]] = {
    "LoRA, Phi-3-mini's shape, 4 x 2,048 tokens": ("phi3", "LoRA", LONG, 4, 100, {}),
    "LoRA, Phi-3-mini's shape, 16 phrases": ("phi3", "LoRA", PHRASES, 16, 200, {}),
    "QLoRA, Phi-3-mini's shape, 4 x 2,048 tokens": ("phi3", "QLoRA", LONG, 4, 60, {}),
    "QLoRA, Phi-3-mini's shape, 2,048 tokens, recomputed": (
        "phi3",
        "QLoRA",
        LONG,
        1,
        10,
        {"gradient_checkpointing": True},
    ),
    "LoRA, Qwen3-4B's shape, 4 x 2,048 tokens": ("qwen3", "LoRA", LONG, 4, 60, {}),
}
PEER_NAME = "Trainer + peft as Olive sets them up, Phi-3-mini's shape, 4 x 2,048 tokens"
PEER = """
import json, sys, time
started = time.perf_counter()
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, default_data_collator
source, text, output, n_steps = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(source)
ids = tokenizer("\\n".join(json.loads(line)["text"] for line in open(text)))["input_ids"]
rows = [{"input_ids": ids[at : at + 2048], "labels": ids[at : at + 2048]} for at in range(0, len(ids) - 2048, 2048)]
device = "cuda" if torch.cuda.is_available() else "cpu"
model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, device_map=device)
config = LoraConfig(r=64, lora_alpha=16, target_modules=["qkv_proj", "o_proj"], task_type="CAUSAL_LM")
model = get_peft_model(model, config)
for parameter in model.parameters():
    if parameter.requires_grad:
        parameter.data = parameter.data.float()
model.enable_input_require_grads()
n_steps = int(n_steps)
arguments = TrainingArguments(output, per_device_train_batch_size=1, gradient_accumulation_steps=4, max_steps=n_steps,
    gradient_checkpointing=True, report_to="none", save_strategy="no", logging_steps=10, learning_rate=2e-4,
    disable_tqdm=True, bf16=device == "cuda")
begins = []
real = Trainer.training_step
def step(self, *args, **kwargs):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begins.append(time.perf_counter())
    return real(self, *args, **kwargs)
Trainer.training_step = step
Trainer(model=model, args=arguments, train_dataset=rows, data_collator=default_data_collator).train()
model.save_pretrained(output)
counted = begins[8:]
print(json.dumps({
    "tokens_per_second": 2048 * (len(counted) - 1) / (counted[-1] - counted[0]),
    "device_peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
}))
"""


def make_model(name: str, *, smoke: bool) -> Path:
    """A checkpoint of random bfloat16 weights; the layers differ, so that no cache of any kind helps."""
    import torch
    import transformers

    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import tiny_tokenizer

    folder = WORK / name
    if (folder / "ready").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer(folder)
    shape = {**SHAPES[name], **(SMOKE if smoke else {})}
    config = getattr(transformers, shape.pop("class"))(
        **shape, max_position_embeddings=4096, bos_token_id=0, eos_token_id=1, pad_token_id=2, dtype="bfloat16"
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="2GB")
    (folder / "ready").touch()
    del model, tokenizer
    return folder


def make_rows(n_tokens: int) -> tuple[Path, Path]:
    """Random words: one long text a row for rows of 2,048 tokens, and phrases of 20 to 60 tokens."""
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "lazy",
        "dog",
        "house",
        "dark",
        "lovely",
        "day",
        "phrase",
        "tone",
        "question",
    ]
    chosen, long_text, phrases = random.Random(0), WORK / "long.jsonl", WORK / "phrases.jsonl"
    if not phrases.is_file():
        with long_text.open("w") as file:
            for _ in range(n_tokens // 1000):
                file.write(json.dumps({"text": " ".join(chosen.choices(words, k=600))}) + "\n")
        with phrases.open("w") as file:
            for _ in range(4000):
                file.write(json.dumps({"text": " ".join(chosen.choices(words, k=chosen.randint(10, 26)))}) + "\n")
    return long_text, phrases


def config_of(name: str, model: Path, rows: tuple[Path, Path], *, smoke: bool) -> Path:
    """The config that a user would write."""
    _, kind, form, n_rows, n_steps, others = CONFIGURATIONS[name]
    shutil.rmtree(WORK / "out", ignore_errors=True)
    subprocess.run(["rm", "-rf", str(WORK / "cache")], check=True)  # entries of a cache are read-only
    config = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "data_configs": [
            {
                "name": "rows",
                "type": "HuggingfaceContainer",
                "load_dataset_config": {"data_name": "json", "data_files": str(rows[form is PHRASES])},
                "pre_process_data_config": {"text_template": "{text}", "chat_template": False, **form},
            }
        ],
        "passes": {
            "tune": {
                "type": kind,
                "r": 16,
                "train_data_config": "rows",
                "target_modules": "all-linear",
                "training_args": {
                    "per_device_train_batch_size": n_rows,
                    "max_steps": 4 if smoke else n_steps,
                    "save_strategy": "no",
                    **others,
                },
            }
        },
        "quality": {"enabled": False},
        "cache_dir": str(WORK / "cache"),
        "output_dir": str(WORK / "out"),
    }
    if not smoke:
        config["systems"] = {"here": {"type": "LocalSystem", "accelerators": [{"device": "gpu"}]}}
        config["host"] = "here"
    path = WORK / "config.json"
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    return path


def olivine(command: str, config: Path) -> tuple[dict[str, Any], str]:
    """What `olivine COMMAND` prints as JSON, and what it says beside it."""
    program = [sys.executable, "-m", "olivine", command, "--config", str(config), "--json"]
    paths = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    environ = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=WORK, env=environ)
    try:
        return json.loads(done.stdout), done.stderr
    except ValueError:
        return {}, done.stderr


def measure(name: str, rows: tuple[Path, Path], *, smoke: bool) -> dict[str, Any]:
    """One configuration: the plan's word, then the run."""
    config = config_of(name, make_model(CONFIGURATIONS[name][0], smoke=smoke), rows, smoke=smoke)
    plan, _ = olivine("plan", config)
    if plan.get("problems"):
        return {"failed": plan["problems"]}
    planned = plan["steps"][0]["estimate"] if plan.get("steps") else {}
    started = time.perf_counter()
    result, errors = olivine("run", config)
    seconds = time.perf_counter() - started
    step = next((one for one in result.get("steps", []) if one["name"] == "tune"), None)
    if step is None:
        return {"failed": errors[-1500:]}
    facts = step["facts"]
    return {
        "seconds": round(seconds, 1),
        "n_steps": CONFIGURATIONS[name][4],
        "tokens_per_second": facts.get("tokens_per_second"),
        "rows_per_second": rows_per_second(facts),
        "device_peak_gb": round(step.get("peak_device_memory_bytes", 0) / 1e9, 2),
        "planned_device_gb": round(planned.get("device_memory_bytes", 0) / 1e9, 2),
        "facts": {key: value for key, value in facts.items() if key not in ("loss_curve", "data")},
        "last_losses": facts.get("loss_curve", [])[-3:],
    }


def rows_per_second(facts: dict[str, Any]) -> float | None:
    """Rows a second, from the tokens of a row on average."""
    data = facts.get("data") or {}
    n_tokens, n_samples = data.get("n_tokens"), data.get("n_samples")
    if not n_tokens or not n_samples or not facts.get("tokens_per_second"):
        return None
    return round(facts["tokens_per_second"] / (n_tokens / n_samples), 1)


def measure_peer(rows: tuple[Path, Path], *, smoke: bool) -> dict[str, Any]:
    """The peer's whole process on the same checkpoint."""
    model = make_model("phi3", smoke=smoke)
    program = [sys.executable, "-c", PEER, str(model), str(rows[0]), str(WORK / "peer"), "8" if smoke else "100"]
    started = time.perf_counter()
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr[-1500:]}
    return {"seconds": round(time.perf_counter() - started, 1), "n_steps": 100, **last_json(done.stdout)}


def main() -> None:
    """Run what is asked for; the result is written after each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[*CONFIGURATIONS, PEER_NAME])
    parser.add_argument("--smoke", action="store_true", help="tiny models, to try the script without a GPU")
    parser.add_argument("--out", type=Path, default=RESULTS / "finetune_command.json")
    given = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    rows = make_rows(400_000 if not given.smoke else 20_000)
    result: dict[str, Any] = {"environment": environment(), "rows": {}}
    for name in given.only or [*CONFIGURATIONS, PEER_NAME]:
        is_peer = name == PEER_NAME
        told = measure_peer(rows, smoke=given.smoke) if is_peer else measure(name, rows, smoke=given.smoke)
        result["rows"][name] = told
        given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(name, json.dumps({key: value for key, value in told.items() if key != "facts"}), flush=True)


if __name__ == "__main__":
    main()

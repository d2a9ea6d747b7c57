"""Every method of fine-tuning on the tone phrases: accuracy, speed, and planned beside measured memory.

    python benchmarks/methods.py [--model FILE.gguf] [--only NAME ...] [--steps 150] [--out FILE] [--smoke]

SmolLM2-135M learns to name the tone of 600 phrases as in `make demo`, 8 rows a step, through the passes: from
the base on disk to the saved result, which is scored on the 160 held-out phrases. Learning rates are usual ones, not
tuned. "seconds" is the time of the pass with its load. On a GPU the planned peak is set beside the measured one.
"""

import gc
import json
import tempfile
import time
from importlib import import_module
from pathlib import Path

from _machine import RESULTS, environment
from accuracy import ARGUMENTS, context, make_base, options, packaged, scores

# name -> pass, learning rate, params
METHODS = {
    "LoRA": ("lora.Lora", 1e-3, {}),
    "LoRA+": ("lora.Lora", 5e-4, {"loraplus_lr_ratio": 16}),
    "PiSSA": ("lora.Lora", 1e-3, {"init_lora_weights": "pissa"}),
    "DoRA": ("dora.Dora", 1e-3, {}),
    "QLoRA": ("qlora.Qlora", 1e-3, {}),
    "LoftQ": ("loftq.Loftq", 1e-3, {}),
    "LoHa": ("loha.Loha", 1e-3, {}),
    "LoKr": ("lokr.Lokr", 5e-3, {}),
    "FullFinetune": ("full_finetune.FullFinetune", 5e-5, {}),
}


def run(name: str, base, folder: Path, n_steps: int, n_rows: int) -> dict:  # noqa: ANN001 - a Model
    """Train with one method and score what it made."""
    import torch

    place, rate, params = METHODS[name]
    module, _, cls = place.partition(".")
    step = getattr(import_module(f"olivine.passes.finetune.{module}"), cls)
    arguments = ARGUMENTS | {"learning_rate": rate, "seed": 0, "max_steps": n_steps}
    given = context(folder / "train")
    if torch.cuda.is_available():
        gc.collect()  # the method before leaves its model in cycles, which would count in the peak
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    made = step(step.Params(train_data_config="train", training_args=arguments, **params)).run(base, given)
    seconds = time.perf_counter() - started
    facts = given.report.facts
    kept = ("tokens_per_second", "n_trained_parameters", "expected_peak_bytes", "device_peak_bytes", "packed", "dtype")
    found = {"seconds": round(seconds, 1)} | {key: facts[key] for key in kept if key in facts}
    if facts.get("device_peak_bytes"):
        found["expected_over_measured"] = round(facts["expected_peak_bytes"] / facts["device_peak_bytes"], 3)
    return scores(made, folder / "score", n_rows) | found


def main() -> None:
    """One method after another; the result is written after each."""
    parser = options(__doc__, RESULTS / "methods.json")
    parser.add_argument("--only", nargs="*", choices=list(METHODS))
    given = parser.parse_args()
    import torch

    n_steps, n_rows = (2, 8) if given.smoke else (given.steps, 1000)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    result: dict = {"environment": environment(), "device": device, "steps": n_steps, "methods": {}}
    with tempfile.TemporaryDirectory() as scratch:
        base = make_base(given.model or packaged(), Path(scratch))
        for name in given.only or METHODS:
            result["methods"][name] = run(name, base, Path(scratch) / name, n_steps, n_rows)
            print(name, result["methods"][name], flush=True)
            given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

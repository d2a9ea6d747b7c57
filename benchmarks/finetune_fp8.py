"""LoRA on a base in 8 bits beside the same in bfloat16, on a real model: loss curves, label accuracy, both merges.

    python benchmarks/finetune_fp8.py [--model FILE.gguf] [--seeds 0,1,2] [--steps 150] [--jobs N] [--out FILE]

SmolLM2-135M learns to name the tone of 600 phrases as in `make demo` (see `accuracy.py`, whose rows, arguments and
scores these are), once on its base in bfloat16 and once with `base_precision: fp8`. Each adapter is scored on the 160
held-out phrases with the base that it was trained on; that of the base in 8 bits also merged into either base, by the
merge pass itself. Every training is a process of its own; `--jobs` of them run at a time (no time is measured here).
"""

import json
import multiprocessing
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from _machine import RESULTS, environment
from accuracy import ARGUMENTS, context, data_config, make_base, options, packaged, scores

PRECISIONS = {"bfloat16": "auto", "fp8": "fp8"}


def run(base, folder: Path, precision: str, seed: int, n_steps: int, n_rows: int) -> dict:  # noqa: ANN001 - a Model
    """Train, score, and merge what was trained on a rounded base."""
    from olivine.passes.finetune.lora import Lora
    from olivine.passes.finetune.merge import Merge

    place = context(folder / "train")
    arguments = ARGUMENTS | {"seed": seed, "max_steps": n_steps, "logging_steps": 5}
    params = Lora.Params(train_data_config="train", training_args=arguments, base_precision=PRECISIONS[precision])
    adapter = Lora(params).run(base, place)
    numbers = scores(adapter, folder / "score", n_rows)
    numbers["loss_curve"] = [[step, round(float(loss), 4)] for step, loss in place.report.facts["loss_curve"]]
    numbers["fused_layers"] = place.report.facts.get("fused_layers")
    if precision == "fp8":
        merging = replace(context(folder / "merge"), data={"heldout": data_config("heldout")})
        Merge(Merge.Params(eval_data_config="heldout", eval_max_rows=n_rows)).run(adapter, merging)
        numbers["merged"] = merging.report.facts["merge_scores"]
    return numbers


def mean(runs: dict[str, dict]) -> dict:
    """Over the seeds; of the last ten losses of the curve, too."""
    means = {key: statistics.mean(one[key] for one in runs.values()) for key in ("label_accuracy", "loss")}
    means["training_loss_at_the_end"] = statistics.mean(
        loss for one in runs.values() for _, loss in one["loss_curve"][-10:]
    )
    for merged in next(iter(runs.values())).get("merged", {}):
        for key in ("label_accuracy", "loss"):
            means[f"{key}, merged into {merged}"] = statistics.mean(one["merged"][merged][key] for one in runs.values())
    return means


def main() -> None:
    """Both kinds of base, seed by seed; the result is written after each."""
    parser = options(__doc__, RESULTS / "finetune_fp8.json")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    import torch

    n_steps, n_rows = (2, 8) if given.smoke else (given.steps, 1000)
    with tempfile.TemporaryDirectory() as scratch:
        base = make_base(given.model or packaged(), Path(scratch))
        spawned = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(given.jobs, mp_context=spawned) as pool:
            waiting = {
                pool.submit(run, base, Path(scratch) / f"{precision}-{seed}", precision, int(seed), n_steps, n_rows): (
                    precision,
                    seed,
                )
                for seed in given.seeds.split(",")
                for precision in PRECISIONS
            }
            runs: dict[str, dict[str, dict]] = {precision: {} for precision in PRECISIONS}
            for future in as_completed(waiting):
                precision, seed = waiting[future]
                runs[precision][f"seed {seed}"] = future.result()
                print(precision, seed, {**runs[precision][f"seed {seed}"], "loss_curve": "..."}, flush=True)
                result = {
                    "environment": environment(),
                    "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
                    "steps": n_steps,
                    "mean": {name: mean(seeds) for name, seeds in runs.items() if seeds},
                    "runs": runs,
                }
                given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["mean"], indent=2))


if __name__ == "__main__":
    main()

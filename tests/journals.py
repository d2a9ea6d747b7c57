"""Journals of runs that never were: every kind of event that a report draws."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

from olivine.workflow.events import (
    Delivered,
    RunDone,
    RunFailed,
    RunStarted,
    Sampled,
    Scored,
    SearchDone,
    SearchStarted,
    StepCached,
    StepDone,
    StepFailed,
    StepStarted,
    TrialDone,
    TrialStarted,
    Warned,
)

START = 1_790_000_000.0
VERSIONS = {"olivine": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "onnxruntime-genai": "0.18.0"}
MACHINE = {"device": "cpu", "execution_provider": "CPUExecutionProvider", "n_cores": 8, "memory_bytes": 16 * 2**30}
STEPS = (("lora", "lora", None, 122.0), ("merge", "merge", "lora", 0.3), ("build", "build", "merge", 27.0))
SEAMS = (
    ("base", None, 0.31, 2.71, None, 269_000_000),
    ("lora", "base", 0.881, 0.16, 9.7, 23_100_000),
    ("merge", "lora", 0.881, 0.16, 0.0, None),
    ("build", "merge", 0.862, 0.158, 0.0164, 97_500_000),
)
ROWS = ("The dog brought my slipper again.", "Nobody came to my birthday.", "A letter fell out of the old book!")


def workflow(output_dir, **changed):
    rows = {"name": "tone", "load_dataset_config": {"data_files": "tone.jsonl"}}
    form = {"text_template": "### Text: {phrase}\n### Tone:\n{tone}", "max_seq_len": 128}
    return {
        "input_model": {"model_path": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        "data_configs": [{**rows, "pre_process_data_config": form}],
        "passes": {
            "lora": {"type": "lora", "r": 16, **changed},
            "merge": {"type": "merge"},
            "build": {"type": "build"},
        },
        "quality": {"max_drop": 0.03},
        "output_dir": str(output_dir),
    }


def score_rows(text="{}"):
    return [
        Scored(
            model=name,
            step=None if name == "base" else name,
            previous=before,
            format="hf",
            size_bytes=size,
            drop=None if before is None else 0.0,
            scores={
                "n_rows": 160,
                "label_accuracy": accuracy,
                "label_accuracy_standard_error": 0.026,
                "loss": loss,
                **({"kl": kl, "top1_agreement": 0.98} if kl is not None else {}),
            },
        )
        for name, before, accuracy, loss, kl, size in SEAMS
    ]


def curve(n_steps, seed):
    rough = random.Random(seed)
    return [[n, 4 * math.exp(-n / 40) + 0.2 + 0.1 * rough.random()] for n in range(1, n_steps + 1)]


def facts(n_steps=150):
    counts = {"n_rows": 600, "n_samples": 600, "n_tokens": 18174, "n_trained_tokens": 17574, "n_truncated": 0}
    return {
        "loss_curve": curve(n_steps, 1),
        "eval_curve": curve(n_steps, 2)[9::10],
        "n_trained_parameters": 4_884_480,
        "trained_share": 0.035,
        "tokens_per_second": 304.3,
        "data": counts,
    }


def parity_record():
    part = {"kl": 0.012, "kl_median": 0.003, "kl_p90": 0.03, "kl_p99": 0.21, "kl_max": 0.9, "top1_agreement": 0.968}
    greedy = {"n_prompts": 8, "n_same": 5, "mean": 27.2}
    return {"verdict": "good", "n_positions": 4096, **part, "weights": part, "runtime": None, "greedy": greedy}


def sampled(prompts=ROWS, text="joy"):
    rows = []
    for place in range(20):
        answers = {name: {"text": text, "right": True} for name, *_ in SEAMS}
        if place < 3:
            answers["build"] = {"text": "sadness, I am afraid", "right": False}
        rows.append({"prompt": prompts[place % len(prompts)], "expected": text, "answers": answers})
    return Sampled(rows=rows)


def tensors():
    kinds = (
        ("model.layers.*.mlp.up_proj.weight_Q4", "uint8", 4, 13_271_040, 30),
        ("lm_head.weight_Q8", "uint8", 8, 28_311_552, 1),
    )
    more = [(f"model.layers.*.norm{n}.weight", "float16", 16, 34_560, 30) for n in range(20)]
    return [dict(zip(("name", "dtype", "bits", "n_bytes", "n"), kind, strict=True)) for kind in (*kinds, *more)]


def search_events(n_trials, seed=3):
    rough = random.Random(seed)
    space = {"quantize": ["gptq", "rtn", "awq"], "quantize.group_size": [32, 64, 128], "lora.r": [8, 16, 32, 64]}
    objectives = [
        {"name": "label_accuracy", "higher_is_better": True, "goal": None},
        {"name": "size_bytes", "higher_is_better": False, "goal": None},
    ]
    yield SearchStarted(space=space, sampler="tpe", settings={"seed": 1}, objectives=objectives, n_trials=n_trials)
    best = []
    for number in range(1, n_trials + 1):
        point = {name: rough.choice(values) for name, values in space.items()}
        yield TrialStarted(trial=number, point=point, n_trials=n_trials)
        size = rough.uniform(70e6, 140e6)
        accuracy = min(0.95, 0.5 + size / 4e8 + rough.gauss(0, 0.05))
        fails = number % 17 == 0
        values = {} if fails else {"label_accuracy": accuracy, "size_bytes": size, "loss": rough.uniform(0.1, 0.3)}
        ended = {"outcome": "failed", "cause": "the step ran out of memory"} if fails else {"outcome": "measured"}
        yield TrialDone(trial=number, point=point, values=values, seconds=rough.uniform(10, 90), **ended)
        if values:
            best.append((accuracy, -size, number))
    front = [one[2] for one in best if not any(b[0] >= one[0] and b[1] >= one[1] and b is not one for b in best)]
    yield SearchDone(chosen=max(best)[2], front=front, n_trials=n_trials, n_failed=n_trials // 17)


def of_steps(form):
    score, data = iter(score_rows()), {"data": {"name": "tone", "pre_process_data_config": form}}
    yield StepStarted(step="score:base", key="k-score:base", description="Measure on the scored rows")
    yield StepDone(step="score:base", key="k-score:base", params=data, seconds=24.0, peak_memory_bytes=1_300_000_000)
    yield next(score)
    for name, kind, parent, seconds in STEPS:
        of = {"step": name, "key": f"k-{name}", "pass_name": kind, "parent": parent}
        of["params"] = {"train_data_config": "tone", "r": 16} if name == "lora" else {}
        yield StepStarted(**of, description=f"Do {name}")
        told = facts() if name == "lora" else {"parity": parity_record()} if name == "build" else {}
        kept = StepCached if name == "merge" else StepDone
        yield kept(**of, seconds=seconds, peak_memory_bytes=2_200_000_000, facts=told)
        yield next(score)


def ordinary(
    output_dir, *, n_trials=0, missed=(), measured=(), warning="half of the answers are empty", form=None, **changed
):
    """The events of a run that came to its end, seconds apart."""
    yield RunStarted(
        workflow=workflow(output_dir, **changed), versions=VERSIONS, machine=MACHINE, translated=("a note",)
    )
    yield Warned(step="lora", message=warning)
    if n_trials:
        yield from search_events(n_trials)
    yield from of_steps(form or {})
    yield sampled()
    yield Delivered(
        model=str(output_dir / "model"),
        base="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="apache-2.0",
        tensors=tensors(),
    )
    status = "goal missed" if missed else "done"
    rows = [event.row for event in score_rows()]
    yield RunDone(
        status=status,
        model=str(output_dir / "model"),
        output_dir=str(output_dir),
        scores=rows,
        missed=missed,
        measured=measured,
    )


def failing(output_dir):
    """The events of a run that failed in its second step."""
    yield RunStarted(workflow=workflow(output_dir), versions=VERSIONS)
    yield StepStarted(step="lora", key="k", pass_name="lora", description="Fine-tune")
    yield StepFailed(step="lora", key="k", pass_name="lora", cause="the GPU has no room", log="logs/lora.log")
    yield RunFailed(error="step 'lora' failed: the GPU has no room")


def write(output_dir: Path, events, run="1" * 12, start=START, apart=7.0) -> Path:
    """Append the events to the journal of an output folder, so many seconds apart."""
    output_dir.mkdir(parents=True, exist_ok=True)
    with (output_dir / "journal.jsonl").open("a", encoding="utf-8") as file:
        for place, event in enumerate(events):
            record = replace(event, run=run, time=start + apart * place).to_json()
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return output_dir

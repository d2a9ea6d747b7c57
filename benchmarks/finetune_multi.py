"""LoRA training on several GPUs of one machine: speed, scaling, memory; replicas (ddp) and a sharded base (fsdp).

    python benchmarks/finetune_multi.py [--devices 1 2 ...] [--out FILE]

Phi-3-mini's shape (or `--shape llama8`) with random weights made on the devices (bfloat16, and for replicas also in 8
bits), 2,048-token rows, LoRA of rank 16 on all linear layers, through olivine's own launcher and training. Every number
of GPUs trains the same optimiser step: four rows for each GPU of the largest run. A configuration runs in processes of
its own with a time limit; results are written after each. Speeds are medians over windows of five steps after
compiling; the last step runs under the profiler instead.

Then the whole LoRA pass trains a tiny float32 model on one GPU and on two: the curves must agree to 1e-5.
"""

import argparse
import gc
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]  # tests/tiny.py makes the tiny model

from finetune_gpu import EVERY, LONG, SHAPES, SMOKE, Report, environment, make_model, make_rows, wait  # noqa: E402

ROWS_PER_DEVICE = 4
WINDOW = 5
WARM = 4  # steps before the first window: compiling, the first allocations, the first collectives


def device_names() -> list[str]:
    """The GPUs of this machine, as the driver's tool tells: this process shall hold none of their memory."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


class Timer:
    """Wraps the trainer's step: when each window begins, and a profile of the last step."""

    def __init__(self, n_steps: int, profiled: bool) -> None:
        from olivine.training import trainer

        self.starts: list[float] = []
        self.first_seconds = 0.0
        self.profile = None
        marks, begin = set(range(WARM, n_steps, WINDOW)), time.perf_counter()
        real = trainer._Trainer.training_step  # noqa: SLF001 - the class whose steps are timed

        def timed(trainer, *args, **kwargs):  # noqa: ANN001, ANN002, ANN003, ANN202 - the wrapped signature
            step = trainer.state.global_step
            if step == 1:
                wait()
                self.first_seconds = time.perf_counter() - begin
            if step in marks:
                wait()
                self.starts.append(time.perf_counter())
            if step == n_steps - 1 and profiled:
                self._start()
            return real(trainer, *args, **kwargs)

        trainer._Trainer.training_step = timed  # noqa: SLF001 - as above

    def _start(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        self.profile = profile(activities=[ProfilerActivity.CUDA])
        self.profile.__enter__()

    def kernels(self) -> dict:
        """Milliseconds of the last step: of communication, of all kernels, and the longest of them."""
        if self.profile is None:
            return {}
        wait()
        self.profile.__exit__(None, None, None)
        spent = {
            event.key: event.self_device_time_total / 1e3
            for event in self.profile.key_averages()
            if event.self_device_time_total > 0
        }
        longest = sorted(spent.items(), key=lambda item: -item[1])[:12]
        return {
            "communication_ms": sum(ms for name, ms in spent.items() if "nccl" in name.lower()),
            "all_kernels_ms": sum(spent.values()),
            "longest_ms": {name[:100]: ms for name, ms in longest},
        }


class State:
    """Samples the GPUs while a configuration runs: a machine that holds its clocks down is no measure of the code."""

    QUERY = "index,clocks.sm,power.draw,temperature.gpu,clocks_event_reasons.active"

    def __init__(self) -> None:
        self._process = None
        if shutil.which("nvidia-smi"):
            command = ["nvidia-smi", f"--query-gpu={self.QUERY}", "--format=csv,noheader,nounits", "--loop=1"]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def medians(self) -> dict:
        """Of each GPU over the samples in which it worked (more than 200 W)."""
        if self._process is None:
            return {}
        self._process.terminate()
        samples: dict[str, list[list[str]]] = {}
        for line in self._process.communicate()[0].splitlines():
            index, *values = [text.strip() for text in line.split(",")]
            if len(values) == 4 and values[1].replace(".", "").isdigit() and float(values[1]) > 200:
                samples.setdefault(f"GPU {index}", []).append(values)
        return {
            name: {
                "clock_mhz": statistics.median(float(sample[0]) for sample in found),
                "power_w": statistics.median(float(sample[1]) for sample in found),
                "temperature_c": statistics.median(float(sample[2]) for sample in found),
                "reasons_for_lower_clocks": sorted({sample[3] for sample in found}),
            }
            for name, found in samples.items()
        }


def train_share(what: dict, folder: Path) -> None:
    """One rank: train, and write its numbers."""
    import torch

    from olivine.training import acceleration, setup, sharding, trainer

    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    on_cpu = not torch.cuda.is_available()
    given = {"per_device_train_batch_size": what["per_step"], "max_steps": what["n_steps"], "save_strategy": "no"}
    args = trainer.arguments(given, folder / "checkpoints", on_cpu=on_cpu, has_eval=False)
    torch.manual_seed(0)
    begin = time.perf_counter()
    if not on_cpu:
        torch.cuda.set_device(args.device)
    model = make_model(what["sizes"], 16, EVERY, what["base"])
    if what["sharding"] == "fsdp":
        from transformers.modeling_layers import GradientCheckpointingLayer

        for layer in [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]:
            shard_frozen(layer)
        sharding.shard_rest(model)
    gc.collect()
    wait()
    load_seconds = time.perf_counter() - begin
    held = 0
    if not on_cpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    device, dtype = torch.device(args.device), torch.bfloat16
    product_flops = [acceleration.measured_peak(device, dtype)]
    report = Report()
    timer = Timer(what["n_steps"], not on_cpu and rank == 0)
    settings = setup.Settings(
        compile=what["compile"], rank=rank, world_size=world_size, sharded=what["sharding"] == "fsdp"
    )
    rows = make_rows(LONG, what["per_step"] * 4)
    history = trainer.train(model, rows, None, args, 0, report, settings)
    kernels = timer.kernels()
    product_flops.append(acceleration.measured_peak(device, dtype))
    seconds = [(after - before) / WINDOW for before, after in itertools.pairwise(timer.starts)]
    numbers = {
        "seconds_per_step": statistics.median(seconds),
        "fastest_seconds_per_step": min(seconds),
        "load_seconds": load_seconds,
        "first_step_done_seconds_after_load": timer.first_seconds,
        "weights_bytes": held,
        "peak_bytes": 0 if on_cpu else torch.cuda.max_memory_allocated(),
        "losses": [entry["loss"] for entry in history if "loss" in entry],
        "facts": report.facts,
        "warnings": report.warnings,
        "profile_of_a_step": kernels,
        "large_product_tflops_before_and_after": [flops / 1e12 for flops in product_flops],
    }
    (folder / f"rank-{rank}.json").write_text(json.dumps(numbers), encoding="utf-8")


def shard_frozen(layer) -> None:  # noqa: ANN001
    """Shard a layer whose adapter is already in it."""
    from torch.distributed.fsdp import fully_shard

    trained = {parameter for parameter in layer.parameters() if parameter.requires_grad}
    fully_shard(layer, reshard_after_forward=True, ignored_params=trained)


def run_one(what: dict) -> dict:
    """All ranks of one configuration, in processes of their own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "what.json").write_text(json.dumps(what), encoding="utf-8")
        command = [sys.executable, __file__, "--launch", str(folder)]
        state = State()
        process = subprocess.Popen(command, start_new_session=True)
        try:
            process.wait(timeout=what["seconds"])
        except subprocess.TimeoutExpired:
            return {"failed": "time limit"}
        finally:
            end(process)
            gpus = state.medians()
        files = [folder / f"rank-{rank}.json" for rank in range(what["n_devices"])]
        if not all(file.is_file() for file in files):
            return {"failed": "see the output", "gpus": gpus}
        ranks = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    first = ranks[0]
    return first | {
        "tokens_per_second": what["per_step"] * 2048 / first["seconds_per_step"],
        "peak_bytes_of_each": [rank["peak_bytes"] for rank in ranks],
        "gpus": gpus,
    }


def end(process: subprocess.Popen) -> None:
    """A process and all that it started."""
    import psutil

    try:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
    except psutil.NoSuchProcess:
        return
    process.kill()
    process.wait()


def launch(folder: Path) -> int:
    """Start the ranks with olivine's launcher; a single one needs none."""
    what = json.loads((folder / "what.json").read_text(encoding="utf-8"))
    if what["n_devices"] == 1:
        train_share(what, folder)
        return 0
    from olivine.passes.finetune import _launcher

    return 1 if _launcher.launch(what["n_devices"], os.cpu_count() or 1, [__file__, "--rank", str(folder)]) else 0


def curve(folder: Path, n_devices: int, sharding: str) -> list[float]:
    """The losses of the LoRA pass on a tiny float32 model."""
    import torch

    from olivine.config.schema import DataConfig
    from olivine.models import Model
    from olivine.passes import Context, Machine, passes
    from tiny import tiny_model, write_rows

    model = folder / "model"
    if not model.is_dir():
        tiny_model(model, "phi3")
    text = {"text_template": "{phrase} is {tone}", "strategy": "line-by-line", "max_seq_len": 64}
    load = {"data_files": str(write_rows(folder / "rows.jsonl", 64))}
    data = DataConfig.model_validate({"name": "rows", "load_dataset_config": load, "pre_process_data_config": text})
    here = folder / f"{n_devices}-{sharding}"
    output, scratch = here / "output", here / "scratch"
    output.mkdir(parents=True)
    scratch.mkdir()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = Machine(device, "CPUExecutionProvider", 8 * 10**9, 10**12, os.cpu_count() or 1, n_devices=n_devices)
    report = Report()
    context = Context(output, scratch, machine, report, {"rows": data})
    lora = passes.classes["lora"]
    arguments = {"max_steps": 20, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1}
    params = {"r": 4, "alpha": 8, "train_data_config": "rows", "training_args": arguments, "torch_dtype": "float32"}
    lora(lora.Params(**params, sharding=sharding)).run(Model("hf", model), context)
    return [loss for _, loss in report.facts["loss_curve"]]


def curves(folder: Path) -> dict:
    """One device against two, of both kinds."""
    alone = curve(folder, 1, "none")
    found = {name: curve(folder, 2, kind) for name, kind in (("ddp", "none"), ("fsdp", "fsdp"))}
    largest = {name: max(abs(a - b) for a, b in zip(losses, alone, strict=True)) for name, losses in found.items()}
    return {"one_device": alone, "largest_difference_on_two_devices": largest}


def configurations(counts: list[int], options: argparse.Namespace) -> dict[str, dict]:
    """What runs, by name."""
    common = {
        "per_step": ROWS_PER_DEVICE * max(counts),
        "sizes": SHAPES[options.shape] | (SMOKE if options.smoke else {}),
        "base": "bf16",
        "n_steps": options.steps,
        "seconds": options.seconds,
    }
    common["compile"] = options.compile or not options.smoke
    made = {}
    for n_devices in counts:
        for name, sharding in (("ddp", "none"), ("fsdp", "fsdp")):
            if n_devices == 1 and sharding == "fsdp":
                continue
            title = "1 GPU" if n_devices == 1 else f"{n_devices} GPUs, {name}"
            made[title] = common | {"n_devices": n_devices, "sharding": sharding}
    for n_devices in () if options.smoke else counts:
        title = "1 GPU, fp8" if n_devices == 1 else f"{n_devices} GPUs, ddp, fp8"
        made[title] = common | {"n_devices": n_devices, "sharding": "none", "base": "fp8"}
    return made


def main() -> int:
    """Run the configurations one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--devices", nargs="*", type=int, help="numbers of GPUs; else 1, 2, 4 and 8, as far as there are"
    )
    parser.add_argument("--shape", choices=("phi3", "llama8"), default="phi3", help="Phi-3-mini's or Llama-3.1-8B's")
    parser.add_argument("--steps", type=int, default=WARM + 4 * WINDOW + 2)
    parser.add_argument("--seconds", type=int, default=170, help="time limit of a configuration")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "finetune_multi.json")
    parser.add_argument("--only", help="run only the configurations with this in their name, or 'curves'")
    parser.add_argument("--smoke", action="store_true", help="a tiny model on the CPU, to try the script without GPUs")
    parser.add_argument("--compile", action="store_true", help="compile the tiny model too")
    parser.add_argument("--launch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.launch:
        return launch(options.launch)
    if options.rank:
        train_share(json.loads((options.rank / "what.json").read_text(encoding="utf-8")), options.rank)
        return 0
    counts = options.devices or ([1, 2] if options.smoke else [n for n in (1, 2, 4, 8) if n <= len(device_names())])
    about = environment() | {"devices": device_names()}
    if "COMMIT" in os.environ:  # a copy of the tree without its history
        about["commit"] = os.environ["COMMIT"]
    result: dict = {"environment": about, "results": {}}
    if options.only and options.out.is_file():  # the others stay
        result |= json.loads(options.out.read_text(encoding="utf-8")) | {"environment": about}
    for name, what in configurations(counts, options).items():
        if options.only and options.only not in name:
            continue
        numbers = run_one(what)
        alone = result["results"].get("1 GPU, fp8" if what["base"] == "fp8" else "1 GPU", {}).get("tokens_per_second")
        if alone and "tokens_per_second" in numbers:
            numbers["scaling_per_device"] = numbers["tokens_per_second"] / alone / what["n_devices"]
        result["results"][name] = {"configuration": what} | numbers
        told = (
            "tokens_per_second",
            "seconds_per_step",
            "large_product_tflops_before_and_after",
            "gpus",
            "scaling_per_device",
            "peak_bytes_of_each",
            "weights_bytes",
            "failed",
            "warnings",
        )
        print(name, {key: numbers[key] for key in told if key in numbers}, flush=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if max(counts) > 1 and options.only in (None, "curves"):
        with tempfile.TemporaryDirectory() as folder:
            result["float32_curves"] = curves(Path(folder))
        print(result["float32_curves"]["largest_difference_on_two_devices"], flush=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

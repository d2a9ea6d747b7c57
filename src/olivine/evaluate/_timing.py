"""Time models beside each other: each in a process of its own, one request at a time, in turns."""

import math
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.evaluate._base import TimingParams, Timings, of_batch
from olivine.evaluate._metrics import measured
from olivine.evaluate._rounds import in_turns, spread
from olivine.models import Model
from olivine.models.disk import bytes_on_disk
from olivine.models.gguf import readable
from olivine.models.interface import facts_of, signature_of
from olivine.models.sample_inputs import made_up
from olivine.models.signature import Signature
from olivine.models.speech import hears
from olivine.runtimes.process import RuntimeProcess
from olivine.runtimes.requests import Asked
from olivine.work import Machine, Reporter

if TYPE_CHECKING:
    import numpy as np
    import psutil
else:
    np, psutil = lazy.module("numpy"), lazy.module("psutil")

BUSY = 0.25  # load of others, as a share of the cores, above which times are those of a busy machine
_PROCESS_BYTES = 0.7e9  # of libraries
_SEED = 0


@dataclass(frozen=True)
class _Part:
    """A request of a model.

    seconds: of its parts; peak_memory_bytes, peak_gpu_bytes: of its process so far; n_prompt: tokens read of a text.
    """

    seconds: list[float]
    peak_memory_bytes: int
    peak_gpu_bytes: int
    n_prompt: int


def time_models(
    models: Mapping[str, Model], params: Mapping[str, Any], output: Path, machine: Machine, report: Reporter
) -> dict[str, Any]:
    """Numbers of latency, throughput and memory of each model, by its name.

    params: settings (TimingParams), batch_sizes, metrics (by name), watches_gpu. Models are open beside each other and
    asked in turns, where memory has room for all of them; else one after the other, forth and back. Numbers of several
    batch sizes are called `of_batch`. Returns {"numbers": name -> number -> value, "n_requests", "spread": the largest
    of a median, "load": of the machine before, "together"}.
    """
    opened = {name: readable(model, _folder(output, name)) for name, model in models.items()}
    load = psutil.cpu_percent(interval=0.5) / 100
    if load > BUSY:
        report.warn(
            f"the machine is busy with other work ({load:.0%} of its cores) while models are timed: taken in turns, "
            "their times compare, and tell less of a machine that has nothing else to do"
        )
    together = len(models) == 1 or _fit(opened)
    numbers: dict[str, dict[str, float]] = {name: {} for name in opened}
    parts: list[list[_Part]] = []
    for n_rows in params["batch_sizes"]:
        settings = TimingParams.model_validate({**params["settings"], "batch_size": n_rows})
        wishes = {name: _asked(model, settings, machine, _folder(output, name)) for name, model in opened.items()}
        wishes = {name: replace(one, watches_gpu=params["watches_gpu"]) for name, one in wishes.items()}
        for name, made in _taken(opened, wishes, settings, machine, report, together=together).items():
            parts.append(made)
            told = _numbers(made, settings, params["metrics"])
            of_each = n_rows if len(params["batch_sizes"]) > 1 else 1
            numbers[name] |= {of_batch(number, of_each): value for number, value in told.items()}
    return {
        "numbers": numbers,
        "n_requests": min(len(one) for one in parts),
        "spread": _widest(parts),
        "load": load,
        "together": together,
    }


def _taken(
    opened: Mapping[str, Model],
    asked: Mapping[str, Asked],
    settings: TimingParams,
    machine: Machine,
    report: Reporter,
    *,
    together: bool,
) -> dict[str, list[_Part]]:
    """Requests of all models, at one size of batches."""
    turns = [list(opened)] if together else [[name] for name in (*opened, *reversed(list(opened)))]
    parts: dict[str, list[_Part]] = {name: [] for name in opened}
    for names in turns:
        for name, made in _timed(names, opened, asked, settings, machine, report).items():
            parts[name] += made
    return parts


def _timed(
    names: list[str],
    models: Mapping[str, Model],
    asked: Mapping[str, Asked],
    settings: TimingParams,
    machine: Machine,
    report: Reporter,
) -> dict[str, list[_Part]]:
    """Requests of models that are open at once."""
    dtype = "float32" if machine.device == "cpu" else "bfloat16"
    with ExitStack() as stack:
        requests = {}
        for name in names:
            process = stack.enter_context(RuntimeProcess(models[name], device=machine.device, dtype=dtype))
            requests[name] = partial(_request, process, process.prepare(asked[name]))
        return in_turns(
            requests,
            _step,
            settings,
            report=lambda n: report.progress(min(n, settings.max_requests), settings.max_requests),
        )


def _request(process: RuntimeProcess, n_prompt: int) -> _Part:
    return _Part(*process.request(), n_prompt)


def _step(part: _Part) -> float:
    """The typical seconds of a token after the first, or those of a batch."""
    return statistics.median(part.seconds[1:] or part.seconds)


def _widest(parts: Sequence[list[_Part]]) -> float | None:
    """The largest spread of a median; None where too few requests tell one."""
    widest = max(spread([_step(part) for part in one]) for one in parts)
    return widest if math.isfinite(widest) else None


def _folder(output: Path, name: str) -> Path:
    folder = output / name
    folder.mkdir(exist_ok=True)  # its inputs.npz is written anew for each size of batches
    return folder


def _asked(model: Model, settings: TimingParams, machine: Machine, folder: Path) -> Asked:
    """What is asked of a model; the inputs of a graph are written to the folder."""
    if (model.packaging == "genai" and not hears(model.path)) or (
        not (model.is_graph or model.format == "onnx") and facts_of(model).kind == "decoder"
    ):
        return Asked(settings.prompt_tokens, settings.new_tokens, _SEED, n_rows=settings.batch_size)
    signature = signature_of(model) or Signature((), ())
    rows = made_up(signature, settings.batch_size, _SEED)
    joined: dict[str, Any] = {
        spec.name: np.concatenate([row[spec.name] for row in rows])
        if spec.shape and not isinstance(spec.shape[0], int)
        else rows[0][spec.name]
        for spec in signature.inputs
    }
    np.savez(folder / "inputs.npz", **joined)
    return Asked(0, 0, _SEED, str(folder / "inputs.npz"), machine.execution_provider)


def _fit(models: Mapping[str, Model]) -> bool:
    """Whether memory has room for all at once; weights in half precision are float32 where they run on the CPU."""
    sizes = [bytes_on_disk(model) or (bytes_on_disk(model.base) if model.base else 0) or 0 for model in models.values()]
    needed = sum(2.2 * size + _PROCESS_BYTES for size in sizes)
    return needed < int(psutil.virtual_memory().available)


def _numbers(parts: list[_Part], settings: TimingParams, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    seconds, peak = [part.seconds for part in parts], max(part.peak_memory_bytes for part in parts)
    on_gpu = max(part.peak_gpu_bytes for part in parts)
    return measured(metrics, Timings(seconds, parts[0].n_prompt, settings.batch_size, peak, on_gpu))

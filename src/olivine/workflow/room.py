"""Whether a plan fits: folders that can be written to, memory and disk that are there."""

import errno
import os
import tempfile
from collections.abc import Collection
from pathlib import Path

from olivine.errors import Problem
from olivine.evaluate import batch_bytes
from olivine.passes import passes
from olivine.paths import could_be, exists, free_disk_bytes, hub_cache, is_folder, of_user
from olivine.work import Estimate, Machine
from olivine.workflow import accelerators
from olivine.workflow.draft import Draft
from olivine.workflow.steps import ScoreRows, Step
from olivine.workflow.words import size

N_NAME = 255  # bytes that file systems take in a name


def check_folder(draft: Draft, folder: Path, key: str) -> None:
    """Tell why nothing could be written to a folder that the config names, if so."""
    named = str(getattr(draft.workflow, key)).strip()
    if reason := _unusable(folder) if named else "is empty":
        draft.unusable.add(key)
        where = draft.where(key)
        draft.problems.append(Problem("invalid-value", where, f"{key} {reason}.", "Choose another.", (key,)))


def _unusable(folder: Path) -> str:
    """Why a folder cannot be made, or cannot be written to; empty when it can."""
    if not could_be(folder):
        return "has a name that no file system takes"
    if _is_too_long(folder):
        return f"has a name of more than {N_NAME} bytes"
    existing = folder
    while not exists(existing) and existing.parent != existing:
        existing = existing.parent
    if not is_folder(existing):
        return f"'{folder}' cannot be a folder: '{existing}' is a file"
    reason = _not_writable(existing)
    return f"'{folder}' cannot be written to: {reason}" if reason else ""


def _not_writable(folder: Path) -> str:
    """Why no file can be made in a folder; found out with one that has no name, or none for long. Empty when it can."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return "this user may not"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return (error.strerror or str(error)).lower()


def _is_too_long(folder: Path) -> bool:
    """Whether the file system refuses the name: one part of it, or the whole."""
    if any(len(part.encode("utf-8", "surrogatepass")) > N_NAME for part in folder.parts):
        return True
    try:
        folder.exists()
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def scoring_bytes(draft: Draft, score: ScoreRows | None) -> int:
    """Memory that scoring takes, in a process with its libraries; 0 where none is.

    The largest is a checkpoint, in float32 at worst, or an exported model: it is small, but its runtime gives the
    logits of all tokens of a batch, of which there are three copies at the peak. Measured: 1.7 GB where a vocabulary
    of 49,152 makes them 0.3 GB.
    """
    if score is None or draft.facts is None:
        return 0
    libraries = 1.2e9 if draft.machine.device == "cuda" else 0.7e9
    checkpoint = 4.2 * draft.facts.n_parameters
    decoder = draft.facts.decoder
    sizes = [step.estimate.disk_bytes for step in draft.steps if step.produces == "onnx"]
    if decoder is None or not sizes:
        return int(libraries + checkpoint)
    exported = max(sizes) + 3.3 * batch_bytes(decoder.vocab_size, score.max_rows)
    return int(libraries + max(checkpoint, exported))


def total(draft: Draft, scoring: int, cached: Collection[str] = ()) -> Estimate:
    """What is needed of memory by the largest part of what will run, and of disk by all steps that write.

    scoring: bytes of memory, 0 where nothing will be scored. cached: steps that will not run.
    """
    estimates = [step.estimate for step in draft.steps if step.name not in cached]
    delivered = draft.steps[-1].estimate.disk_bytes if draft.steps else 0  # lies beside the cache
    n_brought = sum(remote.n_bytes for remote in draft.remotes)
    return Estimate(
        memory_bytes=max([scoring, *(estimate.memory_bytes for estimate in estimates)]),
        device_memory_bytes=max((estimate.device_memory_bytes for estimate in estimates), default=0),
        disk_bytes=sum(estimate.disk_bytes for estimate in estimates) + delivered + n_brought,
        download_bytes=draft.download_bytes + n_brought,
    )


def check_room(draft: Draft, estimate: Estimate) -> None:
    """Tell what does not fit into memory, or onto a disk."""
    _check_memory(draft)
    folder = hub_cache()
    if draft.download_bytes > (free := free_disk_bytes(folder)):
        message = f"{size(draft.download_bytes)} are to be fetched, but {size(free)} are free in '{folder}'."
        draft.problem("hardware", ("input_model", "model_path"), message, "Let HF_HOME name a folder on a larger disk.")
    main, machine = draft.hosts[None]
    free = machine.disk_bytes if main.name is None else free_disk_bytes(of_user(draft.workflow.cache_dir).absolute())
    if estimate.disk_bytes > free and "cache_dir" not in draft.unusable:
        draft.problem(
            "hardware",
            ("cache_dir",),
            f"about {size(estimate.disk_bytes)} of disk are needed, but {size(free)} are free.",
            "Choose a cache_dir and output_dir on a larger disk.",
        )
    _check_disks(draft)


def _check_disks(draft: Draft) -> None:
    """A problem for each system whose store has no room for what its steps write."""
    for host in {host.name: host for host, _ in draft.hosts.values()}.values():
        needed = sum(step.estimate.disk_bytes for step in draft.steps if step.host == host.name)
        free = host.probe.disk_bytes
        if host.name is not None and free is not None and needed > free:
            message = f"about {size(needed)} of disk are needed on {host}, but {size(free)} are free."
            draft.problem("hardware", ("systems", host.name), message, "Free some, or choose another host.")


def _check_memory(draft: Draft) -> None:
    """A problem for each step that does not fit; one in all where the config itself sets a limit that is too low."""
    needs = [(step, *_needed(step, step.machine)) for step in draft.steps]
    too_large = [(step, needed, there) for step, needed, there in needs if there and needed > there]
    for step, needed, there in sorted(too_large, key=lambda need: -need[1]):
        asked = _asked(draft, step)
        what = "memory" if needed == step.estimate.memory_bytes else "the GPU's memory"
        where = "this machine" if step.host is None else f"the system '{step.host}'"
        message = f"step '{step.name}' needs about {size(needed)} of {what}, but {where} has {size(there)}."
        if asked is not None and asked.memory_bytes == there:
            message = f"step '{step.name}' needs about {size(needed)} of {what}, but 'memory' allows {size(there)}."
            draft.problem("hardware", (*asked.path, "memory"), message, "Allow more, or choose a smaller model.")
            return
        draft.problem("hardware", ("passes", step.name), message, passes[step.pass_name].when_too_large)


def _asked(draft: Draft, step: Step) -> accelerators.Wish | None:
    """What the config asks for where the step runs."""
    config = draft.workflow.passes.get(step.name)
    own = config.host if config is not None else None
    return accelerators.wish_of(draft.workflow, own or accelerators.name_of(draft.workflow, "host"))


def _needed(step: Step, machine: Machine) -> tuple[int, int]:
    """Bytes that a step needs where they are scarcest, and those that are there; 0 there where it is not known."""
    estimate = step.estimate
    if estimate.memory_bytes <= machine.memory_bytes and estimate.device_memory_bytes:
        return estimate.device_memory_bytes, machine.device_memory_bytes
    return estimate.memory_bytes, machine.memory_bytes

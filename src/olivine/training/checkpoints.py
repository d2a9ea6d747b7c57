"""Checkpoints that outlive a kill and a power loss: sealed when all of them is on the disk, looked at when read.

A checkpoint is sealed by a file that holds the size and hash of each of the others, written last. One without a seal
was being written when the training ended. One whose files are not what was sealed is set aside, with a warning, and
the one before it serves.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blake3 import blake3

SEAL = "sealed.json"
# Without these a training does not go on as if nothing had been (`save_only_model` writes none).
_NEEDED = ("optimizer.pt", "scheduler.pt", "trainer_state.json")


def seal(checkpoint: Path) -> None:
    """Bring every file of the checkpoint to the disk, then the record of them."""
    record = {}
    for file in sorted(checkpoint.iterdir()):
        if file.is_file() and not _is_of_a_rank(file):
            _sync(file)
            record[file.name] = [file.stat().st_size, _hash(file)]
    partial = checkpoint / f".{SEAL}"
    partial.write_text(json.dumps(record), encoding="utf-8")
    _sync(partial)
    partial.replace(checkpoint / SEAL)
    for folder in (checkpoint, checkpoint.parent):
        _sync(folder)


def last_whole(folder: Path, world_size: int, warn: Callable[[str], None]) -> str | None:
    """The newest checkpoint that every rank wrote to its end and that still is what was written; None for the start."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for checkpoint in sorted(checkpoints, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        if not all((checkpoint / name).is_file() for name in (SEAL, *_NEEDED)):  # it was being written
            shutil.rmtree(checkpoint)
        elif (fault := _fault(checkpoint, world_size)) is None:
            return str(checkpoint)
        else:
            _set_aside(checkpoint)
            warn(f"{checkpoint.name} is damaged ({fault}) and set aside; training goes on from the one before it")
    return None


def _fault(checkpoint: Path, world_size: int) -> str | None:
    """What is wrong with a sealed checkpoint."""
    try:
        record: Any = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
        for name, (size, digest) in record.items():
            file = checkpoint / name
            if not file.is_file() or file.stat().st_size != size or _hash(file) != digest:
                return f"{name} is not what was written"
        ranks = [f"rng_state_{rank}.pth" for rank in range(world_size)] if world_size > 1 else []
        missing = next((name for name in ranks if not (checkpoint / name).is_file()), None)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        return f"{SEAL} cannot be read: {error}"
    return f"{missing} is missing" if missing else None


def _set_aside(checkpoint: Path) -> None:
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)


def _is_of_a_rank(file: Path) -> bool:
    """State of another process's random numbers, which it may still be writing."""
    return file.name.startswith("rng_state_")


def _hash(file: Path) -> str:
    return blake3(max_threads=1).update_mmap(file).hexdigest()


def _sync(path: Path) -> None:
    if path.is_dir() and os.name != "posix":  # Windows opens no folder
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

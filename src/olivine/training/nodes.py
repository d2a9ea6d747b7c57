"""Checkpoints of a training on several nodes: node 0 has them whole, and the others begin with its files."""

import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from olivine import lazy
from olivine.training.setup import Settings

if TYPE_CHECKING:
    import torch
    from torch import distributed
else:
    torch = lazy.module("torch")
    distributed = lazy.module("torch.distributed")

_PART_BYTES = 64 * 2**20


def spans_nodes(settings: Settings) -> bool:
    """Whether some of the processes that train together do not see this one's disk."""
    return settings.world_size > settings.n_here


def gather_random_state(checkpoint: Path, settings: Settings) -> None:
    """Give node 0 the random numbers of every process: each has written those of its own where it is."""
    mine = (checkpoint / _random_state(settings.rank)).read_bytes()
    states: list[bytes | None] | None = [None] * settings.world_size if settings.rank == 0 else None
    distributed.gather_object(mine, states, dst=0)
    for rank, state in enumerate(states or ()):
        if rank >= settings.n_here and state is not None:
            (checkpoint / _random_state(rank)).write_bytes(state)


def share(checkpoint: Path, settings: Settings, device: "torch.device") -> None:
    """Bring node 0's checkpoint to the others, in parts; the first process of each of them writes it there."""
    is_first_of_all, is_first_here = settings.rank == 0, settings.rank % settings.n_here == 0
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file()) if is_first_of_all else []
    told: list[list[tuple[str, int]]] = [
        [(path.relative_to(checkpoint).as_posix(), path.stat().st_size) for path in files]
    ]
    distributed.broadcast_object_list(told, src=0)
    if is_first_here and not is_first_of_all:
        shutil.rmtree(checkpoint.parent, ignore_errors=True)  # of an earlier try: node 0 may have fewer
    for name, n_bytes in told[0]:
        _share_file(checkpoint / PurePosixPath(name), n_bytes, settings, device)
    distributed.barrier()  # none reads what is not whole


def _share_file(path: Path, n_bytes: int, settings: Settings, device: "torch.device") -> None:
    is_sender, is_writer = settings.rank == 0, settings.rank > 0 and settings.rank % settings.n_here == 0
    if is_writer:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    for start in range(0, n_bytes, _PART_BYTES):
        part = torch.empty(min(_PART_BYTES, n_bytes - start), dtype=torch.uint8, device=device)
        if is_sender:
            with path.open("rb") as file:
                file.seek(start)
                part.copy_(torch.frombuffer(bytearray(file.read(part.numel())), dtype=torch.uint8))
        distributed.broadcast(part, src=0)
        if is_writer:
            with path.open("ab") as file:
                file.write(part.cpu().numpy().tobytes())


def _random_state(rank: int) -> str:
    return f"rng_state_{rank}.pth"

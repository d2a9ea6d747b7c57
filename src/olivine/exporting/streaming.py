"""A graph and its data, written side by side: every initializer has its place in the file before it is computed.

Workers read a few rows, quantize or cast them and write them where they belong, each on its own core, while the system
reads what they will need next; what is in memory is a tile or a tensor a worker, whatever the size of the model.
"""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import torch

from olivine.allowance import n_cores
from olivine.exporting.lazy_weights import LazyWeight, Rows
from olivine.exporting.ordered_hash import OrderedHash
from olivine.kernels.blockwise import TILE
from olivine.models.finite import NotFiniteError, is_finite
from olivine.store.hashes import Hashed, Stamp

Array = np.ndarray[Any, Any]
# (initializer, offset in its bytes, contiguous bytes)
Write = Callable[[str, int, Array], None]
Progress = Callable[[int, int], None]
# what was hashed while it was written
Written = dict[Path, Hashed]


class Job(Protocol):
    """A piece of the work of an export, which computes and writes bytes of initializers."""

    @property
    def fills(self) -> Sequence[str]:
        """Names of the initializers whose bytes it writes, alone or with other jobs."""

    @property
    def n_bytes(self) -> int:
        """Memory that it takes while it runs."""

    @property
    def n_weights(self) -> int:
        """Its share of the work."""

    def announce(self) -> None:
        """Let the system read what it will need while others run."""

    def run(self, write: Write) -> None:
        """Compute its bytes and write them."""


@dataclass(frozen=True)
class Whole:
    """One initializer that is computed as a whole."""

    name: str
    tensor: Any

    @property
    def fills(self) -> Sequence[str]:
        """The one initializer that it writes."""
        return (self.name,)

    @property
    def n_bytes(self) -> int:
        """What was read, the result, and a copy in another order between the two."""
        return 3 * int(self.tensor.nbytes)

    @property
    def n_weights(self) -> int:
        """Elements of the initializer, its share of the work."""
        return int(np.prod(self.tensor.shape.numpy(), dtype=np.int64))

    def announce(self) -> None:
        """Nothing: what is computed as a whole is small, or not read from the checkpoint as it is."""

    def run(self, write: Write) -> None:
        """Read, compute and write it."""
        inner = lazy_weight_of(self.tensor)
        if inner is None:
            write(self.name, 0, np.frombuffer(self.tensor.tobytes(), np.uint8))
        else:
            value = inner.compute()
            if value.is_floating_point() and not is_finite(value):
                raise NotFiniteError(f"the weight '{self.name}' holds NaN or infinity")
            write(self.name, 0, bytes_of(value))


@dataclass(frozen=True)
class FloatRows:
    """One initializer that is rows of the checkpoint in their order, copied and cast a few at a time."""

    name: str
    rows: Rows
    tensor: Any

    @property
    def fills(self) -> Sequence[str]:
        """The one initializer that it writes."""
        return (self.name,)

    @property
    def n_bytes(self) -> int:
        """A tile, as it is read and as it is written."""
        return 8 * TILE

    @property
    def n_weights(self) -> int:
        """Elements of the initializer, its share of the work."""
        return int(np.prod(self.tensor.shape.numpy(), dtype=np.int64))

    def announce(self) -> None:
        """Let the system read the rows."""
        self.rows.announce(0, self.tensor.shape[0])

    def run(self, write: Write) -> None:
        """Read, cast and write tile after tile."""
        n_rows, width = self.tensor.shape.numpy()
        step, row_bytes = max(1, TILE // width), self.tensor.nbytes // n_rows
        for start in range(0, n_rows, step):
            tile = self.rows.read(start, min(start + step, n_rows))
            if tile.is_floating_point() and not is_finite(tile):
                raise NotFiniteError(f"the weight '{self.rows.names[0]}' holds NaN or infinity")
            write(self.name, start * row_bytes, bytes_of(tile))


def _float_job(value: ir.Value) -> Job:
    lazy = lazy_weight_of(value.const_value)
    if lazy is None or lazy.rows is None or lazy.flipped or not all(p.source.read_rows for p in lazy.rows.pieces):
        return Whole(str(value.name), value.const_value)
    return FloatRows(str(value.name), lazy.rows, value.const_value)


def lazy_weight_of(tensor: Any) -> LazyWeight | None:
    """The parameter that an initializer of the builder stands for; None for what the builder computed itself."""
    if isinstance(tensor, ir.LazyTensor):
        tensor = tensor.raw()  # its function: casts, and so far only notes it
    raw = getattr(tensor, "raw", None)
    return raw if isinstance(raw, LazyWeight) else None


def bytes_of(tensor: torch.Tensor) -> Array:
    """The bytes of a tensor, row by row."""
    array: Array = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return array


@dataclass
class Budget:
    """Bytes that workers may hold together; what is larger than all of it runs alone."""

    capacity: int
    used: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    @contextmanager
    def holding(self, n_bytes: int) -> Any:
        """Wait until so much is free, and have it for a while."""
        held = min(n_bytes, self.capacity)
        with self.changed:
            self.changed.wait_for(lambda: self.used + held <= self.capacity)
            self.used += held
        try:
            yield
        finally:
            with self.changed:
                self.used -= held
                self.changed.notify_all()


def save(
    model: ir.Model,
    path: Path,
    jobs: Iterable[Job] = (),
    *,
    progress: Progress = lambda _done, _total: None,
    memory_bytes: int = 1 << 29,
    inline_bytes: int = 0,
) -> Written:
    """Write the graph to `path` and its data to `path`.data, dense and in the order of the initializers.

    jobs fill the initializers that they name; every other one is computed as a whole. The workers together hold at most
    `memory_bytes`, or the largest job alone. Initializers of up to `inline_bytes` that no job fills stay in the graph:
    the runtime infers shapes by them when it loads it, before it reads any data. When anything fails (OSError on a full
    disk) neither file is left. Gives the data's hash, taken while it is written: jobs go in the order of the file.
    """
    data = path.with_name(path.name + ".data")
    jobs = list(jobs)
    filled = {name for job in jobs for name in job.fills}
    values = [value for value in model.graph.initializers.values() if value.const_value is not None]
    inline = [value for value in values if value.name not in filled and _is_inline(value.const_value, inline_bytes)]
    for value in inline:
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
    values = [value for value in values if value not in inline]
    jobs += [_float_job(value) for value in values if value.name not in filled]
    offsets, total = _place(values, data.name, path.parent)
    try:
        with data.open("w+b") as stream:
            os.truncate(stream.fileno(), total)
            writer = _Writer(stream.fileno(), offsets)
            _run(sorted(jobs, key=lambda job: min(map(offsets.__getitem__, job.fills))), writer, memory_bytes, progress)
            hashed = writer.hashed.hexdigest(total)
        ir.save(model, path)
        return {data: Hashed(Stamp.of(data), hashed)}
    except BaseException:
        data.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise


def _is_inline(tensor: Any, inline_bytes: int) -> bool:
    """Whether a tensor stays in the graph: a small one, and texts, which lie nowhere else."""
    return bool(tensor.dtype == ir.DataType.STRING or tensor.nbytes <= inline_bytes)


def _place(values: Sequence[ir.Value], location: str, folder: Path) -> tuple[dict[str, int], int]:
    """Turn every initializer into a reference to its place in the data file; gives the offsets and the file's size."""
    offsets, end = {}, 0
    for value in values:
        tensor = value.const_value
        name = str(value.name)
        offsets[name] = end
        if tensor.nbytes:
            value.const_value = ir.ExternalTensor(
                location, end, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=name, base_dir=folder
            )
        end += tensor.nbytes
    return offsets, end


class _Writer:
    """Writes at a place of the file, from any thread."""

    def __init__(self, descriptor: int, offsets: Mapping[str, int]) -> None:
        self._descriptor, self._offsets, self._lock = descriptor, offsets, threading.Lock()
        self.hashed = OrderedHash(self._read)

    def __call__(self, name: str, offset: int, array: Array) -> None:
        start = place = self._offsets[name] + offset
        piece = rest = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        while rest:
            written = self._write(rest, place)
            place, rest = place + written, rest[written:]
        self.hashed.add(start, piece)

    def _read(self, place: int, n_bytes: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, n_bytes, place)
        with self._lock:
            os.lseek(self._descriptor, place, os.SEEK_SET)
            return os.read(self._descriptor, n_bytes)

    def _write(self, rest: memoryview, place: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._descriptor, rest, place)
        with self._lock:  # Windows has no write at a place
            os.lseek(self._descriptor, place, os.SEEK_SET)
            return os.write(self._descriptor, rest)


def _run(jobs: Sequence[Job], write: Write, memory_bytes: int, progress: Progress) -> None:
    total, done, lock, budget = sum(job.n_weights for job in jobs), 0, threading.Lock(), Budget(memory_bytes)
    n_workers = n_cores()

    def work(job: Job, later: Job | None) -> None:
        nonlocal done
        if later is not None:
            later.announce()
        with budget.holding(job.n_bytes):
            job.run(write)
        with lock:
            done += job.n_weights
            progress(done, total)

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # every worker is a core of its own
    try:
        with ThreadPoolExecutor(n_workers) as pool:
            ahead = [*jobs[n_workers:], *[None] * n_workers]
            _finish(pool, [pool.submit(work, job, later) for job, later in zip(jobs, ahead, strict=False)])
    finally:
        torch.set_num_threads(n_threads)


def _finish(pool: ThreadPoolExecutor, futures: Sequence[Future[None]]) -> None:
    """Wait for all, or for the first that fails: the rest is not begun, and its error is raised."""
    finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
    if failed := next((future for future in finished if future.exception()), None):
        pool.shutdown(wait=True, cancel_futures=True)
        failed.result()

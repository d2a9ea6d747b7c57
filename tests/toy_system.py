"""Another folder: the worker runs there and has a store of its own, as it would on another machine."""

import sys
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from olivine.store.transfer import Files
from olivine.systems import PROBE, WORKER, Probe, System, SystemParams, WorkerProcess, ask


class Toy(System):
    """Another folder of this machine, to which files go by content."""

    class Params(SystemParams):
        folder: str = Field(description="where the worker runs, and keeps its store")

    params: Params

    def probe(self) -> Probe:
        return ask([sys.executable, *PROBE])

    def worker(self) -> WorkerProcess:
        return WorkerProcess([sys.executable, *WORKER, "--store", self.params.folder], Path(self.params.folder))

    def missing(self, hashes: Iterable[str]) -> set[str]:
        return Files(Path(self.params.folder)).missing(hashes)

    def put(self, source: Path, hashed: str) -> None:
        Files(Path(self.params.folder)).put(source, hashed)

    def get(self, hashed: str, target: Path) -> None:
        Files(Path(self.params.folder)).get(hashed, target)

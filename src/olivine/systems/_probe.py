"""What a system has, found out on its side without importing a framework: `python -m olivine.systems._probe`."""

import importlib.metadata
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from olivine import allowance, lazy
from olivine.errors import OlivineError

PROBE = ("-P", "-m", "olivine.systems._probe")  # what a Python is given to say what is there


class Installed(Mapping[str, str]):
    """Versions of the distributions that are installed here, each looked up when it is asked for."""

    def __getitem__(self, name: str) -> str:
        """The version; KeyError when it is not installed."""
        if (found := lazy.version(name)) == "none":
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        """Every name, once, spelt alike: lower case, with hyphens."""
        names = (one.metadata["Name"] for one in importlib.metadata.distributions())
        return iter(sorted({name.lower().replace("_", "-") for name in names if name}))

    def __len__(self) -> int:
        """How many there are."""
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Probe:
    """Hardware and versions of a system; what decides a plan is asked of the system that will run it.

    memory_bytes, n_cores: what its control groups allow. has_nvidia: whether an NVIDIA GPU is there. n_gpus: how many
    of them a process may use. gpu_memory_bytes: of the smallest of them; 0 where the driver does not say.
    multiplies_bf16: whether the processor has instructions for bfloat16. system: "posix" or "nt".
    versions: of installed distributions, by their names with hyphens.
    """

    memory_bytes: int
    n_cores: int
    has_nvidia: bool = False
    n_gpus: int = 0
    gpu_memory_bytes: int = 0
    multiplies_bf16: bool = False
    system: str = os.name
    versions: Mapping[str, str] = field(default_factory=Installed)

    def version(self, distribution: str) -> str:
        """The version of a distribution there, or "none"."""
        return self.versions.get(distribution, "none")

    def to_json(self) -> dict[str, Any]:
        """JSON values only; the inverse of `from_json`."""
        return asdict(replace(self, versions={})) | {"versions": dict(self.versions)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**record)


def probe(root: Path = allowance.ROOT) -> Probe:
    """What is here. root: of the file system, where the kernel and drivers tell."""
    nvidia = has_nvidia(root)
    return Probe(
        memory_bytes=allowance.memory_bytes(root),
        n_cores=allowance.n_cores(root),
        has_nvidia=nvidia,
        n_gpus=n_nvidia(root) if nvidia else 0,
        gpu_memory_bytes=gpu_memory_bytes() if nvidia else 0,
        multiplies_bf16=multiplies_bf16(root),
    )


def ask(command: Sequence[str]) -> Probe:
    """What another Python, container or machine has. command: starts a Python there with PROBE."""
    done = subprocess.run(list(command), capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OlivineError(f"the system cannot be asked what it has ('{' '.join(command)}' failed): {why}")
    return Probe.from_json(json.loads(done.stdout))


def has_nvidia(root: Path = allowance.ROOT) -> bool:
    """Whether an NVIDIA GPU is here, as the driver or its tool tells."""
    listed = root / "proc/driver/nvidia/gpus"
    return any(listed.iterdir()) if listed.is_dir() else shutil.which("nvidia-smi") is not None


def n_nvidia(root: Path = allowance.ROOT) -> int:
    """How many NVIDIA GPUs this process may use: those of the machine, or those that CUDA_VISIBLE_DEVICES leaves."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    listed = root / "proc/driver/nvidia/gpus"
    if listed.is_dir():
        return len(list(listed.iterdir()))
    return sum(line.startswith("GPU ") for line in _driver_says("--list-gpus"))


def gpu_memory_bytes() -> int:
    """Memory of the smallest NVIDIA GPU as the driver's tool says; 0 when it is not here or does not say."""
    sizes = _driver_says("--query-gpu=memory.total", "--format=csv,noheader,nounits")
    return min((int(size) * 2**20 for size in sizes if size.strip().isdigit()), default=0)


def multiplies_bf16(root: Path = allowance.ROOT) -> bool:
    """Whether this processor has instructions for bfloat16, as Linux tells; elsewhere none are counted on."""
    told = root / "proc/cpuinfo"
    if not told.is_file():
        return False
    lines = told.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not {"avx512_bf16", "amx_tile"}.isdisjoint(flags.split())


def _driver_says(*arguments: str) -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=False).stdout.splitlines()


if __name__ == "__main__":
    print(json.dumps(probe().to_json()))  # noqa: T201 - the answer

"""What a system has, found out on its side without importing a framework: `python -m olivine.systems._probe`."""

import functools
import importlib.metadata
import json
import os
import pkgutil
import platform
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from olivine import __version__, allowance, lazy, paths
from olivine.errors import OlivineError
from olivine.nvidia import driver_says

# What a Python is given to say what is there; `--store FOLDER` says on which disk it keeps what travels
PROBE = ("-P", "-m", "olivine.systems._probe")
PATIENCE_SECONDS = 120.0  # for the answer: an interpreter on a slow network disk takes its time

CPU: str = "CPUExecutionProvider"
CUDA: str = "CUDAExecutionProvider"
DML: str = "DmlExecutionProvider"
# execution provider -> distributions that bring it, and the extra to install
PROVIDERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    CPU: (("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml"), "cpu"),
    CUDA: (("onnxruntime-gpu",), "gpu"),
    DML: (("onnxruntime-directml",), "directml"),
}

_version = functools.cache(lazy.version_here)  # nothing is installed while a process runs


class Installed(Mapping[str, str]):
    """Versions of the distributions that are installed here, each looked up when it is asked for."""

    def __getitem__(self, name: str) -> str:
        """The version; KeyError when it is not installed."""
        if (installed := _version(name)) == "none":
            raise KeyError(name)
        return installed

    def __iter__(self) -> Iterator[str]:
        """Every name, once, spelt alike: lower case, with hyphens."""
        names = (one.metadata["Name"] for one in importlib.metadata.distributions())
        return iter(sorted({name.lower().replace("_", "-") for name in names if name}))

    def __len__(self) -> int:
        """How many there are."""
        return sum(1 for _ in self)


class Importable(Collection[str]):
    """Names of the modules that this Python can import, found without importing one."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and lazy.installed_here(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({module.name for module in pkgutil.iter_modules()}))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Probe:
    """Hardware and versions of a system; what decides a plan is asked of the system that will run it.

    memory_bytes, n_cores: what its control groups allow. has_nvidia: whether an NVIDIA GPU is there. n_gpus: how many
    of them a process may use. gpu_memory_bytes: of the smallest of them; 0 where the driver does not say. gpu_names:
    of all that the driver knows. compute_capability: the least of theirs, or 0.
    multiplies_bf16: whether the processor has instructions for bfloat16.
    system: "posix" or "nt". disk_bytes: free where its store lies; None where it has none, as it reads files here.
    olivine: its release there. versions: of installed distributions, by their names with hyphens. modules: names of
    those that can be imported.
    """

    memory_bytes: int
    n_cores: int
    has_nvidia: bool = False
    n_gpus: int = 0
    gpu_memory_bytes: int = 0
    multiplies_bf16: bool = False
    compute_capability: float = 0.0
    system: str = os.name
    versions: Mapping[str, str] = field(default_factory=Installed)
    modules: Collection[str] = field(default_factory=Importable)
    gpu_names: tuple[str, ...] = ()
    disk_bytes: int | None = None
    olivine: str = __version__

    @property
    def execution_providers(self) -> tuple[str, ...]:
        """Those whose package and hardware are there."""
        hardware = {CPU: True, CUDA: self.has_nvidia, DML: self.system == "nt"}
        return tuple(
            name
            for name, (packages, _) in PROVIDERS.items()
            if hardware[name] and any(self.version(package) != "none" for package in packages)
        )

    def version(self, distribution: str) -> str:
        """The version of a distribution there, or "none"."""
        return self.versions.get(distribution, "none")

    def to_json(self) -> dict[str, Any]:
        """JSON values only; the inverse of `from_json`."""
        plain = asdict(replace(self, versions={}, modules=()))
        lists = {"modules": sorted(self.modules), "gpu_names": list(self.gpu_names)}
        return plain | lists | {"versions": dict(self.versions)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        lists = {"modules": frozenset(record["modules"]), "gpu_names": tuple(record["gpu_names"])}
        return cls(**{**record, **lists})


def probe(root: Path = allowance.ROOT, store: Path | None = None) -> Probe:
    """What is here. root: of the file system, where the kernel and drivers tell. store: where files by content lie."""
    nvidia = has_nvidia(root)
    gpus = nvidia_gpus() if nvidia else []
    return Probe(
        memory_bytes=allowance.memory_bytes(root),
        n_cores=allowance.n_cores(root),
        has_nvidia=nvidia,
        n_gpus=n_nvidia(root) if nvidia else 0,
        gpu_memory_bytes=min((memory for _, memory in gpus if memory), default=0),
        gpu_names=tuple(name for name, _ in gpus),
        multiplies_bf16=multiplies_bf16(root),
        compute_capability=compute_capability() if nvidia else 0.0,
        disk_bytes=paths.free_disk_bytes(store) if store is not None else None,
    )


def ask(
    command: Sequence[str], environment: Mapping[str, str] | None = None, patience_seconds: float = PATIENCE_SECONDS
) -> Probe:
    """What another Python, container or machine has. command: starts a Python there with PROBE; environment: its own.

    Raises OlivineError with one sentence when there is no answer.
    """
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, check=False, env=environment, timeout=patience_seconds
        )
    except OSError as error:
        raise _unasked(command, (error.strerror or str(error)).lower()) from None
    except subprocess.TimeoutExpired:
        raise _unasked(command, f"no answer within {patience_seconds:.0f} seconds") from None
    if done.returncode:
        raise _unasked(command, (done.stderr.strip().splitlines() or ["no message"])[-1])
    return read_answer(done.stdout, " ".join(command))


def read_answer(printed: str, command: str) -> Probe:
    """The probe that a Python printed, whatever stands above it. command: that made it; OlivineError names it."""
    for line in reversed(printed.splitlines()):
        try:
            return Probe.from_json(json.loads(line))
        except (ValueError, TypeError, KeyError):
            continue
    raise _unasked([command], "its olivine is of another version than this one")


def _unasked(command: Sequence[str], why: str) -> OlivineError:
    return OlivineError(f"the system cannot be asked what it has ('{' '.join(command)}' failed): {why}")


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
    return sum(line.startswith("GPU ") for line in driver_says("--list-gpus"))


def nvidia_gpus() -> list[tuple[str, int]]:
    """Name and bytes of memory of every NVIDIA GPU as the driver's tool says; 0 bytes where it does not say."""
    told = [
        line.rpartition(",") for line in driver_says("--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    ]
    return [(name.strip(), int(size) * 2**20 if size.strip().isdigit() else 0) for name, _, size in told]


def compute_capability() -> float:
    """Of the NVIDIA GPU that has the least, as the driver's tool says; 0 where it does not say."""
    told = [line.strip() for line in driver_says("--query-gpu=compute_cap", "--format=csv,noheader")]
    return min((float(line) for line in told if line.replace(".", "", 1).isdigit()), default=0.0)


def multiplies_bf16(root: Path = allowance.ROOT) -> bool:
    """Whether this processor has instructions for bfloat16, as Linux tells; elsewhere none are counted on."""
    told = root / "proc/cpuinfo"
    if not told.is_file():
        return False
    lines = told.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not {"avx512_bf16", "amx_tile"}.isdisjoint(flags.split())


# what the kernel calls a feature of a processor -> what people call it
_FEATURES = {
    "avx": "AVX",
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_int8": "AMX int8",
    "amx_bf16": "AMX bf16",
    "asimd": "NEON",
    "asimddp": "dot products",
    "sve": "SVE",
    "i8mm": "int8 matrices",
    "bf16": "bf16",
}


def processor_features(root: Path = allowance.ROOT) -> list[str]:
    """The processor's model, and those of its instructions that decide how fast models run; as Linux tells."""
    told = root / "proc/cpuinfo"
    if not told.is_file():
        return [platform.processor()] if platform.processor() else []
    facts: dict[str, str] = {}
    for line in told.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip().lower(), value.strip())
    flags = (facts.get("flags") or facts.get("features") or "").split()
    model = facts.get("model name")
    return [*([model] if model else []), *(name for flag, name in _FEATURES.items() if flag in flags)]


def driver_version() -> str | None:
    """Of NVIDIA's driver, as its tool says; None where it does not."""
    return next((line.strip() for line in driver_says("--query-gpu=driver_version", "--format=csv,noheader")), None)


if __name__ == "__main__":
    _given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    _store = Path(_given["--store"]) if "--store" in _given else None
    print(json.dumps(probe(store=_store).to_json()))  # noqa: T201 - the answer

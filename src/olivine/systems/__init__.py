"""Where a job runs: plugins, one file each; a worker, started here or elsewhere, reads jobs and writes events."""

from typing import TYPE_CHECKING

from olivine import lazy
from olivine.registry import Registry
from olivine.systems._base import System

if TYPE_CHECKING:
    from olivine.systems._base import FilePath, Manifests, SystemParams, Worker
    from olivine.systems._batch import Batch, BatchWorker
    from olivine.systems._connected import ConnectedWorker, Started
    from olivine.systems._elsewhere import opened
    from olivine.systems._environment import ENVIRONMENT, OFFLINE
    from olivine.systems._probe import (
        CPU,
        CUDA,
        DML,
        PROBE,
        PROVIDERS,
        Importable,
        Installed,
        Probe,
        ask,
        driver_version,
        nvidia_gpus,
        processor_features,
        read_answer,
    )
    from olivine.systems._process import WORKER, WorkerProcess
    from olivine.systems._protocol import Ahead, Job, JobKind, Listener
    from olivine.systems._try_provider import TRY_PROVIDER
    from olivine.systems._wheel import build_wheel

systems: Registry[System] = Registry("olivine.systems", System, group="olivine.systems")  # type: ignore[type-abstract]

__all__ = [
    "CPU",
    "CUDA",
    "DML",
    "ENVIRONMENT",
    "OFFLINE",
    "PROBE",
    "PROVIDERS",
    "TRY_PROVIDER",
    "WORKER",
    "Ahead",
    "Batch",
    "BatchWorker",
    "ConnectedWorker",
    "FilePath",
    "Importable",
    "Installed",
    "Job",
    "JobKind",
    "Listener",
    "Manifests",
    "Probe",
    "Started",
    "System",
    "SystemParams",
    "Worker",
    "WorkerProcess",
    "ask",
    "build_wheel",
    "driver_version",
    "nvidia_gpus",
    "opened",
    "processor_features",
    "read_answer",
    "systems",
]

__getattr__ = lazy.names(
    __name__,
    {
        "_base": "FilePath Manifests System SystemParams Worker",
        "_batch": "Batch BatchWorker",
        "_connected": "ConnectedWorker Started",
        "_elsewhere": "opened",
        "_environment": "ENVIRONMENT OFFLINE",
        "_probe": "CPU CUDA DML PROBE PROVIDERS Importable Installed Probe ask driver_version nvidia_gpus "
        "processor_features read_answer",
        "_process": "WORKER WorkerProcess",
        "_protocol": "Ahead Job JobKind Listener",
        "_try_provider": "TRY_PROVIDER",
        "_wheel": "build_wheel",
    },
)

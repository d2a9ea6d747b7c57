"""Names of devices, as scripts compare them."""

from enum import StrEnum


class Device(StrEnum):
    """What a model runs on."""

    CPU = "cpu"
    GPU = "gpu"
    NPU = "npu"


class AcceleratorSpec:
    """A device and what runs a graph on it."""

    def __init__(self, accelerator_type: str, execution_provider: str | None = None, memory: int | None = None) -> None:
        self.accelerator_type, self.execution_provider, self.memory = accelerator_type, execution_provider, memory

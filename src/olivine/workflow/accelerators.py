"""What a config's systems ask for: one accelerator each, for passes or the result; the rest is refused by name."""

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from olivine.config.schema import Accelerator, Workflow, provider_device
from olivine.errors import Problem

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?(?:e\d+)?)\s*(?P<unit>[kmgt]?)(?P<binary>i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

Path = tuple[str | int, ...]
LOCAL = "LocalSystem"


@dataclass(frozen=True)
class Wish:
    """The accelerator that a role asks for, and where it stands in the config."""

    accelerator: Accelerator
    path: Path

    @property
    def device(self) -> str:
        """cpu, gpu or npu: as written, else that of the first execution provider; no wish at all is the CPU."""
        providers = self.accelerator.execution_providers
        return self.accelerator.device or (provider_device(providers[0]) if providers else "cpu")

    @property
    def memory_bytes(self) -> int | None:
        """The most that may be used of the device's memory; None where nothing, or nothing readable, is said."""
        return memory_bytes(self.accelerator.memory)


def name_of(workflow: Workflow, role: str) -> str | None:
    """The system of a role: the one that it names, or the only one that there is, where that is this machine."""
    named: str | None = getattr(workflow, role)
    if named is not None or len(workflow.systems) != 1:
        return named
    ((name, only),) = workflow.systems.items()
    return name if only.type == LOCAL else None


def wish(workflow: Workflow, role: str) -> Wish | None:
    """What is asked for in the role `host` or `target`; None when nothing is."""
    return wish_of(workflow, name_of(workflow, role))


def wish_of(workflow: Workflow, name: str | None) -> Wish | None:
    """What is asked for in the system of that name; None when nothing is."""
    system = workflow.systems.get(name) if name else None
    if name is None or system is None or not system.accelerators:
        return None
    return Wish(system.accelerators[0], ("systems", name, "accelerators", 0))


def memory_bytes(value: int | str | None) -> int | None:
    """Bytes of 16000000000, "16GB" or "14.5 GiB"; None when it is none of these, or nothing."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            return None
        base = 1024 if match["binary"] else 1000
        size = float(match["number"]) * base ** _POWERS[match["unit"].lower()]
        value = int(size) if math.isfinite(size) else None
    return value if value is not None and value > 0 else None


def check(workflow: Workflow) -> Iterator[Problem]:
    """What the roles and systems ask for that is not there or not done; `key` is the whole path in the config."""
    yield from _undefined(workflow)
    roles = [name_of(workflow, "host"), name_of(workflow, "target")]
    for name in dict.fromkeys(filter(None, [*roles, *(config.host for config in workflow.passes.values())])):
        yield from _accelerators(workflow, name)


def _undefined(workflow: Workflow) -> Iterator[Problem]:
    named: list[tuple[str, str | None, Path]] = [
        ("host", workflow.host, ("host",)),
        ("target", workflow.target, ("target",)),
    ]
    named += [("host", config.host, ("passes", name, "host")) for name, config in workflow.passes.items()]
    for role, system, path in named:
        if system is not None and system not in workflow.systems:
            close = difflib.get_close_matches(system, workflow.systems, n=1)
            known = f"systems has: {', '.join(workflow.systems) or 'none'}."
            hint = f"Did you mean '{close[0]}'?" if close else known
            message = f"{role} names the system '{system}', which is not defined."
            yield Problem("invalid-value", "", message, hint, path)


def _accelerators(workflow: Workflow, name: str) -> Iterator[Problem]:
    system = workflow.systems.get(name)
    path: Path = ("systems", name, "accelerators")
    for index, accelerator in enumerate(system.accelerators if system else ()):
        if index:
            message = f"system '{name}' has a second accelerator, and a run uses one."
            yield Problem("unsupported", "", message, "Define a system for each, and name one as host.", (*path, index))
            return
        yield from _accelerator(Wish(accelerator, (*path, index)))


def _accelerator(wanted: Wish) -> Iterator[Problem]:
    accelerator, path = wanted.accelerator, wanted.path
    if accelerator.memory is not None and wanted.memory_bytes is None:
        message = f"the memory of an accelerator must be a number of bytes, but is {accelerator.memory!r}."
        yield Problem("invalid-value", "", message, "Write 16000000000 or '16GB'.", (*path, "memory"))
    first = next(iter(accelerator.execution_providers), None)
    if wanted.device == "npu" and first in (None, "CPUExecutionProvider") and not accelerator.preference:
        message = "the device 'npu' is not served without its execution provider."
        fix = "Name that under execution_providers, or write cpu."
        yield Problem("unsupported", "", message, fix, (*path, "device"))
    if accelerator.device == "cpu" and first is not None and provider_device(first) == "gpu":
        message = f"'{first}' does not run on the device 'cpu'."
        yield Problem(
            "invalid-value", "", message, 'Write "device": "gpu", or CPUExecutionProvider.', (*path, "device")
        )

"""The packages that run the result, and the execution providers: each is tried, in a process of its own."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial

from olivine import lazy
from olivine.systems import TRY_PROVIDER, Probe
from olivine.workflow.conflicts import GENAI
from olivine.workflow.doctor._finding import Finding

_FIX = "Run: pip install 'olivine[cpu]' (or [gpu], [directml])"
_SECONDS = 120
_LIST = "import json, onnxruntime, onnxruntime_genai; print(json.dumps(onnxruntime.get_available_providers()))"
_REMOTE = ("AzureExecutionProvider",)  # it calls a service, and runs nothing here
_Found = partial(Finding, "runtime")


def runtime(probe: Probe, python: str) -> Iterator[Finding]:
    """Whether models can be built and run, and on which execution providers."""
    here = [f"{name} {lazy.version(name)}" for name in GENAI if lazy.version(name) != "none"]
    if not here:
        yield _Found("runtime", False, "no onnxruntime-genai is installed: models cannot be built or run", _FIX)
        return
    answer = _answer([python, "-c", _LIST])
    try:
        providers = json.loads(answer.splitlines()[-1])
    except (ValueError, IndexError):
        yield _Found("runtime", False, f"{here[0]} does not load: {answer}", _FIX)
        return
    yield _Found("runtime", True, f"{here[0]} loads")
    for provider in providers:
        if provider not in _REMOTE:
            yield _tried(provider, probe, python)


def _tried(provider: str, probe: Probe, python: str) -> Finding:
    """Whether the provider computes a sum; one that this machine is not made for may fail."""
    answer = _answer([python, *TRY_PROVIDER, provider])
    if answer == "ok":
        return _Found(provider, True, "runs a model")
    if provider in probe.execution_providers:
        fix = "Install what it names, in the version that the package asks for." if probe.has_nvidia else _FIX
        return _Found(provider, False, f"does not load: {answer}", fix)
    return _Found(provider, True, f"is not for this machine: {answer}")


def _answer(command: Sequence[str]) -> str:
    """The last line that a process prints, or in a few words why there is none."""
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {_SECONDS} seconds"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    return lines[-1] if lines else f"it ends with exit code {done.returncode} and no message"

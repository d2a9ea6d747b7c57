"""The doctor names what is broken and how to fix it."""

import subprocess
import sys

import pytest

from olivine import lazy
from olivine.systems import Probe
from olivine.workflow import doctor


def test_tested_environment_is_healthy():
    findings = doctor.diagnose()
    assert {finding.name for finding in findings} >= {"python", "torch", "transformers", "runtime", "memory", "disk"}
    assert [finding.name for finding in findings if not finding.ok and finding.name not in ("disk", "memory")] == []


def test_two_runtimes_at_once_are_named_with_the_fix(monkeypatch):
    real = lazy.version
    monkeypatch.setattr(lazy, "version", lambda name: "1.0" if name == "onnxruntime-gpu" else real(name))
    (finding,) = [finding for finding in doctor.diagnose() if finding.name == "onnxruntime"]
    assert not finding.ok
    assert "onnxruntime and onnxruntime-gpu are both installed" in finding.message
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in finding.fix


def test_version_out_of_range_is_named_with_the_range(monkeypatch):
    real = lazy.version
    monkeypatch.setattr(lazy, "version", lambda name: "4.40.0" if name == "transformers" else real(name))
    (finding,) = [finding for finding in doctor.diagnose() if finding.name == "transformers"]
    assert not finding.ok
    assert "4.40.0, wanted" in finding.message
    assert "pip install 'transformers" in finding.fix


def test_missing_runtime_is_named_with_the_extra(monkeypatch):
    monkeypatch.setattr(doctor, "RUNTIME", ("no-such-runtime",))
    (finding,) = [finding for finding in doctor.diagnose() if finding.name == "runtime"]
    assert not finding.ok
    assert "olivine[cpu]" in finding.fix


@pytest.fixture
def asked(monkeypatch):
    """The answer of the process that loads the runtime: an exit code and standard error, or none in time."""

    def answers(code=0, error="", probe=None):
        def run(command, **_):
            if code is None:
                raise subprocess.TimeoutExpired(command, 120)
            return subprocess.CompletedProcess(command, code, "CPUExecutionProvider\n", error)

        monkeypatch.setattr(doctor.subprocess, "run", run)
        return {finding.name: finding for finding in doctor.diagnose(probe)}

    return answers


def test_runtime_that_does_not_load_is_named_with_the_last_line_of_why(asked):
    finding = asked(1, "Traceback ...\nImportError: libcudart.so.13: cannot open shared object file")["runtime"]
    assert not finding.ok
    assert finding.message.endswith("ImportError: libcudart.so.13: cannot open shared object file")


def test_runtime_that_hangs_is_named(asked):
    assert "does not load within two minutes" in asked(None)["runtime"].message


def test_providers_are_those_that_the_runtime_finds(asked):
    assert "execution providers: CPUExecutionProvider" in asked()["runtime"].message


def test_small_machine_is_told_what_is_enough(asked, monkeypatch):
    monkeypatch.setattr(doctor, "free_disk_bytes", lambda folder: 10**9)
    findings = asked(probe=Probe(10**9, 2))
    assert not findings["memory"].ok
    assert not findings["disk"].ok
    assert "4 GB" in findings["memory"].fix
    assert "5 GB" in findings["disk"].fix


def test_gpu_and_bfloat16_are_told_and_never_broken(asked):
    findings = asked(probe=Probe(2**34, 2, has_nvidia=True))
    assert (findings["gpu"].ok, findings["gpu"].message) == (True, "NVIDIA GPU found")
    assert "float32" in findings["bfloat16"].message


def test_diagnosis_imports_no_framework_in_its_own_process():
    code = (
        "import sys; from olivine.workflow import doctor; doctor.diagnose()\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'numpy', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

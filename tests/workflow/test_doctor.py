"""The doctor names what is broken and how to fix it."""

from olivine import lazy
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

"""What a system has is found out without a framework, from where the kernel and the driver tell."""

import json
import shutil
import sys

import pytest

from olivine import lazy
from olivine.errors import OlivineError
from olivine.systems import Probe, SystemParams
from olivine.systems._probe import ask, has_nvidia, multiplies_bf16, n_nvidia
from olivine.systems.local import Local


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Put a driver's tool on the path, alone there, that says a text."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def put(said):
        file = folder / "nvidia-smi"
        file.write_text(f"#!{sys.executable}\nprint({said!r})\n")
        file.chmod(0o755)

    return put


def test_probe_survives_json_with_every_version():
    here = Local(SystemParams()).probe()
    there = Probe.from_json(json.loads(json.dumps(here.to_json())))
    assert there.to_json() == here.to_json()
    assert there.version("pydantic") == lazy.version("pydantic") != "none"
    assert there.version("no-such-distribution") == here.version("no-such-distribution") == "none"


def test_another_python_says_what_it_has():
    """And imports no framework for it."""
    code = (
        "import json, sys; from olivine.systems._probe import probe; text = json.dumps(probe().to_json())\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'numpy', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\nprint(text)"
    )
    told, here = ask([sys.executable, "-c", code]), Local(SystemParams()).probe()
    of_its_path = {"versions": {}, "modules": []}
    assert told.to_json() | of_its_path == here.to_json() | of_its_path
    assert {"torch", "olivine", "json"} <= set(told.modules)
    assert "none_such" not in told.modules
    for name in ("torch", "transformers", "onnxruntime", "olivine", "none-such"):
        assert told.version(name) == here.version(name)


def test_system_that_cannot_be_asked_is_named():
    with pytest.raises(OlivineError, match=r"cannot be asked .* failed\): no interpreter here"):
        ask([sys.executable, "-c", "raise SystemExit('no interpreter here')"])


def test_gpu_is_found_by_what_the_driver_lists(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert not has_nvidia(tmp_path)
    listed = tmp_path / "proc/driver/nvidia/gpus"
    listed.mkdir(parents=True)
    assert not has_nvidia(tmp_path)  # a driver without a card
    (listed / "0000:01:00.0").mkdir()
    assert has_nvidia(tmp_path)
    assert n_nvidia(tmp_path) == 1


@pytest.mark.skipif(shutil.which("sh") is None, reason="makes a tool that is a script")
def test_gpus_are_counted_by_the_tool_of_the_driver(tmp_path, tool):
    assert not has_nvidia(tmp_path)
    assert n_nvidia(tmp_path) == 0
    tool("GPU 0: NVIDIA H100 (UUID: GPU-1)\nGPU 1: NVIDIA H100 (UUID: GPU-2)")
    assert has_nvidia(tmp_path)
    assert n_nvidia(tmp_path) == 2


@pytest.mark.parametrize(("text", "n_visible"), [("0,1,2", 3), ("", 0), ("-1", 0), ("GPU-8932f937", 1)])
def test_visible_gpus_are_counted(monkeypatch, tmp_path, text, n_visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
    assert n_nvidia(tmp_path) == n_visible


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu avx512_bf16", True), ("fpu amx_tile", True), ("fpu avx2", False)]
)
def test_processor_tells_whether_it_multiplies_bf16(tmp_path, flags, expected):
    assert not multiplies_bf16(tmp_path)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
    assert multiplies_bf16(tmp_path) is expected

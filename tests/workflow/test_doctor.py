"""The doctor names what is broken and how to fix it."""

import json
import os
import subprocess
import sys

import pytest

from fake_hub import fake_hub
from olivine import lazy
from olivine.cli import exit_code
from olivine.systems import TRY_PROVIDER, Importable, Installed, Probe, processor_features
from olivine.workflow.doctor import diagnose

SMALL = Probe(2**34, 2)


@pytest.fixture
def told():
    """What the doctor says of an environment that has other packages, by the name of the finding."""

    def told(probe=SMALL, python="/nowhere/python", root=None, **versions):
        known = dict(Installed()) | {name.replace("_", "-"): version for name, version in versions.items()}
        known = {name: version for name, version in known.items() if version != "none"}
        with lazy.environment(known, Importable()):
            findings = diagnose(probe, python=str(python), **({"root": root} if root else {}))
        return {finding.name: finding for finding in reversed(findings)}  # the first of a name wins

    return told


@pytest.fixture
def interpreter(tmp_path):
    """A Python that says something else when it is asked for its runtime."""

    def interpreter(lines):
        path = tmp_path / "python"
        path.write_text(f"#!{sys.executable}\nimport sys\nasked = sys.argv[-1]\n{lines}\n")
        path.chmod(0o755)
        return path

    return interpreter


def test_tested_environment_is_healthy():
    findings = diagnose()
    names = {finding.name for finding in findings}
    assert names >= {"python", "processor", "cores", "torch", "runtime", "CPUExecutionProvider", "memory", "disk"}
    assert [finding for finding in findings if not finding.ok and finding.name not in ("disk", "memory")] == []
    assert "ruff" not in names


def test_two_runtimes_at_once_are_named_with_the_command_that_leaves_one(told):
    finding = told(onnxruntime="1.23.0", onnxruntime_gpu="1.24.0")["onnxruntime"]
    assert finding.ok  # of the package itself: its version is a tested one
    with lazy.environment(dict(Installed()) | {"onnxruntime-gpu": "1.24.0", "onnxruntime": "1.23.0"}, Importable()):
        broken = [one for one in diagnose(SMALL, python="/nowhere") if "break each other" in one.message]
    assert [one.message for one in broken] == [
        "onnxruntime and onnxruntime-gpu are both installed and break each other"
    ]
    assert broken[0].fix == "Run: pip uninstall -y onnxruntime onnxruntime-gpu; pip install onnxruntime==1.23.0"


@pytest.mark.parametrize(
    ("versions", "has_nvidia", "kept"),
    [
        ({"onnxruntime": "1.23.0", "onnxruntime-gpu": "1.24.0"}, True, "onnxruntime-gpu==1.24.0"),
        ({"onnxruntime": "1.23.0", "onnxruntime-gpu": "1.24.0"}, False, "onnxruntime==1.23.0"),
        (
            {"onnxruntime": "1.23.0", "onnxruntime-gpu": "1.24.0", "onnxruntime-genai-cuda": "0.18.0"},
            False,
            "onnxruntime-gpu==1.24.0",
        ),
        (
            {"onnxruntime-genai": "0.18.0", "onnxruntime-genai-directml": "0.18.1", "onnxruntime-directml": "1.23.0"},
            False,
            "onnxruntime-genai-directml==0.18.1",
        ),
    ],
)
def test_what_stays_fits_the_other_package_and_the_machine(versions, has_nvidia, kept):
    from olivine.workflow.conflicts import conflicts

    (conflict,) = conflicts(lambda name: versions.get(name, "none"), has_nvidia=has_nvidia)
    assert conflict.fix.endswith(f"; pip install {kept}")


def test_version_out_of_range_is_named_with_the_range(told):
    finding = told(transformers="4.40.0")["transformers"]
    assert not finding.ok
    assert finding.message.startswith("4.40.0, tested with")
    assert "pip install 'transformers" in finding.fix


def test_extra_that_is_here_in_another_version_is_named(told):
    assert not told(optuna="2.0")["optuna"].ok
    assert "optuna" not in told(optuna="none")


def test_missing_runtime_is_named_with_the_extra(told):
    finding = told(onnxruntime_genai="none")["runtime"]
    assert not finding.ok
    assert "olivine[cpu]" in finding.fix


def test_runtime_that_does_not_load_is_named_with_the_last_line_of_why(told, interpreter):
    python = interpreter("sys.exit('Traceback ...\\nImportError: libcudart.so.13: cannot open shared object file')")
    finding = told(python=python)["runtime"]
    assert not finding.ok
    assert finding.message.endswith("ImportError: libcudart.so.13: cannot open shared object file")


def test_runtime_that_crashes_is_named(told, interpreter):
    finding = told(python=interpreter("import os; os.kill(os.getpid(), 11)"))["runtime"]
    assert "exit code -11" in finding.message


PROVIDERS = """
answers = {"CUDAExecutionProvider": "libcudnn.so.9 is missing", "CPUExecutionProvider": "ok"}
print(answers.get(asked) or '["CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]')
"""


def test_provider_that_is_listed_and_does_not_load_is_named(told, interpreter):
    gpu = Probe(2**34, 2, has_nvidia=True, n_gpus=1, versions={"onnxruntime-gpu": "1.24.0"})
    findings = told(gpu, interpreter(PROVIDERS))
    assert not findings["CUDAExecutionProvider"].ok
    assert "libcudnn.so.9 is missing" in findings["CUDAExecutionProvider"].message
    assert findings["CPUExecutionProvider"].ok
    assert "AzureExecutionProvider" not in findings


def test_provider_of_other_hardware_may_fail(told, interpreter):
    findings = told(SMALL, interpreter(PROVIDERS))
    assert findings["CUDAExecutionProvider"].ok
    assert findings["CUDAExecutionProvider"].message == "is not for this machine: libcudnn.so.9 is missing"


@pytest.mark.parametrize(("provider", "said"), [("CPUExecutionProvider", "ok"), ("NoSuchProvider", "NoSuchProvider")])
def test_provider_is_tried_by_running_a_model(provider, said):
    command = [sys.executable, *TRY_PROVIDER, provider]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said in done.stdout.splitlines()[-1] or "libraries do not load" in done.stdout


def test_small_machine_is_told_what_is_enough(told):
    findings = told(Probe(10**9, 1))
    assert not findings["memory"].ok
    assert "4 GB" in findings["memory"].fix
    assert findings["cores"].message.startswith("1")


def test_gpu_whose_driver_says_nothing_is_broken(told, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    findings = told(Probe(2**34, 2, has_nvidia=True), torch="2.9.0+cpu")
    assert not findings["gpu"].ok
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "nvidia-smi").write_text(
        f"#!{sys.executable}\nimport sys\nprint('580.65' if 'driver' in sys.argv[1] else 'NVIDIA H200, 143771')\n"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    findings = told(Probe(2**34, 2, has_nvidia=True, n_gpus=1))
    assert findings["gpu"].ok
    assert findings["gpu"].message == "NVIDIA H200, 150.8 GB, driver 580.65"


def test_cpu_build_of_torch_beside_a_gpu_is_named(told):
    with lazy.environment(dict(Installed()) | {"torch": "2.9.0+cpu"}, Importable()):
        findings = diagnose(Probe(2**34, 2, has_nvidia=True), python="/nowhere")
    assert [one.ok for one in findings if "is the CPU build" in one.message] == [False]


@pytest.mark.parametrize(
    ("lines", "features"),
    [
        ("model name\t: Some CPU\nflags\t\t: fpu avx avx2 amx_bf16\n", ["Some CPU", "AVX", "AVX2", "AMX bf16"]),
        ("processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n", ["NEON", "int8 matrices", "bf16"]),
    ],
)
def test_features_of_a_processor_are_those_that_decide_its_speed(lines, features, tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(lines)
    assert processor_features(tmp_path) == features


@pytest.mark.parametrize(
    ("token", "code", "said"),
    [("", 0, "answers, to anybody"), ("hf_known", 0, "answers someone"), ("hf_old", 1, "does not know the token")],
)
def test_hub_is_asked_when_that_is_wished(token, code, said, tmp_path):
    with fake_hub() as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path),
            "HF_TOKEN": token,
            "COLUMNS": "200",
        }
        command = "from olivine.workflow.doctor._hub import hub; told = hub(); print(told.message); exit(not told.ok)"
        done = subprocess.run(
            [sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=False
        )
        assert said in done.stdout, done.stderr
        assert done.returncode == code
        assert hub.asked in (["/api/models"], ["/api/whoami-v2"])
        if token:
            assert token not in done.stdout + done.stderr


def test_hub_without_an_answer_is_one_sentence_and_the_fix():
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "olivine", "doctor", "--hub", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    (hub,) = [one for one in json.loads(done.stdout) if one["name"] == "hub"]
    assert (done.returncode, hub["ok"]) == (1, False)
    assert "HF_ENDPOINT" in hub["fix"]


def test_screen_ends_with_what_is_to_be_mended(capsys):
    code = exit_code(["doctor"])
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if not line.startswith(" ")][:3] == ["machine", "packages", "runtime"]
    assert said.splitlines()[-1].startswith(("nothing is broken", "to be mended: ")[code])


def test_diagnosis_imports_no_framework_in_its_own_process():
    code = (
        "import sys; from olivine.workflow import doctor; doctor.diagnose()\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'numpy', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""What every test may use; the environment of all of them is offline."""

import operator
import os
import random
import signal
import sys

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
os.environ.pop("COLUMNS", None)  # of the terminal that the suite runs in: lines would be broken at it
os.unsetenv("COLUMNS")  # readline puts it where os.environ does not see it and programs that are started do

import hypothesis
import pytest

from left_out import lines
from tiny import tiny_adapter, tiny_model
from warm import WORKERS, Warm

# A busy machine is slow and nothing else is wrong with it; continuous integration sees the same examples each time.
hypothesis.settings.register_profile(
    "suite",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
hypothesis.settings.load_profile("suite")

# of a worker that trains, merges, builds and scores; what else it needs, it imports itself
IMPORTS = (
    "torch",
    "transformers.trainer",
    "transformers.models.llama.modeling_llama",
    "peft",
    "datasets",
    "onnx",
    "onnxruntime_genai.models.builder",
    "olivine.systems._job",
    "olivine.evaluate._score",
    "olivine.exporting.rounding",
    "olivine.kernels._blocks",
    "olivine.passes.export.build",
    "olivine.passes.finetune.lora",
    "olivine.passes.finetune.merge",
    "olivine.training.trainer",
)


def pytest_configure():
    """A suite in the background, or under nohup, inherits ignored signals; so would the programs that it ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.name == "posix":
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items):
    """Files with slow tests come first: the last of two processes to end has little left then."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_terminal_summary(terminalreporter):
    """Systems that were not tested, or not whole, are named with the reason."""
    if left_out := lines(terminalreporter.stats.get("skipped", [])):
        terminalreporter.section("tests of systems that were left out")
        for line in left_out:
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _same_numbers_each_time():
    """Whatever ran before in this process: a test that draws numbers draws the same ones."""
    random.seed(0)
    for library, seed in (("numpy", "random.seed"), ("torch", "manual_seed")):
        if library in sys.modules:
            operator.attrgetter(seed)(sys.modules[library])(0)


@pytest.fixture(scope="session")
def warm_python():
    """An interpreter whose workers are forks of one process that has imported what they import."""
    if sys.platform != "linux":
        yield sys.executable
        return
    with Warm(os.environ, parents={("olivine",): (), WORKERS: IMPORTS}) as warm:
        yield warm.python


@pytest.fixture
def warm(warm_python, monkeypatch):
    """For tests of what a worker does, not of how it starts: nine tenths of its time are imports."""
    monkeypatch.setattr(sys, "executable", warm_python)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """An untied Llama; read only."""
    return tiny_model(tmp_path_factory.mktemp("llama") / "model", "llama")


@pytest.fixture(scope="session")
def tiny_tied(tmp_path_factory):
    """A Llama whose head is its embedding; read only."""
    return tiny_model(tmp_path_factory.mktemp("tied") / "model", "llama", tied=True)


@pytest.fixture(scope="session")
def tiny_phi3(tmp_path_factory):
    """A Phi-3 with fused layers; read only."""
    return tiny_model(tmp_path_factory.mktemp("phi3") / "model", "phi3")


@pytest.fixture(scope="session")
def llama_adapter(tiny_llama, tmp_path_factory):
    """An adapter of `tiny_llama`; read only."""
    return tiny_adapter(tiny_llama, tmp_path_factory.mktemp("adapter") / "adapter")

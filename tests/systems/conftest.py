"""Jobs for the fake passes of tests/workflow."""

import os
import sys
from pathlib import Path

import pytest

import olivine
from olivine.systems import Job

WORKFLOW = Path(__file__).parent.parent / "workflow"
MACHINE = {
    "device": "cpu",
    "execution_provider": "CPUExecutionProvider",
    "memory_bytes": 2**34,
    "disk_bytes": 2**36,
    "n_cores": 2,
    "offline": True,
}


@pytest.fixture
def fakes(tmp_path_factory, monkeypatch):
    """The fake passes, known to every worker that is started."""
    info = tmp_path_factory.mktemp("fakes") / "olivine_fakes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: olivine-fakes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[olivine.passes]\nwrite = olivine_fakes:Write\nfail = olivine_fakes:Fail\n")
    places = [str(info.parent), str(WORKFLOW / "fakes"), str(Path(olivine.__file__).parent.parent)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*places, *sys.path]))


@pytest.fixture
def job(fakes, tmp_path):
    """Make a job for a pass."""
    (tmp_path / "base").mkdir()
    n_jobs = iter(range(100))

    def make(name, **params):
        index = next(n_jobs)
        output, scratch = tmp_path / f"output{index}", tmp_path / f"scratch{index}"
        output.mkdir()
        scratch.mkdir()
        model = {"format": "hf", "path": str(tmp_path / "base")}
        log = str(tmp_path / f"log{index}")
        return Job("pass", f"step{index}", output, scratch, name, params, model, machine=MACHINE, log=log)

    return make

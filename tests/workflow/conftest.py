"""The fake passes, installed for a test as any other distribution is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import olivine
from olivine.passes import passes

FAKES = Path(__file__).parent / "fakes"
NAMES = ("Write", "Adapt", "Scale", "Stray", "Fail", "Spoil", "Claim", "Tune")


def install_fakes(folder: Path) -> list[str]:
    """A distribution with the entry points; gives what must stand on the path."""
    info = folder / "olivine_fakes-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: olivine-fakes\nVersion: 1.0\n")
    lines = [f"{name.lower()} = olivine_fakes:{name}\n" for name in NAMES]
    (info / "entry_points.txt").write_text("[olivine.passes]\n" + "".join(lines))
    return [str(folder), str(FAKES)]


@pytest.fixture
def fakes(tmp_path_factory, monkeypatch):
    """The fake passes, known here and in every worker that is started."""
    places = install_fakes(tmp_path_factory.mktemp("fakes"))
    for place in places:
        monkeypatch.syspath_prepend(place)
    source = str(Path(olivine.__file__).parent.parent)
    known = [*places, source, *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(known))
    passes.forget()
    import fake_plans

    yield fake_plans
    passes.forget()


@pytest.fixture
def start(fakes):
    """Start a run in a process of its own; whatever is left of it is ended with the test."""
    started = []

    def start(*arguments):
        command = [sys.executable, str(FAKES / "fake_plans.py"), *map(str, arguments)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        if not process.stdout.closed:
            process.communicate()

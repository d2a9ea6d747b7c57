"""What every system keeps to, as tests that a system's own test class inherits."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pytest

from olivine.errors import StepFailed
from olivine.models import Model
from olivine.systems import Job, Listener, Probe, System, Worker, opened
from olivine.systems.local import Local
from olivine.testing._plugin import check_help, check_params
from olivine.testing.tiny import tiny_checkpoint
from olivine.work import Machine

SECRET = "a secret of this environment"  # noqa: S105 - what must not be found

MakeJob = Callable[..., Job]


class SystemContract:
    """Set `system` to the class; give it the params for a test in `make`, and end its worker in `end`."""

    system: ClassVar[type[System]]

    def make(self, folder: Path) -> System:  # noqa: ARG002
        """The system; what it keeps may lie in the folder, which is empty."""
        return self.system(self.system.Params())

    def end(self, told: Mapping[str, Any]) -> None:
        """End a worker as a machine that goes down would. told: what its event `started` said."""
        os.kill(told["pid"], signal.SIGKILL)

    @pytest.fixture
    def there(self, tmp_path: Path) -> Path:
        """The folder of the system."""
        (tmp_path / "there").mkdir()
        return tmp_path / "there"

    @pytest.fixture
    def worker(self, tmp_path: Path, there: Path) -> Iterator[Worker]:
        """A worker of the system, for jobs of this machine."""
        with opened(self.make(there), tmp_path / "cache") as worker:
            yield worker

    @pytest.fixture
    def job(self, tmp_path: Path) -> MakeJob:
        """Make a job, with folders of its own."""
        n_jobs = iter(range(100))

        def make(kind: str, **fields: Any) -> Job:
            folder = tmp_path / f"job{next(n_jobs)}"
            output, scratch = folder / "output", folder / "scratch"
            output.mkdir(parents=True)
            scratch.mkdir()
            machine = asdict(Machine("cpu", "CPUExecutionProvider", 2**34, 2**36, 1, offline=True))
            log = str(folder / "log")
            return Job(kind, "try", output, scratch, machine=machine, log=log, **fields)  # type: ignore[arg-type]

        return make

    def test_docstring_and_params_can_be_shown_and_written(self) -> None:
        """The help of the plugin is the first line of its docstring."""
        check_help(self.system)
        check_params(self.system.Params)

    def test_probe_says_what_is_there(self, there: Path) -> None:
        """A plan needs memory, cores and the versions that keys hold."""
        probe = self.make(there).probe()
        assert probe.memory_bytes > 0
        assert probe.n_cores > 0
        assert probe.version("olivine-of-nobody") == "none"
        assert Probe.from_json(probe.to_json()).to_json() == probe.to_json()

    def test_result_is_that_of_this_machine(
        self, job: MakeJob, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same files with the same bytes, and a record that names places of this machine.

        What the environment holds, and where files lie here, is not for another machine to keep.
        """
        monkeypatch.setenv("SOME_TOKEN", SECRET)
        model = Model("hf", tiny_checkpoint(tmp_path / "model")).to_json()
        made, here = job("materialize", model=model), job("materialize", model=model)
        with opened(self.make(there), tmp_path / "cache") as worker:
            result = worker.run(made, _ignore)
        expected = run_here(here, _ignore)
        assert contents(made.output) == contents(here.output) != {}
        assert result["model"] == expected["model"] | {"path": str(made.output)}
        kept = b"".join(path.read_bytes() for path in there.rglob("*") if path.is_file())
        assert SECRET.encode() not in kept
        assert str(tmp_path).encode() not in kept

    def test_job_that_fails_says_why_as_here(self, worker: Worker, job: MakeJob, tmp_path: Path) -> None:
        """The places in the sentence are those of this machine, and the worker goes on to the next job."""
        model = damaged_model(tmp_path / "model").to_json()
        with pytest.raises(StepFailed) as here:
            run_here(job("materialize", model=model), _ignore)
        for _ in range(2):
            with pytest.raises(StepFailed) as there:
                worker.run(job("materialize", model=model), _ignore)
            assert there.value.cause == here.value.cause
        assert str(tmp_path / "model") in there.value.cause

    def test_worker_that_ends_is_named_and_the_next_job_gets_another(
        self, worker: Worker, job: MakeJob, tmp_path: Path
    ) -> None:
        """Nothing waits for what does not come."""
        model = damaged_model(tmp_path / "model").to_json()

        def listen(event: str, told: Mapping[str, Any]) -> None:
            if event == "started":
                self.end(told)

        made = job("materialize", model=model)
        with pytest.raises(StepFailed, match="its worker ") as ended:
            worker.run(made, listen)
        assert (ended.value.step, str(ended.value.log)) == (made.step, made.log)
        heard: list[str] = []
        with pytest.raises(StepFailed, match=r"model\.safetensors"):
            worker.run(job("materialize", model=model), lambda event, _: heard.append(event))
        assert heard == ["started"]


def run_here(job: Job, listen: Listener) -> dict[str, Any]:
    """The result of a job on this machine."""
    with Local(Local.Params()).worker() as worker:
        return worker.run(job, listen)


def damaged_model(folder: Path) -> Model:
    """A model whose weights are no weights."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"no weights")
    return Model("hf", folder)


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file, by its name below the folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _ignore(event: str, told: Mapping[str, Any]) -> None:
    pass

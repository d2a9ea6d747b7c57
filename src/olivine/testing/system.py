"""What every system keeps to, as tests that a system's own test class inherits."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from olivine.config.schema import DataConfig
from olivine.errors import Interrupted, StepFailed
from olivine.models import Model
from olivine.systems import Job, Listener, Probe, System, Worker, opened
from olivine.systems.local import Local
from olivine.testing._plugin import check_help, check_params
from olivine.testing.tiny import tiny_checkpoint, write_rows
from olivine.work import Machine
from olivine.workflow.keys import score_params
from olivine.workflow.steps import ScoreRows, Script

SECRET = "a secret of this environment"  # noqa: S105 - what must not be found

_BESIDE = {"progress", "submitted"}  # events that come as often as there is work, or where a job goes elsewhere

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

    def is_there(self, told: Mapping[str, Any]) -> bool:
        """Whether the worker that said so is still at work."""
        return bool(psutil.pid_exists(told["pid"]))

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

    def test_events_come_in_order(self, worker: Worker, job: MakeJob, tmp_path: Path) -> None:
        """A worker says first that it has started, and the progress of each stage goes forward to its end."""
        model = Model("hf", tiny_checkpoint(tmp_path / "model")).to_json()
        heard: list[tuple[str, Mapping[str, Any]]] = []
        result = worker.run(
            job("score", model=model, params=scoring(tmp_path)), lambda event, told: heard.append((event, told))
        )
        assert [event for event, _ in heard if event != "submitted"].index("started") == 0
        progress = [told for event, told in heard if event == "progress"]
        done = [told for told in progress if "reading" not in told["metrics"]]
        assert is_forward([told for told in progress if "reading" in told["metrics"]])
        assert is_forward(done)
        assert done[-1]["done"] == result["scores"]["n_rows"] == 8

    def test_what_lies_there_already_does_not_travel_again(self, job: MakeJob, there: Path, tmp_path: Path) -> None:
        """Neither a model that was sent before, nor what a job made there."""
        system, sent = self.make(there), []
        put = system.put

        def note(source: Path, hashed: str) -> None:
            sent.append(hashed)
            put(source, hashed)

        system.put = note  # type: ignore[method-assign]
        model = Model("hf", tiny_checkpoint(tmp_path / "model")).to_json()
        first, second, third = (job("materialize", model=model) for _ in range(3))
        with opened(system, tmp_path / "cache") as worker:
            result = worker.run(first, _ignore)
            assert bool(sent) is not system.reads_here
            assert len(sent) == len(set(sent))
            sent.clear()
            worker.run(second, _ignore)
            worker.run(replace(third, model=result["model"]), _ignore)
        assert sent == []

    def test_cancelled_job_is_cancelled(self, worker: Worker, job: MakeJob, tmp_path: Path) -> None:
        """Ctrl-C ends what is at work, and the next job gets another worker."""
        started: list[Mapping[str, Any]] = []

        def stop(event: str, told: Mapping[str, Any]) -> None:
            if event == "started":
                started.append(told)
                raise KeyboardInterrupt

        with pytest.raises(Interrupted, match="in step 'try'"):
            worker.run(job("score", **endless(tmp_path)), stop)
        assert not self.is_there(started[0])
        model = Model("hf", tiny_checkpoint(tmp_path / "other")).to_json()
        assert worker.run(job("materialize", model=model), _ignore)["model"]["format"] == "hf"

    def test_line_that_breaks_is_taken_up_where_it_broke(self, worker: Worker, job: MakeJob, tmp_path: Path) -> None:
        """No event is lost, none comes twice, and the job goes on meanwhile."""
        if not worker.has_line:
            pytest.skip("this system's workers have no line that could break")
        model = Model("hf", tiny_checkpoint(tmp_path / "model")).to_json()
        heard: list[tuple[str, Mapping[str, Any]]] = []

        def listen(event: str, told: Mapping[str, Any]) -> None:
            heard.append((event, told))
            if event == "started":
                worker.hang_up()

        assert worker.run(job("materialize", model=model), listen)["model"]["format"] == "hf"
        assert [event for event, _ in heard if event not in _BESIDE] == ["started"]
        read = [told for event, told in heard if event == "progress"]
        assert is_forward(read)
        assert read[-1]["done"] == read[-1]["total"]

    def test_worker_that_ends_is_named_and_the_next_job_gets_another(
        self, worker: Worker, job: MakeJob, tmp_path: Path
    ) -> None:
        """Nothing waits for what does not come."""

        def listen(event: str, told: Mapping[str, Any]) -> None:
            if event == "started":
                self.end(told)

        made = job("score", **endless(tmp_path))
        with pytest.raises(StepFailed, match="its worker ") as ended:
            worker.run(made, listen)
        assert (ended.value.step, str(ended.value.log)) == (made.step, made.log)
        heard: list[str] = []
        model = damaged_model(tmp_path / "damaged").to_json()
        with pytest.raises(StepFailed, match=r"model\.safetensors"):
            worker.run(job("materialize", model=model), lambda event, _: heard.append(event))
        assert [event for event in heard if event not in _BESIDE] == ["started"]


def scoring(folder: Path, *scripts: Script) -> dict[str, Any]:
    """The params of a job that scores a model on eight rows, which are written to the folder."""
    load = {"data_name": "json", "data_files": str(write_rows(folder / "rows.jsonl"))}
    text = {"text_template": "{phrase} {tone}", "max_seq_len": 64}
    config = DataConfig(name="rows", load_dataset_config=load, pre_process_data_config=text)
    rows = ScoreRows(config, "all", None, 0, "tone", 100, scripts=scripts)
    return {**score_params(rows), "previous": None}


def endless(folder: Path) -> dict[str, Any]:
    """The fields of a job that scores a model for as long as its worker lives: whatever ends it does so in time."""
    path = folder / "endless.py"
    path.write_text("import time\n\n\ndef wait(*_):\n    while True:\n        time.sleep(1)\n", encoding="utf-8")
    script = Script("wait", path, None, "wait", on_outputs=False, kwargs={}, numbers=())
    model = Model("hf", tiny_checkpoint(folder / "model")).to_json()
    return {"model": model, "params": scoring(folder, script), "files": (str(path),)}


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


def is_forward(progress: Sequence[Mapping[str, Any]]) -> bool:
    """Whether each of one stage is further than the one before, and none comes twice."""
    places = [told["done"] for told in progress]
    return places == sorted(places) and len({*places}) == len(places)


def _ignore(event: str, told: Mapping[str, Any]) -> None:
    pass

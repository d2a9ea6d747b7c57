"""What it costs to run elsewhere: overhead of a step, bytes of a second run, time to re-attach, trials on Ray.

A small random Llama, so that next to nothing of a number is the work itself. Docker, Kubernetes and AzureML are the
fakes of the tests (they speak the API and really run what they are told to, without images, mounts and queues), unless
OLIVINE_TEST_IMAGE names an image of a real engine; Ray is a cluster of several nodes on this machine. No environment
can have Ray and AzureML: `make test-ray` makes .venv-ray, `make test-azureml` .venv-azureml, and each system is
measured beside a step here in the same one. What is not measured stays in the result as it was.

    .venv-ray/bin/python benchmarks/systems.py [--smoke] [--only ray local ...]
    .venv-azureml/bin/python benchmarks/systems.py --only local azureml [--smoke]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
os.environ.setdefault("RAY_worker_niceness", "0")

from _machine import median, write

from olivine.config import load
from olivine.config.schema import DataConfig
from olivine.models import Model
from olivine.systems import Job, System, Worker, opened, systems
from olivine.testing.tiny import tiny_checkpoint, write_rows
from olivine.work import Machine
from olivine.workflow.engine import run
from olivine.workflow.events import TrialDone
from olivine.workflow.keys import score_params
from olivine.workflow.plan import make_plan
from olivine.workflow.steps import ScoreRows

TEXT = {"text_template": "{phrase} {tone}", "train_on": "completion", "max_seq_len": 64}
MACHINE = asdict(Machine("cpu", "CPUExecutionProvider", 2**34, 2**36, 1, offline=True))


@dataclass(frozen=True)
class Size:
    """How much is measured. n_jobs: warm ones. n_rows: of a job that is re-attached to. n_steps: of a trial."""

    n_jobs: int
    n_rows: int
    n_trials: int
    n_steps: int
    n_workers: tuple[int, ...]


FULL = Size(n_jobs=20, n_rows=4000, n_trials=16, n_steps=200, n_workers=(1, 2, 4))
SMOKE = Size(n_jobs=2, n_rows=1000, n_trials=2, n_steps=4, n_workers=(1, 2))
Make = Callable[[], System]


# Systems


@contextmanager
def local(folder: Path) -> Iterator[dict[str, Any]]:  # noqa: ARG001 - one signature for all
    """The machine itself."""
    yield {"type": "LocalSystem"}


@contextmanager
def python_environment(folder: Path) -> Iterator[dict[str, Any]]:  # noqa: ARG001 - one signature for all
    """Our own Python, as another one."""
    yield {"type": "PythonEnvironment", "config": {"python_environment_path": sys.executable}}


@contextmanager
def docker(folder: Path) -> Iterator[dict[str, Any]]:
    """A container of an engine."""
    if image := os.environ.get("OLIVINE_TEST_IMAGE"):
        yield {"type": "Docker", "config": {"image_name": image, "store": str(folder / "store")}}
        return
    import olivine
    from fakes.docker_engine import Engine

    engine = Engine(Path(tempfile.mkdtemp(prefix="engine-")))  # short: so is the name of a socket
    packages = [place for place in sys.path if place.endswith("site-packages")]  # one environment may lie on another
    engine.images["olivine:1"] = engine.image(str(Path(olivine.__file__).parent.parent), *packages)
    os.environ["DOCKER_HOST"] = engine.url
    try:
        yield {"type": "Docker", "config": {"image_name": "olivine:1", "store": str(folder / "store")}}
    finally:
        engine.close()


@contextmanager
def kubernetes(folder: Path) -> Iterator[dict[str, Any]]:
    """A cluster whose pods see a folder of this machine."""
    from fakes.kubernetes import images
    from fakes.kubernetes.server import Cluster

    (folder / "claim").mkdir()
    image = images.with_olivine(folder / "image")
    with Cluster(folder, {"olivine:1": image}, claims={"disk": folder / "claim"}) as cluster:
        places = {"volume_claim": "disk", "volume_folder": str(folder / "claim")}
        yield {
            "type": "Kubernetes",
            "config": {"image": "olivine:1", "kubeconfig": str(cluster.kubeconfig()), **places},
        }


@contextmanager
def ray(folder: Path, n_nodes: int = 1) -> Iterator[dict[str, Any]]:
    """A cluster of a head and some nodes of one core."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "node_name": "head", "include_dashboard": False}
    )
    try:
        for number in range(n_nodes):
            cluster.add_node(num_cpus=1, node_name=f"node-{number}")
        yield {"type": "Ray", "config": {"address": cluster.address, "store": str(folder / "store")}}
    finally:
        cluster.shutdown()


@contextmanager
def azureml(folder: Path) -> Iterator[dict[str, Any]]:
    """A compute of a workspace, which is asked as often as a real one."""
    import azure.ai.ml  # noqa: F401 - the fake needs it, and trustme

    from fakes.azureml import Azure, believe, plain_image

    (folder / "cloud" / "storeaccount" / "azureml-blobstore").mkdir(parents=True)
    with Azure(folder / "cloud") as cloud:
        os.environ.update(cloud.environment())
        believe(cloud)
        cloud.images["IMAGE"] = plain_image(folder / "image")
        conda = {"dependencies": ["python", {"pip": ["torch"]}]}
        made_of = {"base_image": "IMAGE", "conda_file_path": conda}
        given = {"aml_compute": "cluster", "azureml_client_config": cloud.client(), "aml_docker_config": made_of}
        yield {"type": "AzureML", "config": given}


SYSTEMS = {
    "local": local,
    "python_environment": python_environment,
    "docker": docker,
    "kubernetes": kubernetes,
    "ray": ray,
    "azureml": azureml,
}


def made(config: Mapping[str, Any]) -> System:
    """The system of a config."""
    plugin = systems.find(config["type"])
    if plugin is None:
        raise LookupError(config["type"])
    return plugin(plugin.Params.model_validate(config.get("config", {})))


# What is measured


class Jobs:
    """Jobs with folders and names of their own: none is taken for one that was done before."""

    def __init__(self, folder: Path, n_rows: int) -> None:
        self._folder, self._n = folder / "jobs", 0
        self._model = Model("hf", tiny_checkpoint(folder / "model")).to_json()
        rows = write_rows(folder / "rows.jsonl", n_rows)
        load_rows = {"data_name": "json", "data_files": str(rows)}
        config = DataConfig(name="rows", load_dataset_config=load_rows, pre_process_data_config=TEXT)
        self._score = score_params(ScoreRows(config, "all", None, 0, "tone", n_rows)) | {"previous": None}

    def quick(self) -> Job:
        """A step that is next to nothing."""
        return self._job("materialize")

    def long(self) -> Job:
        """A step that tells of its progress for some seconds."""
        return self._job("score", params=self._score)

    def _job(self, kind: str, **fields: Any) -> Job:
        self._n += 1
        folder = self._folder / f"{kind}-{self._n}"
        (folder / "output").mkdir(parents=True)
        (folder / "scratch").mkdir()
        output, scratch = folder / "output", folder / "scratch"
        return Job(
            kind, folder.name, output, scratch, model=self._model, machine=MACHINE, log=str(folder / "log"), **fields
        )


def overhead(make: Make, cache: Path, jobs: Jobs, size: Size) -> dict[str, float]:
    """Seconds of a step: the first one with the start of its worker, and those after it."""
    with opened(make(), cache) as worker:
        cold = _seconds(worker, jobs.quick())
        warm = [_seconds(worker, jobs.quick()) for _ in range(size.n_jobs)]
    return {"cold_seconds": round(cold, 3), "warm_seconds": median(warm)}


def _seconds(worker: Worker, job: Job) -> float:
    started = time.perf_counter()
    worker.run(job, lambda *_: None)
    return time.perf_counter() - started


def reattached(make: Make, cache: Path, jobs: Jobs) -> dict[str, Any]:
    """Seconds from a line that breaks, or from a second parent that asks for the same job, to the next event of it."""
    with opened(make(), cache) as worker:
        if worker.has_line:
            return {"how": "the line is broken", "seconds": _after_hang_up(worker, jobs.long())}
        return {"how": "another parent asks", "seconds": _by_another(worker, make, cache, jobs.long())}


def _after_hang_up(worker: Worker, job: Job) -> float:
    times: list[float] = []

    def listen(event: str, _: Mapping[str, Any]) -> None:
        if event != "progress" or len(times) > 1:
            return
        times.append(time.perf_counter())
        if len(times) == 1:
            worker.hang_up()

    worker.run(job, listen)
    return round(times[1] - times[0], 3)


def _by_another(worker: Worker, make: Make, cache: Path, job: Job) -> float | None:
    is_at_work, times = threading.Event(), list[float]()
    first = threading.Thread(target=worker.run, args=(job, lambda event, _: event == "progress" and is_at_work.set()))
    first.start()
    if not is_at_work.wait(300):
        raise TimeoutError("the job has not begun")
    with opened(make(), cache) as another:
        started = time.perf_counter()
        another.run(job, lambda *_: times.append(time.perf_counter()))
    first.join()
    return round(times[0] - started, 3) if times else None


def second_run(config: dict[str, Any], folder: Path) -> dict[str, int]:
    """Bytes that are sent for a run, and for the same one after one row has changed."""
    rows = write_rows(folder / "small.jsonl", 64)
    path = folder / "workflow.json"
    model = tiny_checkpoint(folder / "base")
    path.write_text(json.dumps(_workflow(config, model, rows, folder) | {"passes": {"lora": _lora(4)}}))
    sent = {"first": _sent(path)}
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join([lines[0].replace("day 0", "day zero"), *lines[1:]]))
    return sent | {"after_one_row": _sent(path), "rows_file": rows.stat().st_size}


def _sent(path: Path) -> int:
    """Bytes that a run puts into the stores of its systems."""
    plan = make_plan(load(path))
    if plan.problems:
        raise RuntimeError("; ".join(map(str, plan.problems)))
    sizes: list[int] = []
    for host in plan.hosts.values():
        _count(host.system, sizes)
    run(plan)
    return sum(sizes)


def _count(system: System, sizes: list[int]) -> None:
    put = system.put

    def counted(source: Path, hashed: str) -> None:
        sizes.append(source.stat().st_size)
        put(source, hashed)

    system.put = counted  # type: ignore[method-assign]


def trials(folder: Path, size: Size) -> dict[str, Any]:
    """Trials an hour of a search over learning rates, on this machine and on clusters of some nodes."""
    measured = {"local, one after the other": _search({"type": "LocalSystem"}, folder / "local", size)}
    for n in size.n_workers:
        place = folder / f"ray-{n}"
        place.mkdir()
        with ray(place, n) as config:
            measured[f"ray, {n} workers"] = _search(config, place, size)
    here, one = (measured[name]["trial_seconds"] for name in ("local, one after the other", "ray, 1 workers"))
    return {**measured, "overhead_of_a_trial_seconds": round(one - here, 3)}


def _search(config: dict[str, Any], folder: Path, size: Size) -> dict[str, Any]:
    """A search whose workers are warm: one trial for each was done before."""
    folder.mkdir(exist_ok=True)
    rows, model, path = write_rows(folder / "rows.jsonl", 64), tiny_checkpoint(folder / "base"), folder / "search.json"
    rates = [round(1e-4 * (number + 1), 6) for number in range(size.n_trials + max(size.n_workers))]
    arguments = {"learning_rate": rates}
    strategy = {"sampler": "sequential", "include_pass_params": False}
    search = {"search_strategy": strategy, "passes": {"lora": _lora(size.n_steps, **arguments)}}
    path.write_text(json.dumps(_workflow(config, model, rows, folder) | search))
    plan, done = make_plan(load(path)), list[tuple[float, TrialDone]]()
    if plan.problems or plan.search is None:
        raise RuntimeError("; ".join(map(str, plan.problems)))
    run(plan, lambda event: done.append((time.perf_counter(), event)) if isinstance(event, TrialDone) else None)
    n_cold = plan.search.n_parallel
    warm = done[n_cold:]
    seconds = warm[-1][0] - done[n_cold - 1][0]
    return {
        "n_at_once": n_cold,
        "n_trials": len(warm),
        "trials_per_hour": round(3600 * len(warm) / seconds, 1),
        "trial_seconds": round(statistics.median(event.seconds for _, event in warm), 3),
    }


def _lora(n_steps: int, **arguments: Any) -> dict[str, Any]:
    training = {"max_steps": n_steps, "per_device_train_batch_size": 4, **arguments}
    return {"type": "LoRA", "train_data_config": "rows", "eval_dataset_size": 8, "training_args": training}


def _workflow(config: dict[str, Any], model: Path, rows: Path, folder: Path) -> dict[str, Any]:
    data = {"name": "rows", "load_dataset_config": {"data_name": "json", "data_files": str(rows)}}
    return {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "systems": {"there": config},
        "host": "there",
        "data_configs": [{**data, "pre_process_data_config": TEXT}],
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }


def measure(name: str, folder: Path, size: Size) -> dict[str, Any]:
    """All numbers of one system; why there are none, where it is not here."""
    try:
        with SYSTEMS[name](folder) as config:
            jobs, cache = Jobs(folder, size.n_rows), folder / "cache-of-jobs"
            numbers: dict[str, Any] = overhead(lambda: made(config), cache, jobs, size)
            if not made(config).reads_here:
                numbers["sent_bytes"] = second_run(config, folder)
                numbers["reattached"] = reattached(lambda: made(config), cache, jobs)
            return numbers
    except ImportError as error:
        return {"left_out": f"{error.name} is not installed here"}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="small numbers of everything, and nothing is written")
    parser.add_argument("--only", nargs="*", choices=[*SYSTEMS, "trials"], help="what is measured; else all")
    given = parser.parse_args()
    size, wanted = SMOKE if given.smoke else FULL, given.only or [*SYSTEMS, "trials"]
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="systems-") as scratch:
        for name in (name for name in SYSTEMS if name in wanted):
            folder = Path(scratch, name)
            folder.mkdir()
            result[name] = measure(name, folder, size)
            print(name, json.dumps(result[name]), flush=True)
        if "trials" in wanted:
            with suppress(ImportError):
                result["trials"] = trials(Path(scratch), size)
                print("trials", json.dumps(result["trials"]), flush=True)
    if (here := result.get("local")) is not None:
        for name, numbers in result.items():
            if name not in ("local", "trials") and "warm_seconds" in numbers:
                numbers["local"] = here
                for kind in ("cold", "warm"):
                    numbers[f"{kind}_overhead_seconds"] = round(numbers[f"{kind}_seconds"] - here[f"{kind}_seconds"], 3)
    print(json.dumps(result, indent=2))
    if not given.smoke:
        fakes = ["azureml", "kubernetes", *([] if "OLIVINE_TEST_IMAGE" in os.environ else ["docker"])]
        measured = {name: numbers for name, numbers in result.items() if "left_out" not in numbers}
        write("systems", {"fakes": fakes, **result, **_before(set(measured))})


def _before(measured: set[str]) -> dict[str, Any]:
    """The numbers of an earlier run that this one did not measure; a step here is kept beside each system."""
    path = Path(__file__).parent / "results" / "systems.json"
    numbers = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: numbers[name] for name in (*SYSTEMS, "trials") if name in numbers and name not in measured}


if __name__ == "__main__":
    main()

"""A real cluster of several nodes on this machine, each with a disk of its own; see `make test-ray`."""

import inspect
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from olivine import __version__
from olivine.cli import exit_code
from olivine.config import load
from olivine.errors import Interrupted, OlivineError, RequestError
from olivine.models import Model
from olivine.systems import Job, opened
from olivine.systems.ray import Ray
from olivine.testing.system import SystemContract, contents
from olivine.testing.tiny import tiny_checkpoint
from olivine.work import Estimate, Machine
from olivine.workflow.engine import run
from olivine.workflow.events import Noted, TrialDone
from olivine.workflow.plan import make_plan
from tiny import write_rows

pytest.importorskip("ray", reason="make test-ray has an environment with Ray")
# a busy machine would starve the nodes; and of a node that is gone the cluster knows in seconds
os.environ |= {"RAY_worker_niceness": "0", "RAY_health_check_period_ms": "500"}
import grpc
import psutil
from ray.cluster_utils import Cluster
from ray.core.generated import ray_client_pb2
from ray.util.client.server import proxier

CLIENT_PORT = 23861


@pytest.fixture(scope="module")
def cluster():
    """A head without cores and two nodes of one core each; others come and go with tests."""
    head = {"num_cpus": 0, "node_name": "head", "include_dashboard": False, "ray_client_server_port": CLIENT_PORT}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for name in ("one", "two"):
        cluster.add_node(num_cpus=1, node_name=name)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def system(cluster, tmp_path):
    """A system of the cluster, with params of its own; what its workers keep goes with the test."""
    made = []

    def make(**params):
        made.append(
            Ray(Ray.Params.model_validate({"address": cluster.address, "store": str(tmp_path / "store")} | params))
        )
        return made[-1]

    yield make
    for one in made:
        one.bridge.close()


class TestRay(SystemContract):
    system = Ray

    @pytest.fixture(autouse=True)
    def _system(self, system):
        self.given = system

    def make(self, folder):
        return self.given(store=str(folder))


def test_client_of_a_cluster_has_files_events_and_a_line_that_breaks(system, tmp_path, plain_job):
    """From a machine that is no node of the cluster; files go by an address that both sides reach."""
    heard = []
    files = (tmp_path / "files").as_uri()
    far = system(address=f"ray://127.0.0.1:{CLIENT_PORT}", files=files)
    with opened(far, tmp_path / "cache") as worker:

        def listen(event, told):
            heard.append(event)
            if event == "started":
                worker.hang_up()

        made = plain_job()
        assert worker.run(made, listen)["model"]["path"] == str(made.output)
    assert [event for event in heard if event != "progress"] == ["submitted", "started"]
    assert contents(made.output)
    assert not (tmp_path / "store" / "files").exists()  # none went to the head node


class TooBusy(grpc.GenericRpcHandler):
    """A stand-in before the server for clients that passes all on, but says first that it could not start in time."""

    message = "Starting Ray client server failed. See "

    def __init__(self, address, times):
        self.n_refused, self._times, self._channel = 0, times, grpc.insecure_channel(address)

    def service(self, details):
        def answered(requests, context):
            if details.method.endswith("/Datapath") and self.n_refused < self._times:
                self.n_refused += 1
                has_gone = threading.Event()
                context.add_callback(has_gone.set)
                asked = ray_client_pb2.DataRequest.FromString(next(requests))
                refusal = ray_client_pb2.InitResponse(ok=False, msg=f"RuntimeError: {self.message}the log.")
                yield ray_client_pb2.DataResponse(req_id=asked.req_id, init=refusal).SerializeToString()
                has_gone.wait(2)  # the real one waits for a client that may call again
                return
            own = ("grpc-", "user-agent")
            told = [(name, value) for name, value in context.invocation_metadata() if not name.startswith(own)]
            call = self._channel.stream_stream(details.method)(requests, metadata=told)
            context.add_callback(call.cancel)
            yield from call

        return grpc.stream_stream_rpc_method_handler(answered)


@pytest.fixture
def too_busy(cluster):
    """Make such a server, which refuses so often; gives it and its address."""
    servers = []

    def make(times):
        busy = TooBusy(f"127.0.0.1:{CLIENT_PORT}", times)
        servers.append(grpc.server(ThreadPoolExecutor(32)))
        servers[-1].add_generic_rpc_handlers((busy,))
        port = servers[-1].add_insecure_port("127.0.0.1:0")
        servers[-1].start()
        return busy, f"ray://127.0.0.1:{port}"

    yield make
    for server in servers:
        server.stop(None)


def test_cluster_that_is_too_busy_for_a_client_is_asked_again(system, too_busy):
    assert TooBusy.message in inspect.getsource(proxier)  # so says Ray itself
    busy, address = too_busy(1)
    assert len(system(address=address).bridge.ask("nodes")) == 3
    assert busy.n_refused == 1


def test_cluster_that_stays_too_busy_is_one_sentence(system, too_busy):
    busy, address = too_busy(100)
    with pytest.raises(
        OlivineError, match=f"the Ray cluster at {address} gives no answer: .*{TooBusy.message}"
    ) as told:
        system(address=address).probe()
    assert "\n" not in str(told.value)
    assert busy.n_refused == 3


@pytest.fixture
def plain_job(tmp_path):
    """Make a job that writes a model out, with a name of its own."""
    model = Model("hf", tiny_checkpoint(tmp_path / "model")).to_json()
    machine = Machine("cpu", "CPUExecutionProvider", 2**34, 2**36, 1, offline=True).__dict__
    numbers = iter(range(100))

    def make():
        folder = tmp_path / f"job{next(numbers)}"
        (folder / "output").mkdir(parents=True)
        (folder / "scratch").mkdir()
        return Job("materialize", folder.name, folder / "output", folder / "scratch", model=model, machine=machine)

    return make


def test_job_goes_to_the_node_that_has_its_files(system, tmp_path, plain_job):
    """Where there are two, and each has a worker that is idle."""
    made = system()
    nodes = {node["id"] for node in made.bridge.ask("nodes")}
    with opened(made, tmp_path / "cache") as worker:
        worker.run(plain_job(), lambda *_: None)
        hashes = [path.name for path in next((tmp_path / "store").glob("*/files")).iterdir()]
        held = made.bridge.ask("held", hashes=hashes)
        (near,) = (node for node, size in held.items() if size)
        members = [made.crew.take(hashes, str, bool) for _ in range(2)]
        assert members[0].node == near
        assert {member.node for member in members} < nodes
        for turn in (1, -1):
            for member in members[::turn]:
                made.crew.rests(member)
            members = [made.crew.take(hashes, str, bool) for _ in range(2)]
            assert members[0].node == near
        for member in members:
            made.crew.rests(member)


def test_job_of_a_parent_that_went_away_is_followed_where_it_is(system, tmp_path, plain_job):
    """What it made is there for who asks again, though nobody heard it; nothing is done twice."""
    made, first = plain_job(), system()
    with opened(first, tmp_path / "cache") as worker:
        worker.run(made, lambda *_: None)
    shutil.rmtree(made.output)
    made.output.mkdir()
    heard = []
    with opened(system(), tmp_path / "cache") as worker:
        worker.run(made, lambda event, told: heard.append(event))
    assert heard == ["submitted"]
    assert contents(made.output)


def test_job_at_work_is_followed_by_whoever_asks_for_it_too(system, tmp_path, job):
    """From its beginning, in the worker where it is; the result is there for both."""
    environment = {"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}}  # has the fake passes
    slow = job("write", n_files=20, pause_seconds=0.3)
    again, heard = replace(slow, output=tmp_path / "again", log=str(tmp_path / "log-again")), []
    again.output.mkdir()
    later = system(runtime_env=environment)
    later.bridge.ask("nodes")  # is connected before there is a job

    def follow():
        def listen(event, told):
            heard.append((event, told.get("pid")))
            if event == "started":
                psutil.Process(told["pid"]).resume()

        with opened(later, tmp_path / "cache-again") as worker:
            worker.run(again, listen)

    other, pids = threading.Thread(target=follow), []

    def listen(event, told):
        pids.extend([told["pid"]] if event == "started" else [])
        if event == "progress" and not other.ident:
            psutil.Process(pids[0]).suspend()  # until it is followed
            other.start()

    with opened(system(runtime_env=environment), tmp_path / "cache") as worker:
        worker.run(slow, listen)
    other.join()
    assert heard[:2] == [("submitted", None), ("started", pids[0])]
    assert contents(again.output) == contents(slow.output) != {}


def test_worker_that_ended_while_it_had_nothing_to_do_is_replaced(system, tmp_path, plain_job):
    """It gives back what it held when nobody calls for a minute, in which this machine may have work of its own."""
    made, started = system(), []
    with opened(made, tmp_path / "cache") as worker:
        for _ in range(2):
            worker.run(plain_job(), lambda event, told: started.append(told["pid"]) if event == "started" else None)
            (member,) = made.crew.idle
            made.bridge.ask("kill", name=member.name)
    assert len(set(started)) == 2


@pytest.fixture
def spot_nodes(cluster):
    """Two nodes that are there for one test, by name."""
    names = ("spot-1", "spot-2")
    nodes = {name: cluster.add_node(num_cpus=1, node_name=name, resources={"spot": 1}) for name in names}
    yield nodes
    for node in nodes.values():
        cluster.remove_node(node)


@pytest.mark.slow
def test_node_that_is_killed_in_the_middle_costs_nothing_but_time(cluster, spot_nodes, tmp_path, tiny_llama):
    """Training goes on from its last checkpoint on another node, and the int4 model is that of one machine."""
    write_rows(tmp_path / "rows.jsonl", 32)
    params = {"address": cluster.address, "store": str(tmp_path / "store"), "resources": {"spot": 1}}
    plans = {where: make_plan(load(_config(tmp_path, tiny_llama, where, params))) for where in ("here", "cluster")}
    assert [plan.problems for plan in plans.values()] == [(), ()]
    here, events = run(plans["here"]), []
    is_over = threading.Event()
    killer = threading.Thread(target=_kill_at_checkpoint, args=(cluster, spot_nodes, tmp_path / "store", is_over))
    killer.start()
    try:
        there = run(plans["cluster"], events.append)
    finally:
        is_over.set()
        killer.join()
    assert contents(there.model) == contents(here.model) != {}
    assert [row["loss"] for row in there.scores] == [row["loss"] for row in here.scores]
    notes = [event.message for event in events if isinstance(event, Noted)]
    assert [note for note in notes if "is gone; another one goes on with the step" in note]
    assert [note for note in notes if "going on from step" in note]


SEALED = "spot-*/scratch/*/checkpoints/checkpoint-*/sealed.json"


def _kill_at_checkpoint(cluster, nodes, store, is_over, place=SEALED):
    """End the node with that place when a checkpoint has been sent; nobody looks at its disk any more.

    As a machine that goes down: what works there stands still from the checkpoint on, and does not come to its end.
    """
    while not list(store.glob(SEALED)):
        if is_over.wait(0.01):
            return
    (first, *_) = store.glob(place)
    name = first.relative_to(store).parts[0]
    _suspend(one for one in psutil.process_iter() if f"{store / name}" in " ".join(_command(one)))
    while not any("sealed" in index.read_text() for index in store.glob("scratch/*.json")):
        if is_over.wait(0.05):
            break
    node = nodes.pop(name)
    (raylet,) = node.all_processes["raylet"]
    of_node = _suspend(psutil.Process(raylet.process.pid).children(recursive=True))
    cluster.remove_node(node, allow_graceful=False)
    for process in of_node:  # they would say how they ended, which nobody hears of a machine that is gone
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _suspend(processes):
    """Let processes stand still; gives those that are there."""
    there = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
            there.append(process)
    return there


def _command(process):
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended meanwhile
        return []


@pytest.mark.slow
def test_node_that_is_killed_while_several_train_together_changes_nothing(cluster, spot_nodes, tmp_path, tiny_llama):
    """The others go on with a third, from the first one's last checkpoint, to the result of one machine."""
    write_rows(tmp_path / "rows.jsonl", 32)
    params = {"address": cluster.address, "store": str(tmp_path / "store"), "resources": {"spot": 1}, "nodes": 2}
    paths = {where: _config(tmp_path, tiny_llama, where, params) for where in ("here", "cluster")}
    for path in paths.values():
        config = json.loads(path.read_text())
        config["passes"]["lora"]["training_args"] |= {"max_steps": 80, "save_steps": 20, "learning_rate": 1e-4}
        config["passes"].pop("build")
        path.write_text(json.dumps(config))
    here, events = run(make_plan(load(paths["here"]))), []
    is_over = threading.Event()
    spot_nodes["spot-3"] = cluster.add_node(num_cpus=1, node_name="spot-3", resources={"spot": 1})
    killer = threading.Thread(
        target=_kill_at_checkpoint, args=(cluster, spot_nodes, tmp_path / "store", is_over, "spot-*/scratch/*-node1")
    )
    killer.start()
    try:
        there = run(make_plan(load(paths["cluster"])), events.append)
    finally:
        is_over.set()
        killer.join()
    one, two = (load_file(result.model / "model.safetensors") for result in (here, there))
    assert one.keys() == two.keys()
    assert all((one[name] - two[name]).abs().max() < 1e-5 for name in one)
    notes = [event.message for event in events if isinstance(event, Noted)]
    assert [note for note in notes if note.endswith("others go on with the step")], notes  # whoever hears of it first
    assert [note for note in notes if "going on from step" in note], notes


def test_cluster_without_room_for_so_many_nodes_is_one_sentence(system):
    with pytest.raises(RequestError, match=r"a worker has 3 nodes with 1 CPUs each, but .* have room for 2; ask for"):
        system(nodes=3).probe()


def _config(folder, model, where, params):
    text = {"text_template": "{phrase} {tone}", "train_on": "completion", "max_seq_len": 64}
    data = {"name": "rows", "load_dataset_config": {"data_files": "rows.jsonl"}, "pre_process_data_config": text}
    arguments = {"max_steps": 120, "save_steps": 30, "per_device_train_batch_size": 4}
    lora = {"type": "LoRA", "train_data_config": "rows", "eval_dataset_size": 8, "training_args": arguments}
    config = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "systems": {"cluster": {"type": "Ray", "config": params}},
        "data_configs": [data],
        "passes": {"lora": lora, "merge": {"type": "MergeAdapterWeights"}, "build": {"type": "ModelBuilder"}},
        "cache_dir": str(folder / f"cache-{where}"),
        "output_dir": str(folder / f"out-{where}"),
    }
    path = folder / f"{where}.json"
    path.write_text(json.dumps(config | ({"host": "cluster"} if where == "cluster" else {}), indent=1))
    return path


@pytest.mark.slow
def test_search_spreads_its_trials_over_the_nodes(cluster, tmp_path, tiny_llama):
    """As many at once as there is room for, and the same outcome as one after the other here."""
    write_rows(tmp_path / "rows.jsonl", 8)
    params = {"address": cluster.address, "store": str(tmp_path / "store")}
    told = {}
    for where, n_at_once in (("here", 1), ("cluster", 2)):
        path = _config(tmp_path, tiny_llama, where, params)
        config = json.loads(path.read_text())
        config["passes"] = {"small": {"type": "rtn", "bits": [4, 8], "group_size": [16, 32]}}
        config["search_strategy"] = {"sampler": "sequential"}
        path.write_text(json.dumps(config))
        plan, events = make_plan(load(path)), []
        assert (plan.problems, plan.search.n_parallel) == ((), n_at_once)
        result = run(plan, events.append)
        trials = sorted((one for one in events if isinstance(one, TrialDone)), key=lambda one: one.trial)
        search = {key: value for key, value in result.search.items() if key != "trials"}  # those have times
        told[where] = (search, [(one.point, one.values, one.outcome) for one in trials], contents(result.model))
    assert told["here"] == told["cluster"]
    assert {path.name for path in (tmp_path / "store").iterdir()} >= {"one", "two"}


def test_room_is_counted_in_cores_memory_and_gpus(cluster, system):
    assert system().n_jobs(Estimate()) == 2
    assert system(cpus=0.5).n_jobs(Estimate()) == 4
    memory = min(node["resources"]["memory"] for node in system().bridge.ask("nodes"))
    assert system(cpus=0.25).n_jobs(Estimate(memory_bytes=int(0.6 * memory))) == 2
    assert system(workers=1).n_jobs(Estimate()) == 1
    assert system(cpus=64, autoscales=True).n_jobs(Estimate()) == 1
    assert system(cpus=64, autoscales=True, workers=8).n_jobs(Estimate()) == 8


def test_workers_run_this_olivine_or_say_that_theirs_is_another(system, tmp_path, cluster):
    """A wheel of what runs here goes to the nodes; where it should not, the release there counts."""
    assert system().probe().olivine == __version__
    other = _other_release(tmp_path / "other")
    theirs = system(send_olivine=False, runtime_env={"env_vars": {"PYTHONPATH": str(other)}})
    assert theirs.probe().olivine == "0.0.1"
    ours = system(runtime_env={"env_vars": {"PYTHONPATH": str(other)}})
    assert ours.probe().olivine == __version__


def _other_release(folder):
    import olivine

    package = shutil.copytree(Path(olivine.__file__).parent, folder / "olivine")
    start = package / "__init__.py"
    start.write_text(start.read_text().replace(f'"{__version__}"', '"0.0.1"'))
    return folder


def test_nodes_that_lack_what_olivine_needs_are_told_of(system, tmp_path):
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "pydantic.py").write_text("raise ModuleNotFoundError(\"No module named 'pydantic'\")\n")
    lacking = system(runtime_env={"env_vars": {"PYTHONPATH": str(tmp_path / "shadow")}})
    with pytest.raises(OlivineError, match=r"No module named 'pydantic'.*install olivine"):
        lacking.probe()


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"gpus": 1}, "a worker asks for 1 CPUs, 1 GPUs, but of the 3 nodes of the cluster the largest has 0 GPU"),
        ({"cpus": 64}, "a worker asks for 64 CPUs, but .* the largest has 1 CPU"),
        ({"memory": "900TB"}, "of memory, but .* the largest has"),
        ({"resources": {"tpu": 4}}, "4 tpu, but .* the largest has 0 tpu"),
    ],
)
def test_what_no_node_has_is_told_before_anything_is_sent(system, tmp_path, params, sentence):
    with pytest.raises(RequestError, match=sentence):
        system(**params).probe()
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"address": "127.0.0.1:1"}, "nobody answers at 127.0.0.1:1"),
        ({"address": "ray://127.0.0.1:1"}, "nobody answers at ray://127.0.0.1:1"),
        ({"runtime_env": {"py_modules": ["/nowhere"]}}, "/nowhere"),
        ({"runtime_env": {"env_var": {}}}, "'runtime_env' of Ray has no 'env_var'; did you mean 'env_vars'"),
    ],
)
def test_cluster_that_cannot_be_used_is_one_sentence(system, params, sentence):
    with pytest.raises(OlivineError, match=sentence) as told:
        system(**params).probe()
    assert "\n" not in str(told.value)


def test_auto_is_the_cluster_that_the_environment_names(system, cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    assert len(system(address="auto").bridge.ask("nodes")) == 3
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(OlivineError, match=r"nobody answers at 127\.0\.0\.1:1"):
        system(address="auto").probe()


def test_secret_does_not_belong_into_a_config(system):
    with pytest.raises(ValueError, match="'HF_TOKEN' does not belong into a config"):
        system(runtime_env={"env_vars": {"HF_TOKEN": "hf_abc"}})


def test_token_is_seen_by_workers_and_stands_in_no_file(system, tmp_path, plain_job, monkeypatch):
    with pytest.raises(RequestError, match="this environment has no HF_TOKEN"):
        monkeypatch.delenv("HF_TOKEN", raising=False)
        system(hf_token=True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    seen = []
    with opened(system(hf_token=True), tmp_path / "cache") as worker:
        worker.run(plain_job(), lambda event, told: seen.append(told.get("pid")))
        environment = Path(f"/proc/{next(filter(None, seen))}/environ").read_bytes()
    assert b"HF_TOKEN=hf_of_nobody" in environment
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"hf_of_nobody" not in written


def test_command_ends_with_2_where_the_cluster_does_not_answer(tmp_path, tiny_llama, capfd):
    write_rows(tmp_path / "rows.jsonl")
    path = _config(tmp_path, tiny_llama, "cluster", {"address": "ray://127.0.0.1:1"})
    assert exit_code(["run", "--config", str(path)]) == 2
    told = " ".join(capfd.readouterr().err.split())
    assert "the system 'cluster' gives no answer: nobody answers at ray://127.0.0.1:1" in told
    assert "cluster.json:" in told
    assert not (tmp_path / "out-cluster").exists()


def test_worker_that_waits_for_a_node_is_given_up_by_ctrl_c(system, cluster, tmp_path, plain_job):
    """The screen says what it waits for, and nothing of it is left."""
    full, waiting = system(workers=1, cpus=1, resources={"place": 1}), system(cpus=1, resources={"place": 1})
    node, heard = cluster.add_node(num_cpus=1, node_name="place", resources={"place": 1}), []
    held = full.crew.take([], heard.append, bool)
    full.crew.rests(held)

    def stop(event, told):
        if event == "note":
            heard.append(told["message"])
            raise KeyboardInterrupt

    with opened(waiting, tmp_path / "cache") as worker, pytest.raises(Interrupted):
        worker.run(plain_job(), stop)
    assert heard == ["a worker waits for a node with room for 1 CPUs, 1 place"]
    full.crew.close()
    assert waiting.crew.take([], heard.append, bool).node_name == "place"  # there is room at once
    cluster.remove_node(node)

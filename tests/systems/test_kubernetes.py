"""A cluster by its real client: a fake API server that is strict, and really runs what the pods are told to run."""

import copy
import json
import shutil
import socket
import threading
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
import yaml

from fakes.kubernetes import images
from fakes.kubernetes.server import Cluster, node
from fakes.kubernetes.strict import Refused, check
from held import Held
from olivine import __version__
from olivine.cli import exit_code
from olivine.config import load
from olivine.errors import OlivineError, RequestError, StepFailed
from olivine.store.packing import OUTPUT
from olivine.systems import Job, Probe
from olivine.systems.kubernetes import Kubernetes
from olivine.testing.system import SystemContract, contents
from olivine.work import Estimate
from olivine.workflow.detached import Detached
from olivine.workflow.engine import run
from olivine.workflow.events import RunStarted, Submitted
from olivine.workflow.journal import Journal
from olivine.workflow.plan import make_plan
from tiny import write_rows

ANSWER = json.dumps(Probe(2**34, 4, versions={}, modules=()).to_json())
FULL = {
    "namespace": "default",
    "cpus": 4,
    "memory": "32Gi",
    "ephemeral_storage": "100Gi",
    "gpus": 2,
    "node_selector": {"gpu": "a100", "spot": True},
    "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}],
    "env": {"HF_HUB_OFFLINE": 1},
    "secrets": {"HF_TOKEN": "hub/token"},
    "image_pull_secrets": ["registry"],
    "service_account": "trainer",
    "priority_class": "low",
    "volume_path": "olivine/runs",
    "labels": {"kueue.x-k8s.io/queue-name": "team"},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(Kubernetes, "pause_seconds", 0.1)


@pytest.fixture
def cluster(tmp_path):
    """A cluster with a claim whose folder is this machine's, too."""
    folder = tmp_path / "cluster"
    (folder / "claim").mkdir(parents=True)
    (folder / "images").mkdir()
    good = images.with_olivine(folder / "images" / "good")
    with Cluster(folder, {"olivine:1": good}, claims={"disk": folder / "claim"}) as cluster:
        yield cluster


@pytest.fixture
def system(cluster):
    """A system of the cluster, with params of its own."""

    def make(**params):
        return Kubernetes(Kubernetes.Params.model_validate({**_given(cluster), **params}))

    return make


def _given(cluster):
    places = {"volume_claim": "disk", "volume_folder": str(cluster.claims["disk"])}
    return {"image": "olivine:1", "kubeconfig": str(cluster.kubeconfig()), **places}


class OnCluster(SystemContract):
    """The contract; a pod that was told to end takes a moment for it."""

    system = Kubernetes

    def is_there(self, told):
        until = time.monotonic() + 60
        while psutil.pid_exists(told["pid"]) and time.monotonic() < until:
            time.sleep(0.1)
        return psutil.pid_exists(told["pid"])


class TestClaim(OnCluster):
    """Files lie on a volume that both sides have."""

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster):
        self.cluster = cluster

    def make(self, folder):
        self.cluster.claims["disk"] = folder
        return Kubernetes(Kubernetes.Params(**_given(self.cluster)))


class TestAddress(OnCluster):
    """Files go by an address; the disk of a pod goes with it."""

    @pytest.fixture(autouse=True)
    def _cluster(self, tmp_path, monkeypatch):
        bucket = images.with_bucket(tmp_path / "bucket")
        monkeypatch.syspath_prepend(str(bucket))
        images.register_bucket()
        folder = tmp_path / "cluster"
        folder.mkdir()
        image = images.with_olivine(folder / "image", bucket)
        with Cluster(folder, {"olivine:1": image}) as self.cluster:
            yield

    def make(self, folder):
        given = {"image": "olivine:1", "kubeconfig": str(self.cluster.kubeconfig())}
        return Kubernetes(Kubernetes.Params(files=f"bucket://{folder}", **given))


@pytest.mark.slow
def test_workflow_on_a_cluster_that_takes_the_pod_away_gives_the_bytes_of_one_here(cluster, tmp_path, tiny_llama):
    """Training goes on from its last checkpoint, in another pod, and the int4 model is the same."""
    write_rows(tmp_path / "rows.jsonl", 32)
    plans = {where: make_plan(load(_config(tmp_path, tiny_llama, cluster, where))) for where in ("here", "cluster")}
    assert [plan.problems for plan in plans.values()] == [(), ()]
    here, events = run(plans["here"]), []
    held = Held(tmp_path / "held", "checkpoint-10")
    cluster.images["olivine:1"] = images.with_olivine(cluster.folder / "images" / "held", held.site)
    taken = held.then(lambda: cluster.preempt(*{pod.job for pod in cluster.running()}))
    there = run(plans["cluster"], events.append)
    taken.join()
    assert contents(there.model) == contents(here.model) != {}
    assert [row["loss"] for row in there.scores] == [row["loss"] for row in here.scores]
    assert any("going on from step" in event.message for event in events if hasattr(event, "message"))
    workers = [path for verb, path in cluster.requests if verb == "create" and path.endswith("/jobs")]
    assert len(workers) == 2  # what it has was asked once, and the queue was waited for once


def test_command_ends_with_2_before_anything_is_sent_and_with_1_after(cluster, tmp_path, tiny_llama, capfd):
    write_rows(tmp_path / "rows.jsonl")
    path = _config(tmp_path, tiny_llama, cluster, "cluster")
    config = json.loads(path.read_text())
    config["systems"]["cluster"]["config"]["secrets"] = {"HF_TOKEN": "hub/token"}
    path.write_text(json.dumps(config, indent=1))
    assert exit_code(["run", "--config", str(path)]) == 2
    told = " ".join(capfd.readouterr().err.split())
    assert "the namespace 'default' has no secret 'hub'; make it: kubectl -n default create secret" in told
    assert "cluster.json:" in told
    assert not (tmp_path / "out-cluster").exists()
    cluster.secrets["hub"] = {"token": "hf_of_nobody"}
    cluster.images["olivine:1"] = images.without_olivine(cluster.folder / "images" / "bare")
    assert exit_code(["run", "--config", str(path)]) == 1
    told = " ".join(capfd.readouterr().err.split())
    assert "the image 'olivine:1' has no olivine; make it with: pip install olivine==" in told
    assert "Traceback" not in told
    assert cluster.jobs == {}
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"hf_of_nobody" not in written


def test_job_of_a_run_that_was_lost_is_ended_by_jobs_cancel(cluster, system, tmp_path, tiny_llama, monkeypatch, capfd):
    """The journal of the run names it, and its config leads to the cluster."""
    monkeypatch.setenv("OLIVINE_STATE", str(tmp_path / "state"))
    cluster.images["olivine:1"] = images.that_does(cluster.folder / "images" / "busy", "sleep 600")
    given, failures = Job("rows", "look", Path(OUTPUT), Path("scratch")), []

    def work():
        with pytest.raises(StepFailed) as failed:
            system().worker().run(given, lambda *_: None)
        failures.append(str(failed.value))

    lost = threading.Thread(target=work, daemon=True)
    lost.start()
    _until(cluster.running)
    out = tmp_path / "out-cluster"
    command = ("run", "--config", str(_config(tmp_path, tiny_llama, cluster, "cluster")))
    run = Detached(
        "20260101-000000-aaaa", command, str(tmp_path), "cluster", str(out), 0.0, pid=2**30, born=time.time()
    )
    for folder in (run.place, out):
        folder.mkdir(parents=True)
    (run.place / "run.json").write_text(json.dumps(asdict(run)))
    journal = Journal(out)
    journal.write(RunStarted(workflow={}, versions={}))
    journal.write(Submitted(step="look", host="cluster", title=given.title))
    config = Path(command[2]).read_text()
    Path(command[2]).write_text(config.replace("olivine:1", ""))
    assert exit_code(["jobs", "cancel"]) == 2
    assert f"the config of {run.identity} does not lead to its system 'cluster' any more: " in capfd.readouterr().err
    assert cluster.running()
    Path(command[2]).write_text(config)
    assert exit_code(["jobs", "cancel"]) == 0
    told = capfd.readouterr().err
    assert f"ended there, cluster: olivine-{given.title}-" in told
    assert f"{run.identity} is interrupted" in told
    lost.join(60)
    assert (cluster.jobs, cluster.running()) == ({}, [])
    assert "somebody has deleted its Job" in failures[0]
    assert exit_code(["jobs", "cancel"]) == 2


def _until(holds):
    until = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_manifests_of_a_dry_run_do_the_whole_workflow_when_they_are_applied(cluster, tmp_path, tiny_llama, capfd):
    """Nothing is sent until somebody does; then a pod alone makes the model, from files on the claim."""
    disk = cluster.claims["disk"]
    model = shutil.copytree(tiny_llama, disk / "base")
    config = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "systems": {"cluster": {"type": "Kubernetes", "config": {**_given(cluster), "namespace": "default"}}},
        "host": "cluster",
        "passes": {"small": {"type": "rtn", "group_size": 16}},
        "quality": {"enabled": False},
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert exit_code(["run", "--config", str(path), "--dry-run"]) == 0
    files = [Path(line) for line in capfd.readouterr().out.splitlines()]
    assert [file.name for file in files] == [f"cluster-{kind}.yaml" for kind in ("probe", "worker", "run")]
    assert (cluster.jobs, [verb for verb, place in cluster.requests if "jobs" in place]) == ({}, [])
    documents = {file.stem: list(yaml.safe_load_all(file.read_text())) for file in files}
    check(documents["cluster-probe"][0], "V1Job")
    check(documents["cluster-worker"][0], "V1Job")
    cluster.apply(documents["cluster-run"])
    name = documents["cluster-run"][1]["metadata"]["name"]
    _end_of(Kubernetes(Kubernetes.Params(**_given(cluster))), name)
    assert [one["type"] for one in cluster.jobs[name]["status"]["conditions"]] == ["Complete"]
    there = contents(disk / "out" / name / "model")
    places = {"output_dir": str(tmp_path / "here"), "cache_dir": str(tmp_path / "cache-here")}
    local = config | {"host": None, "systems": {}, **places}
    path.write_text(json.dumps(local))
    assert there == contents(run(make_plan(load(path))).model) != {}


def test_dry_run_says_which_files_a_pod_alone_would_lack(cluster, tmp_path, tiny_llama, capfd):
    config = _config(tmp_path, tiny_llama, cluster, "cluster")
    write_rows(tmp_path / "rows.jsonl")
    assert exit_code(["run", "--config", str(config), "--dry-run"]) == 0
    told = capfd.readouterr().out
    assert "cluster-worker.yaml" in told
    assert "cluster-run.yaml" not in told
    assert f"'{tiny_llama}', '{tmp_path / 'rows.jsonl'}' lies outside of volume_folder" in told
    here = _config(tmp_path, tiny_llama, cluster, "here")
    assert exit_code(["run", "--config", str(here), "--dry-run"]) == 2
    assert "nothing of this config runs on one" in capfd.readouterr().err


# The fields of KubeRay's resources (ray.io/v1) that may be set, as its CRDs have them; None: any value
_RAY_CLUSTER = {
    "rayVersion": str,
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": dict,
    "suspend": bool,
    "headGroupSpec": {
        "serviceType": str,
        "enableIngress": bool,
        "rayStartParams": dict,
        "template": "V1PodTemplateSpec",
    },
    "workerGroupSpecs": [
        {
            "groupName": str,
            "replicas": int,
            "minReplicas": int,
            "maxReplicas": int,
            "numOfHosts": int,
            "rayStartParams": dict,
            "template": "V1PodTemplateSpec",
        }
    ],
}
_RAY_JOB = {
    "entrypoint": str,
    "runtimeEnvYAML": str,
    "submissionMode": str,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "backoffLimit": int,
    "activeDeadlineSeconds": int,
    "rayClusterSpec": _RAY_CLUSTER,
}


def _check_ray(value, shape):
    """Refuse what the operator would: unknown fields, other types, values of parameters that are no text."""
    if isinstance(shape, str):
        check(value, shape)
    elif isinstance(shape, list):
        for item in value:
            _check_ray(item, shape[0])
    elif isinstance(shape, dict):
        assert set(value) <= set(shape), set(value) - set(shape)
        for key, item in value.items():
            _check_ray(item, shape[key])
        assert all(isinstance(one, str) for one in value.get("rayStartParams", {}).values())
    else:
        assert type(value) is shape, value


def test_dry_run_writes_a_ray_cluster_and_a_job_for_it(cluster, tmp_path, tiny_llama, capfd):
    """As KubeRay's own resources have it; what the job runs is a workflow on that cluster, files by the claim."""
    disk = cluster.claims["disk"]
    model = shutil.copytree(tiny_llama, disk / "base")
    ray = {"workers": 3, "version": "2.60.0"}
    unknown = {"secrets", "image_pull_secrets", "service_account", "priority_class"}
    full = {**_given(cluster), **{key: value for key, value in FULL.items() if key not in unknown}, "ray": ray}
    cluster.nodes.append(node("big", labels={"gpu": "a100", "spot": "true"}, gpus=2))
    config = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "systems": {"cluster": {"type": "Kubernetes", "config": full}},
        "host": "cluster",
        "passes": {"small": {"type": "rtn", "group_size": 16}},
        "quality": {"enabled": False},
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    cluster.images["olivine:1"] = images.that_prints(cluster.folder / "images" / "quick", ANSWER)
    assert exit_code(["run", "--config", str(path), "--dry-run"]) == 0
    written = {
        Path(line).stem: list(yaml.safe_load_all(Path(line).read_text()))
        for line in capfd.readouterr().out.splitlines()
    }
    (made,) = written["cluster-raycluster"]
    assert (made["apiVersion"], made["kind"]) == ("ray.io/v1", "RayCluster")
    _check_ray(made["spec"], _RAY_CLUSTER)
    (group,) = made["spec"]["workerGroupSpecs"]
    assert (group["replicas"], made["spec"]["rayVersion"]) == (3, "2.60.0")
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "2"
    (head,) = made["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    config_map, job = written["cluster-rayjob"]
    check(config_map, "V1ConfigMap")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    _check_ray(job["spec"], _RAY_JOB)
    inside = json.loads(config_map["data"]["workflow.json"])
    assert inside["systems"]["pod"]["config"] == {"address": "auto", "files": "/olivine/ray", "gpus": 2}
    assert inside["input_model"]["model_path"] == "/olivine/base"
    assert job["spec"]["entrypoint"] == "python -P -m olivine run --config /etc/olivine/workflow.json"
    (path.with_name("inside.json")).write_text(config_map["data"]["workflow.json"])
    assert load(path.with_name("inside.json")).problems == ()


def _config(folder, model, cluster, where):
    text = {"text_template": "{phrase} {tone}", "train_on": "completion", "max_seq_len": 64}
    data = {"name": "rows", "load_dataset_config": {"data_files": "rows.jsonl"}, "pre_process_data_config": text}
    arguments = {"max_steps": 30, "save_steps": 5, "per_device_train_batch_size": 4}
    lora = {"type": "LoRA", "train_data_config": "rows", "eval_dataset_size": 8, "training_args": arguments}
    system = {"type": "Kubernetes", "config": _given(cluster)}
    config = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "systems": {"cluster": system},
        "data_configs": [data],
        "passes": {"lora": lora, "merge": {"type": "MergeAdapterWeights"}, "build": {"type": "ModelBuilder"}},
        "cache_dir": str(folder / f"cache-{where}"),
        "output_dir": str(folder / f"out-{where}"),
    }
    path = folder / f"{where}.json"
    path.write_text(json.dumps(config | ({"host": "cluster"} if where == "cluster" else {})))
    return path


@pytest.mark.slow
def test_server_that_is_busy_broken_or_forgets_the_token_is_asked_again(cluster, system):
    slow = images.that_does(cluster.folder / "images" / "slow", f"sleep 1\ncat <<'END'\n{ANSWER}\nEND")  # is watched
    cluster.images["slow"] = slow
    asked = system(image="slow")
    assert not asked.is_prepared()
    cluster.expire_token()
    cluster.n_dropped_watches = 2
    cluster.faults.extend([429, 0, 500, 0, 0, 503])
    assert asked.probe().n_cores == 4
    assert not cluster.faults
    assert cluster.n_dropped_watches < 2
    cluster.oldest = cluster.version + 1000  # no version is known any more
    assert system(image="slow", python="python", env={"ANOTHER": "1"}).probe().n_cores == 4


def test_server_that_stays_broken_is_named_in_one_sentence(cluster, system):
    asked = system()
    asked._cluster._patience_seconds = 0.1
    cluster.faults.extend([500] * 20)
    with pytest.raises(OlivineError, match="the cluster is busy or broken: the server is currently unable"):
        asked.is_prepared()
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    kubeconfig = cluster.folder / "away"
    kubeconfig.write_text(cluster.kubeconfig().read_text().replace(str(cluster.server.server_port), str(port)))
    away = system(kubeconfig=str(kubeconfig))
    away._cluster._patience_seconds = 0.1
    with pytest.raises(OlivineError, match="the cluster is busy or broken: it gives no answer"):
        away.is_prepared()


def test_what_a_pod_has_is_asked_once(cluster, system):
    cluster.images["quick"] = images.that_prints(cluster.folder / "images" / "quick", ANSWER)
    first = system(image="quick")
    assert first.probe() == system(image="quick").probe()
    assert system(image="quick").is_prepared()
    assert len([1 for verb, path in cluster.requests if verb == "create" and path.endswith("/jobs")]) == 1


@pytest.mark.parametrize(
    ("params", "change", "sentence"),
    [
        ({}, lambda c: c.forbidden.add("create jobs"), "this user may not start Jobs in the namespace 'default'"),
        ({}, lambda c: c.forbidden.add("get pods/log"), "may get pods/log"),
        ({"namespace": "team"}, lambda c: None, "has no namespace 'team'; make it: kubectl create namespace team"),
        ({"secrets": {"HF_TOKEN": "hub/token"}}, lambda c: None, "has no secret 'hub'; make it: kubectl -n default"),
        ({"image_pull_secrets": ["registry"]}, lambda c: None, "has no secret 'registry'"),
        ({"service_account": "trainer"}, lambda c: None, "has no service account 'trainer'"),
        ({}, lambda c: c.claims.clear(), "has no persistent volume claim 'disk'"),
        ({"gpus": 1}, lambda c: None, "a pod asks for 1 nvidia.com/gpu, but of the 1 nodes of the cluster none offers"),
        ({"gpus": 4}, lambda c: c.nodes.append(node("big", gpus=2)), "one offers 2 at most"),
        ({"gpus": 1, "node_selector": {"gpu": "h100"}}, lambda c: None, "of the 0 nodes with the labels gpu=h100"),
        ({"context": "other"}, lambda c: None, "has no context 'other'; it has test"),
        ({"kubeconfig": "/nowhere/config"}, lambda c: None, "there is no kubeconfig '/nowhere/config'; name yours"),
    ],
)
def test_what_keeps_every_pod_from_its_start_is_told_before_one_is_made(cluster, system, params, change, sentence):
    made = system(**params)
    change(cluster)
    with pytest.raises(RequestError, match=sentence):
        made.is_prepared()
    assert cluster.jobs == {}


def test_nodes_that_come_when_they_are_needed_need_not_be_there(cluster, system):
    assert not system(gpus=8, autoscales=True).is_prepared()


def test_who_may_not_look_at_nodes_or_secrets_is_not_refused_for_it(cluster, system):
    cluster.forbidden |= {"list nodes", "get secrets", "get namespaces", "get persistentvolumeclaims"}
    assert not system(gpus=8, secrets={"HF_TOKEN": "hub/token"}).is_prepared()


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"files": "/data/olivine"}, "is a folder of this machine"),
        ({"files": "file:///data"}, "is a folder of this machine"),
        ({"volume_folder": None}, "files have no way to the pods"),
        ({"volume_claim": None}, "files have no way to the pods"),
        ({"volume_folder": "/nowhere"}, "there is no volume_folder '/nowhere'"),
        ({"env": {"HF_TOKEN": "hf_abc"}}, "'HF_TOKEN' does not belong into a config"),
        ({"secrets": {"HF_TOKEN": "hf_abc"}}, "NAME/KEY of a Secret"),
        ({"memory": "32 GB"}, "(?s)memory.*Kubernetes writes an amount as 4, 500m or 32Gi, and not as '32 GB'"),
        ({"namespace": "My_Team"}, "(?s)namespace.*small letters, digits, '-' and '.', and 'My_Team' is none"),
        ({"tolerations": [{"key": "spot", "effect": "Never"}]}, "effect"),
    ],
)
def test_params_that_cannot_be_are_refused(system, params, sentence):
    with pytest.raises((RequestError, ValueError), match=sentence):
        system(**params)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ("bare", f"the image 'bare' has no olivine; make it with: pip install olivine=={__version__}"),
        ("old", f"the image 'old' has olivine 0.0.1, but this is {__version__}"),
        ("empty", "the image 'empty' has no 'python'"),
        ("nowhere", "the image 'nowhere' cannot be pulled"),
        ("mute", "cannot say what it has: something else"),
    ],
)
def test_image_that_does_not_serve_is_told_while_it_is_asked(cluster, system, image, sentence, tmp_path):
    folder = cluster.folder / "images"
    cluster.images |= {
        "bare": images.without_olivine(folder / "bare"),
        "empty": images.without_python(folder / "empty"),
        "mute": images.that_prints(folder / "mute", "something else", code=3),
    }
    if image == "old":
        cluster.images["old"] = images.with_version(folder / "old", "0.0.1")
    asked = system(image=image)
    assert not asked.is_prepared()
    with pytest.raises(StepFailed) as failed:
        asked.prepare(tmp_path / "log")
    assert sentence in failed.value.cause
    assert not asked.is_prepared()


def test_secret_without_the_key_is_named_when_the_pod_is_made(cluster, system, tmp_path):
    cluster.secrets["hub"] = {"other": "value"}
    asked = system(secrets={"HF_TOKEN": "hub/token"})
    assert not asked.is_prepared()
    assert cluster.seen_secrets == []  # that it is there is asked, not what it holds
    with pytest.raises(StepFailed, match=r"couldn't find key token in Secret default/hub"):
        asked.prepare(tmp_path / "log")


def test_image_that_changed_under_its_name_is_not_run_with_the_plan_of_another(cluster, system):
    cluster.images["moving"] = images.that_prints(cluster.folder / "images" / "first", ANSWER)
    asked = system(image="moving")
    asked.probe()
    cluster.images["moving"] = images.that_does(cluster.folder / "images" / "second", "exec sleep 100")
    name = asked.submit("one", ["--batch", "one"])
    assert "the image 'moving' is another one than it was" in _end_of(asked, name)
    assert name not in cluster.jobs
    assert not asked.is_prepared()


def test_pod_that_waits_for_a_node_says_so_and_starts_when_there_is_one(cluster, system):
    cluster.images["quick"] = images.that_prints(cluster.folder / "images" / "quick", ANSWER)
    asked = system(image="quick", gpus=1, autoscales=True)
    name = asked.submit("one", [])
    until = time.monotonic() + 20
    while not asked.waiting(name) and time.monotonic() < until:
        assert asked.ended(name) is None
    assert asked.waiting(name) == ("its pod waits for a node: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    cluster.nodes.append(node("new", gpus=1))
    assert "left no word at the volume_folder" in _end_of(asked, name)
    assert asked.waiting(name) == ""


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo it goes wrong; exit 3", "ended with exit code 3; the log of its pod ends: it goes wrong"),
        ("kill -9 $$", "was killed (SIGKILL): by someone, or because the memory allowed to it ran out"),
        ("kill -11 $$", "crashed (SIGSEGV)"),
        ("exit 0", "left no word at the volume_folder"),
    ],
)
def test_pod_that_ends_by_itself_is_told_as_a_process_is_and_not_made_again(cluster, system, script, sentence):
    cluster.images["ends"] = images.that_does(cluster.folder / "images" / "ends", script)
    asked = system(image="ends")
    assert sentence in _end_of(asked, asked.submit("one", []))
    assert len(cluster.pods) == 1


@pytest.mark.slow
def test_image_that_cannot_be_pulled_for_a_moment_ends_nothing_and_one_that_never_comes_is_named(cluster, system):
    asked = system(image="late")
    name = asked.submit("one", [])
    until = time.monotonic() + 20
    while not asked._stuck_since and time.monotonic() < until:
        assert asked.ended(name) is None
    cluster.images["late"] = images.that_does(cluster.folder / "images" / "late", "exit 3")
    assert _end_of(asked, name) == "ended with exit code 3"
    asked = system(image="never")
    asked.stuck_seconds = 0.1
    assert "was not started: the image 'never' cannot be pulled" in _end_of(asked, asked.submit("two", []))
    assert list(cluster.jobs) == [name]


def test_pod_that_took_more_memory_than_it_may_is_told_with_its_limit(cluster, system):
    cluster.images["ends"] = images.that_does(cluster.folder / "images" / "ends", "kill -9 $$")
    cluster.is_out_of_memory = True
    asked = system(image="ends", memory="2Gi")
    sentence = "was killed by the kernel: out of memory (its limit is 2Gi)"
    assert sentence in _end_of(asked, asked.submit("one", []))


def test_pod_that_somebody_deletes_is_made_again_three_times_and_a_job_that_is_deleted_is_named(cluster, system):
    cluster.images["waits"] = images.that_does(cluster.folder / "images" / "waits", "exec sleep 100")
    asked = system(image="waits")
    name = asked.submit("one", [])
    for _ in range(4):
        assert asked.ended(name) is None
        _running(cluster).delete()
    assert "Job has reached the specified backoff limit" in _end_of(asked, name)
    second = asked.submit("two", [])
    cluster.delete_job(second)
    assert asked.ended(second) == f"is gone: somebody has deleted its Job '{second}'"
    asked.cancel(second)


def _running(cluster):
    until = time.monotonic() + 60
    while not (pods := cluster.running()) and time.monotonic() < until:
        time.sleep(0.02)
    return pods[0]


def _end_of(system, name):
    until = time.monotonic() + 60
    while (how := system.ended(name)) is None and time.monotonic() < until:
        time.sleep(0.05)
    return how


def test_what_a_pod_asks_for_is_the_configs_else_the_plans(system):
    need = Estimate(memory_bytes=5 * 10**9, disk_bytes=10**9)
    plain, full = system(), system(**FULL)
    for made in (plain, full):
        made.reserve(need)
    resources = [_container(made.worker_manifest("one", []))["resources"] for made in (plain, full)]
    assert resources[0] == {"requests": {"memory": "5000000000"}, "limits": {}}
    sized = {"memory": "32Gi", "ephemeral-storage": "100Gi", "nvidia.com/gpu": "2"}
    assert resources[1] == {"requests": {"cpu": "4", **sized}, "limits": sized}
    by_address = Kubernetes(Kubernetes.Params(image="one", files="memory-of-nobody://there"))
    by_address.reserve(need)
    resources = _container(by_address.worker_manifest("one", []))["resources"]
    assert resources["requests"] == {"memory": "5000000000", "ephemeral-storage": "1000000000"}


def _container(manifest):
    return manifest["spec"]["template"]["spec"]["containers"][0]


def test_manifests_are_those_that_a_server_takes_and_hold_no_secret(system):
    made = system(**FULL)
    for manifest in (made.worker_manifest("one", ["--batch", "one"]), made.probe_manifest("two")):
        check(manifest, "V1Job")
        reference = {"secretKeyRef": {"name": "hub", "key": "token"}}
        assert {"name": "HF_TOKEN", "valueFrom": reference} in _container(manifest)["env"]
        assert manifest["spec"]["template"]["spec"]["nodeSelector"] == {"gpu": "a100", "spot": "true"}


@pytest.mark.parametrize(
    "change",
    [
        lambda job: job["spec"].update(retries=3),
        lambda job: job["spec"].update(backoffLimit="3"),
        lambda job: job["metadata"].update(name="Upper_case"),
        lambda job: job["spec"]["template"]["spec"].update(restartPolicy="Always"),
        lambda job: job["spec"]["podFailurePolicy"]["rules"][0].update(action="Forget"),
        lambda job: _container(job)["volumeMounts"].append({"name": "other", "mountPath": "/other"}),
        lambda job: _container(job)["resources"]["requests"].update({"nvidia.com/gpu": "3"}),
        lambda job: _container(job)["resources"]["limits"].update(memory="1 GB"),
        lambda job: _container(job)["env"].append({"name": "one two", "value": "3"}),
        lambda job: job["metadata"]["labels"].update(version="not a label"),
    ],
)
def test_fake_server_is_as_strict_as_a_real_one(system, change):
    manifest = copy.deepcopy(system(**FULL).worker_manifest("one", []))
    check(manifest, "V1Job")
    change(manifest)
    with pytest.raises(Refused):
        check(manifest, "V1Job")

"""Containers on an engine that speaks the API strictly and runs them as processes; on a real one where there is one."""

import os
import re
import shutil
import sysconfig
import tempfile
from pathlib import Path

import pytest

import olivine
from fakes.docker_engine import Engine
from olivine.errors import OlivineError, RequestError, StepFailed
from olivine.systems import systems
from olivine.systems.docker import Docker
from olivine.testing.system import SystemContract

SOURCE = str(Path(olivine.__file__).parent.parent)
IMAGE = "work/olivine:1"


@pytest.fixture
def engine(monkeypatch):
    """An engine with an image that has olivine."""
    folder = Path(tempfile.mkdtemp(prefix="engine-"))  # short: so is the name of a socket
    engine = Engine(folder)
    engine.images[IMAGE] = engine.image(SOURCE)
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    yield engine
    engine.close()
    shutil.rmtree(folder)


@pytest.fixture
def made(tmp_path):
    """A system of some settings; its store lies in a folder of its own."""
    return lambda **settings: Docker(Docker.Params(store=str(tmp_path / "store"), **settings))


@pytest.mark.usefixtures("engine")
class TestDocker(SystemContract):
    system = Docker

    def make(self, folder):
        return Docker(Docker.Params(image_name=IMAGE, store=str(folder)))


@pytest.mark.skipif("OLIVINE_TEST_IMAGE" not in os.environ, reason="OLIVINE_TEST_IMAGE names no image of a real engine")
class TestRealEngine(SystemContract):
    system = Docker

    def make(self, folder):
        return Docker(Docker.Params(image_name=os.environ["OLIVINE_TEST_IMAGE"], store=str(folder)))

    def end(self, told):
        import docker

        for container in docker.from_env().containers.list(filters={"label": "olivine"}):
            container.kill()

    def is_there(self, told):
        import docker

        return bool(docker.from_env().containers.list(filters={"label": "olivine"}))


def test_section_of_older_configs_is_read(made):
    old = made(local_docker_config={"image_name": "i", "run_params": {"mem_limit": "1g"}})
    assert (old.tag, old.image.run_params) == ("i", {"mem_limit": "1g"})
    assert systems.find("docker") is systems.find("Docker") is Docker


def test_containers_leave_nothing_behind(engine, made):
    system = made(image_name=IMAGE)
    assert system.probe().n_cores > 0
    identity = system.submit("name", ["--batch", "name", "--patience", "0.1"])
    system.far.write("jobs/name/end", b"")
    system.let_go(identity)
    assert engine.containers == {}
    assert len(engine.removed) == 2


def test_limits_and_variables_reach_the_container(engine, made, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a token")
    system = made(
        image_name=IMAGE,
        hf_token=True,
        work_dir="/work",
        run_params={"mem_limit": "2g", "environment": ["SAID=so"], "volumes": ["/data:/data:ro"], "remove": True},
    )
    system.n_gpus, engine.has_gpu = 2, True
    system.probe()
    config = engine.removed[0].config
    host = config["HostConfig"]
    assert host["Memory"] == 2 * 2**30
    assert {"SAID=so", "HF_TOKEN=a token"} <= set(config["Env"])
    assert "/data:/data:ro" in host["Binds"]
    assert host["DeviceRequests"][0]["Count"] == 2
    assert config["WorkingDir"] == "/work"


def test_secret_is_named_and_does_not_stand_in_a_config(engine, made, monkeypatch):
    for settings in (
        {"run_params": {"environment": ["HF_TOKEN=hf_abc"]}},
        {"run_params": {"environment": {"OPENAI_API_KEY": "abc"}}},
        {"build_args": {"PIP_PASSWORD": "abc"}},
    ):
        with pytest.raises(ValueError, match="does not belong into a config"):
            made(image_name=IMAGE, **settings)
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    made(image_name=IMAGE, run_params={"environment": ["OPENAI_API_KEY", "TOKENIZERS_PARALLELISM=true"]}).probe()
    assert {"OPENAI_API_KEY=a key", "TOKENIZERS_PARALLELISM=true"} <= set(engine.removed[0].config["Env"])


def test_memory_that_ran_out_is_named(engine, made):
    system = made(image_name=IMAGE)
    identity = system.submit("name", ["--batch", "name"])
    container = engine.containers[identity]
    container.kill()
    container.is_oom = True
    assert system.ended(identity) == system.ended(identity) == "was killed by the kernel: out of memory"
    assert system.ended("0123") == "is not known to the engine any more"


def test_image_is_built_of_a_context_with_this_olivine_in_it(engine, made, tmp_path):
    """And built again only when something of it has changed."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile.gpu").write_text("ARG BASE\nFROM ${BASE}\nCOPY note /tmp/\n")
    (context / "note").write_text("one")
    engine.images["bare:latest"] = engine.image()
    settings = {
        "build_context_path": str(context),
        "dockerfile": "Dockerfile.gpu",
        "build_args": {"BASE": "bare:latest"},
    }
    system = made(**settings)
    assert not system.is_prepared()
    system.prepare(tmp_path / "log")
    assert system.is_prepared()
    assert "Successfully tagged" in (tmp_path / "log").read_text()
    assert system.probe().olivine == olivine.__version__
    assert made(**settings).is_prepared()
    (context / "note").write_text("two")
    assert not made(**settings).is_prepared()


def test_image_that_olivine_goes_into_gets_a_runtime_where_nothing_says_which(engine, made, tmp_path):
    engine.images["bare:latest"], engine.has_gpu = engine.image(), True
    (tmp_path / "needs.txt").write_text("")
    for n_gpus, settings, extra in ((0, {}, "cpu"), (1, {}, "gpu"), (0, {"requirements_file": "needs.txt"}, None)):
        given = {key: str(tmp_path / value) for key, value in settings.items()}
        system, log = made(image_name="bare:latest", olive_managed_env=True, **given), tmp_path / f"log-{extra}"
        system.n_gpus = n_gpus
        assert not system.is_prepared()
        system.prepare(log)
        assert re.findall(r"\.whl\[(\w+)\]", log.read_text()) == ([extra] if extra else [])
        assert system.probe().olivine == olivine.__version__


def test_image_that_is_not_here_is_pulled_before_the_first_step(engine, made, tmp_path):
    system = made(image_name="far/away:2")
    assert not system.is_prepared()
    with pytest.raises(StepFailed, match="the image 'far/away:2' cannot be pulled: pull access denied"):
        system.prepare(tmp_path / "log")
    engine.remote["far/away:2"] = engine.images[IMAGE]
    system.prepare(tmp_path / "log")
    assert system.is_prepared()
    assert "Download complete" in (tmp_path / "log").read_text()


@pytest.mark.skipif(
    (Path(sysconfig.get_paths()["purelib"]) / "olivine").is_dir(), reason="every Python here has olivine"
)
def test_image_without_olivine_says_what_to_do(engine, made):
    engine.images["bare:latest"] = engine.image()
    with pytest.raises(RequestError, match="the image 'bare' has no olivine; set 'olive_managed_env'"):
        made(image_name="bare").probe()


@pytest.mark.parametrize(
    ("dockerfile", "sentence"),
    [
        ("FROM nowhere\n", "the image cannot be built: pull access denied for nowhere"),
        ("FRUM bare:latest\n", "unknown instruction: FRUM"),
        ("FROM work/olivine:1\nRUN python -m pip install none-such\n", "returned a non-zero code"),
    ],
)
def test_image_that_cannot_be_built_is_one_sentence(engine, made, tmp_path, dockerfile, sentence):
    (tmp_path / "Dockerfile").write_text(dockerfile)
    with pytest.raises(StepFailed, match=sentence):
        made(build_context_path=str(tmp_path)).prepare(tmp_path / "log")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "neither 'image_name' nor 'build_context_path'"),
        ({"build_context_path": "none"}, "there is no file '.*none/Dockerfile'"),
        ({"image_name": "i", "requirements_file": "none.txt"}, "there is no requirements_file"),
        ({"image_name": "i", "is_dev": True}, "'is_dev' is not served: olive_managed_env"),
        ({"image_name": "i", "clean_image": True}, "'clean_image' is not served"),
        ({"image_name": "i", "hf_token": True}, "'hf_token' is set, but this environment has no HF_TOKEN"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(made, monkeypatch, settings, sentence):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(RequestError, match=sentence):
        made(**settings)


def test_what_the_engine_refuses_is_one_sentence(engine, made):
    with pytest.raises(OlivineError, match="the Docker engine refuses: Minimum memory limit"):
        made(image_name=IMAGE, run_params={"mem_limit": "1m"}).probe()
    with pytest.raises(RequestError, match=r"'run_params' holds what docker-py does not take: .*nonsense"):
        made(image_name=IMAGE, run_params={"nonsense": 1}).probe()
    with_gpu = made(image_name=IMAGE)
    with_gpu.n_gpus = 1
    with pytest.raises(OlivineError, match="could not select device driver"):
        with_gpu.probe()


def test_engine_that_is_not_there_is_one_sentence(made, monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(OlivineError, match=r"the Docker engine at unix://.*none.sock gives no answer; is it running"):
        made(image_name=IMAGE).is_prepared()

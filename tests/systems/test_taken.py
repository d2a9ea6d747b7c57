"""A model that a node takes from where it lies: its weights do not come here, and its results are the same."""

import hashlib
import json
import shutil
import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from olivine.absent import Absent, absent, write_absent
from olivine.config import load
from olivine.errors import ModelError, StepFailed
from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.models.sources import FolderSource, outline
from olivine.models.weights import weights
from olivine.store.entries import Cache
from olivine.store.hashes import Hashes
from olivine.systems import Job, opened
from olivine.testing.tiny import tiny_checkpoint, write_rows
from olivine.work import Machine
from olivine.workflow.engine import run
from olivine.workflow.events import StepStarted
from olivine.workflow.fetch import forget_cleared
from olivine.workflow.keys import model_content
from olivine.workflow.plan import make_plan
from olivine.workflow.resources import Remote
from toy_far import Queue

ADDRESS = "azureml://registries/shared/models/m/versions/1"


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A queue whose nodes see the folder of a model."""
    model = tiny_checkpoint(tmp_path / "lies" / "there")
    monkeypatch.setenv("OLIVINE_MOUNTED_MODEL", str(tmp_path / "lies"))
    (tmp_path / "node").mkdir()
    queue = Queue(Queue.Params(url=str(tmp_path / "files"), folder=str(tmp_path / "node")))
    return SimpleNamespace(model=model, queue=queue, files=tmp_path / "files")


@pytest.fixture
def job(tmp_path, there):
    """Make a job; that of the kind "take" takes the whole model."""
    numbers = iter(range(100))

    def make(kind, **fields):
        folder = tmp_path / f"{kind}-{next(numbers)}"
        (folder / "output").mkdir(parents=True)
        (folder / "scratch").mkdir()
        machine = asdict(Machine("cpu", "CPUExecutionProvider", 2**34, 2**36, 1, offline=True))
        return Job(kind, "try", folder / "output", folder / "scratch", machine=machine, **fields)

    return make


def _asked(model, **other):
    files = {path.name: {"source": f"there/{path.name}", "bytes": path.stat().st_size, "md5": None} for path in model}
    return {"address": ADDRESS, "mounted": "model", "files": files | other}


def _outlined(model, folder, hashes):
    """What is kept here of a model that was taken."""
    folder.mkdir()
    source = FolderSource(model)
    drawn = outline(source, source.files(), folder)
    write_absent(folder, ADDRESS, {file.name: Absent(file.n_bytes, hashes[file.name]) for file in drawn})
    return folder


@pytest.fixture
def outlined(tmp_path, there):
    hashes = Hashes(tmp_path / "cache")
    return _outlined(
        there.model, tmp_path / "outline", {path.name: hashes.file(path) for path in there.model.iterdir()}
    )


def test_outline_is_known_as_the_whole_model_is(there, outlined, tmp_path):
    """A plan finds the same facts and the same keys, without the weights."""
    whole, header = read_facts(there.model), read_facts(outlined)
    assert (header.n_parameters, header.weight_bytes, header.shapes) == (
        whole.n_parameters,
        whole.weight_bytes,
        whole.shapes,
    )
    hashes = Hashes(tmp_path / "cache")
    assert model_content(Model("hf", outlined), hashes) == model_content(Model("hf", there.model), hashes)
    assert (outlined / "model.safetensors").stat().st_size < whole.weight_bytes / 4
    assert absent(outlined / "config.json") is None


def test_weights_of_an_outline_are_not_read_as_if_they_were_here(outlined):
    embedding = weights(Model("hf", outlined))["model.embed_tokens.weight"]
    with pytest.raises(ModelError, match=f"the weights of '{ADDRESS}' are read where they lie; here is only"):
        embedding.read()


def test_what_a_node_takes_goes_on_by_content_and_never_comes_here(there, job, tmp_path):
    sent, fetched = [], []
    put, get = there.queue.put, there.queue.get
    there.queue.put = lambda source, hashed: sent.append(source.name) or put(source, hashed)
    there.queue.get = lambda hashed, target: fetched.append(hashed) or get(hashed, target)
    take = job("take", params=_asked(there.model.iterdir()))
    with opened(there.queue, tmp_path / "cache") as worker:
        hashes = worker.run(take, lambda *_: None)["files"]
        assert (sent, fetched, list(take.output.iterdir())) == ([], [], [])
        model = Model("hf", _outlined(there.model, tmp_path / "outline", hashes))
        written = job("materialize", model=model.to_json())
        worker.run(written, lambda *_: None)
    assert "model.safetensors" not in sent
    assert (written.output / "model.safetensors").read_bytes() == (there.model / "model.safetensors").read_bytes()


def test_model_that_was_cleared_away_is_not_sent_as_its_outline(there, outlined, job, tmp_path):
    with (
        opened(there.queue, tmp_path / "cache") as worker,
        pytest.raises(StepFailed, match=f"'{ADDRESS}' is no longer in the store; run it again"),
    ):
        worker.run(job("materialize", model=Model("hf", outlined).to_json()), lambda *_: None)


def test_model_that_was_cleared_away_is_forgotten_so_that_it_is_taken_again(there, outlined, tmp_path):
    with Cache(tmp_path / "cache") as cache:
        cache.prepare()
        cache.obtain("key", "fetch", lambda content: shutil.copytree(outlined, content, dirs_exist_ok=True) and {})
        remote = Remote(("input_model", "model_path"), ADDRESS, "key", host="far")
        assert forget_cleared([remote], cache, {"far": there.queue}) is True
        assert not cache.has("key")
        cache.obtain("key", "fetch", lambda content: shutil.copytree(outlined, content, dirs_exist_ok=True) and {})
        for path in there.model.iterdir():
            there.queue.put(path, Hashes(tmp_path / "cache").file(path))
        assert forget_cleared([remote], cache, {"far": there.queue}) is False


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"bytes": 10**6}, "came with other bytes than it has there"),
        ({"md5": hashlib.md5(b"", usedforsecurity=False).hexdigest()}, "came with other bytes than it has there"),
        ({"source": "there/none"}, f"the node does not see 'there/none' of '{ADDRESS}'"),
    ],
)
def test_file_that_is_not_what_was_listed_is_refused(there, job, tmp_path, other, says):
    asked = _asked([there.model / "config.json"])
    asked["files"]["config.json"] |= other
    with opened(there.queue, tmp_path / "cache") as worker, pytest.raises(StepFailed, match=says):
        worker.run(job("take", params=asked), lambda *_: None)


@pytest.mark.slow
def test_weights_that_are_computed_are_written_out_where_the_step_ran(tmp_path, tiny_llama):
    """A merged model is delivered whole: its base need not be here for that."""
    write_rows(tmp_path / "rows.jsonl", 16)
    text = {"text_template": "{phrase} {tone}", "max_seq_len": 64}
    config = {
        "input_model": {"model_path": str(tiny_llama)},
        "systems": {"env": {"type": "PythonEnvironment", "python_environment_path": sys.executable}},
        "host": "env",
        "data_configs": [
            {"name": "rows", "load_dataset_config": {"data_files": "rows.jsonl"}, "pre_process_data_config": text}
        ],
        "passes": {
            "lora": {"type": "LoRA", "train_data_config": "rows", "training_args": {"max_steps": 2}},
            "merge": {"type": "MergeAdapterWeights"},
        },
        "quality": {"enabled": False},
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    heard = []
    run(make_plan(load(tmp_path / "config.json")), heard.append)
    hosts = {event.step: event.host for event in heard if isinstance(event, StepStarted)}
    assert hosts["materialize:merge"] == "env"

"""A workflow whose jobs run in another folder, with a store of its own."""

import json

import pytest

from olivine.models import Model
from olivine.testing.system import contents
from olivine.workflow.engine import run
from toy_far import Queue
from toy_system import Toy

ROWS = [("what a lovely day", "joy"), ("something moved in the dark", "fear"), ("he is gone", "sadness")]


class CountingToy(Toy):
    """Notes the size of every file that is sent."""

    def __init__(self, params):
        super().__init__(params)
        self.sent = []

    def put(self, source, hashed):
        self.sent.append(source.stat().st_size)
        super().put(source, hashed)


def _write_rows(file, rows):
    file.write_text("".join(json.dumps({"phrase": phrase, "tone": tone}) + "\n" for phrase, tone in rows * 2))


@pytest.mark.slow
def test_workflow_elsewhere_gives_the_bytes_of_one_here_and_sends_what_is_new(
    fakes, tmp_path, tiny_llama, llama_adapter
):
    rows = tmp_path / "rows.jsonl"
    _write_rows(rows, ROWS)
    base, adapter = (getattr(model, "path", model) for model in (tiny_llama, llama_adapter))
    model = Model("adapter", adapter, base=Model("hf", base))

    def plan(name):
        steps = [("merged", "merge", {})]
        return fakes.plan(
            tmp_path, *steps, score=True, input_model=model, output=name, cache_dir=tmp_path / f"cache-{name}"
        )

    (tmp_path / "elsewhere").mkdir()
    toy = CountingToy(Toy.Params(folder=str(tmp_path / "elsewhere")))
    here, there = run(plan("here")), run(plan("there"), system=toy)
    assert contents(there.model) == contents(here.model) != {}
    assert [row["loss"] for row in there.scores] == [row["loss"] for row in here.scores]
    assert there.samples == here.samples
    assert rows.stat().st_size in toy.sent
    assert sum(toy.sent) > (base / "model.safetensors").stat().st_size
    assert str(tmp_path) not in json.dumps(there.scores, default=str)

    toy.sent.clear()
    assert run(plan("there"), system=toy).scores == there.scores
    assert toy.sent == []

    _write_rows(rows, [*ROWS[:2], ("she is gone", "sadness")])
    run(plan("changed"), system=toy)  # nothing is cached here, but all that it reads beside the rows lies there
    assert toy.sent == [rows.stat().st_size]


@pytest.mark.slow
def test_steps_in_a_row_go_to_a_queue_as_one_command(fakes, tmp_path):
    (tmp_path / "node").mkdir()
    queue, submitted = Queue(Queue.Params(url=str(tmp_path / "files"), folder=str(tmp_path / "node"))), []
    submit = queue.submit
    queue.submit = lambda name, arguments: submitted.append(name) or submit(name, arguments)

    def plan(name):
        steps = [(step, "write", {"n_files": 2}) for step in ("one", "two", "three")]
        return fakes.plan(tmp_path, *steps, output=name, cache_dir=tmp_path / f"cache-{name}")

    heard = []
    here, there = run(plan("here")), run(plan("there"), heard.append, system=queue)
    assert contents(there.model) == contents(here.model) != {}
    assert len(submitted) == 1
    assert [event.step for event in heard if event.kind == "step_done"] == ["one", "two", "three"]


@pytest.mark.parametrize("written", ["rows.jsonl", "sub/rows.jsonl", "../beside/rows.jsonl", None])
def test_data_is_found_however_its_config_names_it(written, fakes, tmp_path):
    """The worker there sees the same files in the same order, and no place of this machine."""
    from olivine.config.schema import DataConfig
    from olivine.data import data_files
    from olivine.store.hashes import Hashes
    from olivine.store.transfer import Files
    from olivine.systems import Job
    from olivine.systems._parcel import parcel, unpacked

    folder = tmp_path / "config"
    for place in (folder / "sub", tmp_path / "beside"):
        place.mkdir(parents=True)
    for file in (folder / "rows.jsonl", folder / "sub" / "rows.jsonl", tmp_path / "beside" / "rows.jsonl"):
        file.write_text(f'{{"phrase": "{file.parent.name}"}}\n')
    load = {"data_name": "json", "data_files": written} if written else {"data_name": "sub"}
    config = DataConfig(name="rows", folder=str(folder), load_dataset_config=load)
    job = Job(
        "pass", "s", tmp_path / "out", tmp_path / "scratch" / "key", data={"rows": config.model_dump(mode="json")}
    )
    sent = parcel(job, Hashes(tmp_path))
    assert str(tmp_path) not in json.dumps(sent.job.to_json())
    store = Files(tmp_path / "store")
    for hashed, source in sent.sources.items():
        store.put(source, hashed)
    there, _ = unpacked(Job.from_json(json.loads(json.dumps(sent.job.to_json()))), store, tmp_path / "there")
    before, after = data_files(config), data_files(DataConfig.model_validate(there.data["rows"]))
    assert [path.read_text() for path in after] == [path.read_text() for path in before] != []
    assert {path.is_relative_to(store.folder) for path in after} == {True}

import os
import time

import pytest

from olivine.models import Model
from olivine.workflow import keys
from olivine.workflow.keys import Hashes, Unremembered, digest, hash_file, plan_keys, seams

STEPS = (("one", "write", {"data": "rows"}), ("two", "write", {"text": "b"}))


def _age(*paths):
    """Let files look as if they were written a while ago: younger ones are not remembered."""
    for path in paths:
        os.utime(path, (time.time() - 100, time.time() - 100))


@pytest.fixture
def n_hashed(monkeypatch):
    """Counts files that are read to be hashed."""
    hashed = []

    def count(path):
        hashed.append(path)
        return hash_file(path)

    monkeypatch.setattr(keys, "hash_file", count)
    return hashed


def _with_data(fakes, folder, **changes):
    plan = fakes.plan(folder, *STEPS, score=True)
    steps = (
        type(plan.steps[0])(**{**vars(plan.steps[0]), "data": {"rows": fakes.rows(folder).data}, **changes}),
        plan.steps[1],
    )
    return type(plan)(**{**vars(plan), "steps": steps})


def _keys(plan):
    return plan_keys(plan, plan.input_model, Hashes(plan.cache_dir))


def test_order_of_keys_in_json_does_not_matter():
    assert digest({"a": 1, "b": [1.0, None]}) == digest({"b": [1.0, None], "a": 1}) != digest({"a": 1, "b": [1, None]})


def test_large_file_hashes_like_a_small_one(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(os.urandom(100_000))
    small = hash_file(file)
    monkeypatch.setattr(keys, "_LARGE_BYTES", 10)
    assert hash_file(file) == small


def test_hash_of_a_file_is_remembered_across_runs(tmp_path, n_hashed):
    file = tmp_path / "weights"
    file.write_bytes(b"1")
    _age(file)
    for _ in range(3):
        Hashes(tmp_path).file(file)
    assert len(n_hashed) == 1


@pytest.mark.parametrize("change", ["content", "replaced"])
def test_changed_file_is_hashed_again(tmp_path, change):
    file = tmp_path / "weights"
    file.write_bytes(b"1")
    _age(file)
    before = Hashes(tmp_path).file(file)
    if change == "replaced":  # another file of the same size and time
        status = file.stat()
        other = tmp_path / "other"
        other.write_bytes(b"2")
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        other.rename(file)
    else:
        file.write_bytes(b"2")
    assert Hashes(tmp_path).file(file) != before


def test_file_written_just_now_is_not_remembered(tmp_path, n_hashed):
    """It could be changed once more within one tick of the file system's clock."""
    file = tmp_path / "rows"
    file.write_bytes(b"1")
    Hashes(tmp_path).file(file)
    Hashes(tmp_path).file(file)
    assert len(n_hashed) == 2


def test_memory_that_was_cut_short_means_hashing_again(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"1")
    _age(file)
    first = Hashes(tmp_path).file(file)
    memory = tmp_path / "hashes.jsonl"
    memory.write_bytes(memory.read_bytes()[:-20] + b"\n\xff\xfe[]\n")
    assert Hashes(tmp_path).file(file) == first


def test_plan_hashes_no_large_file_and_writes_nothing(tmp_path):
    file = tmp_path / "weights"
    with file.open("wb") as handle:
        handle.truncate(300 * 2**20)
    with pytest.raises(Unremembered):
        Hashes(tmp_path, remember_only=True).file(file)
    small = tmp_path / "small"
    small.write_bytes(b"1")
    _age(small)
    Hashes(tmp_path, remember_only=True).file(small)
    assert not (tmp_path / "hashes.jsonl").exists()


def test_compact_memory_forgets_files_that_are_gone(tmp_path):
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_bytes(b"1")
    _age(*files)
    hashes = Hashes(tmp_path)
    for file in files:
        hashes.file(file)
    files[0].unlink()
    Hashes(tmp_path).compact()
    assert len((tmp_path / "hashes.jsonl").read_text().splitlines()) == 2


def test_model_is_its_deciding_files_not_its_place(fakes, tmp_path):
    model = fakes.input_model(tmp_path / "base")
    before = Hashes(tmp_path).model(model)
    (tmp_path / "base" / "README.md").write_text("read me")
    (tmp_path / "base" / ".git").mkdir()
    (tmp_path / "base" / "trainer_state.json").write_text("{}")
    (tmp_path / "base").rename(tmp_path / "moved")
    moved = Model("hf", tmp_path / "moved")
    assert Hashes(tmp_path).model(moved) == before
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja", "model-2.safetensors"):
        (tmp_path / "moved" / name).write_text("{}")
        after = Hashes(tmp_path).model(moved)
        assert after != before, name
        before = after


def test_code_of_a_model_counts_only_when_it_is_trusted(fakes, tmp_path):
    model = fakes.input_model(tmp_path / "base")
    trusted = Model("hf", model.path, trust_remote_code=True)
    before = [Hashes(tmp_path).model(m) for m in (model, trusted)]
    (model.path / "modeling.py").write_text("1")
    after = [Hashes(tmp_path).model(m) for m in (model, trusted)]
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_one_more_row_changes_the_step_that_reads_it_and_all_after_it(fakes, tmp_path):
    plan = _with_data(fakes, tmp_path)
    before = _keys(plan)
    assert _keys(_with_data(fakes, tmp_path)) == before
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"phrase": "no", "tone": "fear"}\n')
    after = _keys(plan)
    assert before.models[None] == after.models[None]
    assert all(before.models[name] != after.models[name] for name in ("one", "two"))
    assert all(before.scores[name] != after.scores[name] for name in (None, "one", "two"))


def test_place_of_the_data_does_not_matter(fakes, tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    first, second = (_keys(_with_data(fakes, folder)) for folder in folders)
    assert first == second


def test_bytes_of_user_files_count(fakes, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("1")
    plan = _with_data(fakes, tmp_path, files=(script,))
    before = _keys(plan)
    script.write_text("2")
    assert _keys(plan).models["one"] != before.models["one"]


@pytest.mark.parametrize("attribute", [("version", 2), ("libraries", ("blake3", "filelock"))])
def test_version_of_a_pass_and_its_libraries_count(fakes, tmp_path, monkeypatch, attribute):
    plan = fakes.plan(tmp_path, *STEPS)
    before = _keys(plan)
    monkeypatch.setattr(fakes.passes.find("write"), *attribute)
    assert _keys(plan).models["two"] != before.models["two"]


def test_provider_counts_for_graphs_only(fakes, tmp_path, monkeypatch):
    plan = fakes.plan(tmp_path, ("one", "write", {}))
    machine = type(plan.machine)(**{**vars(plan.machine), "execution_provider": "CUDAExecutionProvider"})
    other = type(plan)(**{**vars(plan), "steps": (type(plan.steps[0])(**{**vars(plan.steps[0]), "machine": machine}),)})
    assert _keys(plan) == _keys(other)
    monkeypatch.setattr(fakes.passes.find("write"), "produces", "onnx")
    assert _keys(plan) != _keys(other)


def test_seams_are_the_base_and_every_step_of_the_user(fakes, tmp_path):
    plan = fakes.plan(tmp_path, ("gguf", "write", {}), ("lora", "write", {}), ("merge", "write", {}), score=True)
    implicit = type(plan.steps[0])(**{**vars(plan.steps[0]), "implicit": True})
    plan = type(plan)(**{**vars(plan), "steps": (implicit, *plan.steps[1:])})
    found = [(seam.name, seam.step, seam.previous and seam.previous.name) for seam in seams(plan)]
    assert found == [("base", "gguf", None), ("lora", "lora", "base"), ("merge", "merge", "lora")]


def test_pass_that_is_named_as_the_program_names_a_seam_has_its_own_score(fakes, tmp_path):
    plain, named = (fakes.plan(tmp_path, (name, "write", {}), score=True) for name in ("lora", "base"))
    assert [(seam.name, seam.step) for seam in seams(named)] == [("base", None), ("base", "base")]
    assert _keys(named).scores["base"] == _keys(plain).scores["lora"]
    assert _keys(named).scores[None] == _keys(plain).scores[None] != _keys(plain).scores["lora"]


def test_without_rows_nothing_is_scored(fakes, tmp_path):
    assert seams(fakes.plan(tmp_path, *STEPS)) == []
    assert seams(fakes.plan(tmp_path, *STEPS, score=True, quality={"enabled": False})) == []

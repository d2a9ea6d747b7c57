import pytest

from olivine.models import Model
from olivine.store.hashes import Hashes
from olivine.workflow.keys import model_content, plan_keys, seams

STEPS = (("one", "write", {"data": "rows"}), ("two", "write", {"text": "b"}))


def _with_data(fakes, folder, **changes):
    plan = fakes.plan(folder, *STEPS, score=True)
    steps = (
        type(plan.steps[0])(**{**vars(plan.steps[0]), "data": {"rows": fakes.rows(folder).data}, **changes}),
        plan.steps[1],
    )
    return type(plan)(**{**vars(plan), "steps": steps})


def _keys(plan):
    return plan_keys(plan, plan.input_model, Hashes(plan.cache_dir))


def test_model_is_its_deciding_files_not_its_place(fakes, tmp_path):
    model = fakes.input_model(tmp_path / "base")
    before = model_content(model, Hashes(tmp_path))
    (tmp_path / "base" / "README.md").write_text("read me")
    (tmp_path / "base" / ".git").mkdir()
    (tmp_path / "base" / "trainer_state.json").write_text("{}")
    (tmp_path / "base").rename(tmp_path / "moved")
    moved = Model("hf", tmp_path / "moved")
    assert model_content(moved, Hashes(tmp_path)) == before
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja", "model-2.safetensors"):
        (tmp_path / "moved" / name).write_text("{}")
        after = model_content(moved, Hashes(tmp_path))
        assert after != before, name
        before = after


def test_code_of_a_model_counts_only_when_it_is_trusted(fakes, tmp_path):
    model = fakes.input_model(tmp_path / "base")
    trusted = Model("hf", model.path, trust_remote_code=True)
    before = [model_content(m, Hashes(tmp_path)) for m in (model, trusted)]
    (model.path / "modeling.py").write_text("1")
    after = [model_content(m, Hashes(tmp_path)) for m in (model, trusted)]
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

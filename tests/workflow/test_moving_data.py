"""Data that is not here counts by its rows: the same name may point to others today."""

import json
from dataclasses import replace

import pytest

from olivine.config.schema import DataConfig
from olivine.data import content_of, may_move, read_rows
from olivine.errors import DataError, StepFailed
from olivine.models.facts import ModelFacts
from olivine.workflow.engine import run
from olivine.workflow.journal import read_journal
from olivine.workflow.steps import ScoreRows

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A folder; what datasets keeps goes into another."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def by_address(folder, rows, **text):
    """Rows that are fetched from an address, for which a file of this machine serves."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    load = {"data_name": "json", "data_files": (folder / "rows.jsonl").as_uri()}
    return DataConfig.model_validate({"name": "rows", "load_dataset_config": load, "pre_process_data_config": text})


def planned(fakes, folder, config):
    plan = fakes.plan(folder, ("good", "write", {}))
    return replace(plan, steps=(replace(plan.steps[0], data={"rows": config}),))


def outcomes(result):
    return {step["name"]: step["cached"] for step in result.steps}


@pytest.mark.slow
def test_rows_that_changed_under_their_name_are_never_called_cached(fakes, there):
    rows = [{"text": "a"}, {"text": "b"}]
    config = by_address(there, rows)
    assert outcomes(run(planned(fakes, there, config))) == {"good": False}
    assert outcomes(run(planned(fakes, there, config))) == {"good": True}
    by_address(there, [{"text": "a"}, {"text": "c"}])
    assert outcomes(run(planned(fakes, there, config))) == {"good": False}
    by_address(there, rows)
    assert outcomes(run(planned(fakes, there, config))) == {"good": True}
    looked = [event for event in read_journal(there / "out") if event.kind == "rows"]
    assert looked[-1].n_rows == 2


def test_rows_that_cannot_be_had_fail_before_the_first_step(fakes, there):
    config = by_address(there, [{"text": "a"}])
    (there / "rows.jsonl").unlink()
    with pytest.raises(StepFailed, match="step 'rows:rows' failed: the data set 'json' cannot be loaded") as caught:
        run(planned(fakes, there, config))
    assert caught.value.exit_code == 1


def test_step_that_finds_other_rows_than_the_run_began_with_fails(there):
    config = by_address(there, [{"text": "a"}])
    pinned = config.model_copy(update={"content": content_of(config)["content"]})
    assert len(read_rows(pinned)) == 1
    by_address(there, [{"text": "b"}])
    with pytest.raises(DataError, match="the rows of 'json' have changed since the run began"):
        read_rows(pinned)


def test_content_is_that_of_the_rows_and_their_columns_wherever_they_lie(there):
    rows = [{"text": "a", "n": 1}, {"text": None, "n": 2}]
    first = content_of(by_address(there, rows))
    (there / "elsewhere").mkdir()
    assert content_of(by_address(there / "elsewhere", rows))["content"] == first["content"]
    assert first["sample"] == rows
    for other in (rows[::-1], rows[:1], [{"text": "a", "m": 1}, {"text": None, "m": 2}]):
        assert content_of(by_address(there, other))["content"] != first["content"]


@pytest.mark.parametrize(
    ("load", "moves"),
    [
        ({"data_name": "me/rows"}, True),
        ({"data_name": "me/rows", "revision": "main"}, True),
        ({"data_name": "me/rows", "revision": "0" * 40}, False),
        ({"data_name": "json", "data_files": "https://x/y.jsonl", "revision": "0" * 40}, True),
        ({"data_name": "json", "data_files": "rows.jsonl"}, False),
    ],
    ids=str,
)
def test_only_files_here_and_commits_stay_what_they_are(load, moves):
    assert may_move(DataConfig.model_validate({"name": "rows", "load_dataset_config": load})) is moves


def test_columns_of_rows_that_are_not_here_are_named_when_they_are_not_read(fakes, there):
    config = by_address(there, [{"question": "a", "answer": "b", "images": ["c"], "id": 1}])
    run(planned(fakes, there, config))
    warnings = [event.message for event in read_journal(there / "out") if event.kind == "warning"]
    assert warnings == ["the column 'images' of 'rows' is not read"]


def test_columns_of_a_model_that_writes_no_text_are_read_as_its_inputs_and_label(fakes, there):
    from olivine.workflow.moving import moving, with_rows

    config = by_address(there, [{"image": "a.png", "label": 2, "images": ["b.png"]}])
    plan = replace(
        planned(fakes, there, config), facts=ModelFacts("ViTForImageClassification", 10, task="image-classification")
    )
    run(plan)
    assert [event for event in read_journal(there / "out") if event.kind == "warning"] == []
    plan = replace(plan, steps=(), score=ScoreRows(config, "all", None, 0, "", 8, on_outputs=True))
    told = {"rows": content_of(moving(plan)[0])}
    assert with_rows(plan, told, "").score.target == "label"
    hears = replace(plan.facts, task="automatic-speech-recognition")
    assert with_rows(replace(plan, facts=hears), told, "").score.target == ""


def test_form_of_rows_that_are_not_here_is_decided_when_they_are_looked_at(fakes, there):
    from olivine.workflow.moving import moving, with_rows

    plan = planned(fakes, there, by_address(there, [{"question": "a", "answer": "b"}]))
    told = {"rows": content_of(moving(plan)[0])}
    for template, is_chat in (("{{ messages }}", True), ("", False)):
        settings = with_rows(plan, told, template).steps[0].data["rows"].pre_process_data_config
        assert (settings.chat_template, settings.prompt_col) == (is_chat, "question")

"""What a run exports is proven before its first step; once for all models of one config."""

import json

import pytest

from olivine.errors import StepFailed
from olivine.store.hashes import Hashes
from olivine.workflow.engine import run
from olivine.workflow.journal import read_journal
from olivine.workflow.proofs import claims, proof_key

STEPS = (("one", "write", {"text": "a"}), ("two", "claim", {"text": "b"}))


def test_the_proof_comes_before_the_first_step(fakes, tmp_path):
    result = run(fakes.plan(tmp_path, *STEPS))
    assert [step["name"] for step in result.steps] == ["prove", "one", "two"]
    warnings = [event for event in read_journal(tmp_path / "out") if event.kind == "warning"]
    assert [warning.message for warning in warnings] == ["a part of it is not proven"]


def test_a_disagreement_ends_the_run_before_any_work_and_is_not_kept(fakes, tmp_path):
    plan = fakes.plan(tmp_path, STEPS[0], ("two", "claim", {"text": "b", "holds": False}))
    for _ in range(2):
        with pytest.raises(
            StepFailed, match=r"step 'prove' failed: from 17 tokens on logits differ by 4\.7"
        ) as failure:
            run(plan)
        assert failure.value.exit_code == 1
    assert not list((tmp_path / "cache" / "steps").iterdir())
    assert not list((tmp_path / "cache" / "scratch").iterdir())
    assert not (tmp_path / "out" / "model").exists()


def test_a_cached_run_proves_nothing_and_starts_no_worker(fakes, tmp_path, monkeypatch):
    plan = fakes.plan(tmp_path, *STEPS)
    run(plan)
    monkeypatch.setattr("subprocess.Popen", None)
    assert [step["name"] for step in run(plan).steps] == ["one", "two"]


def test_a_changed_step_before_the_export_takes_the_proof_from_the_cache(fakes, tmp_path):
    run(fakes.plan(tmp_path, *STEPS))
    again = run(fakes.plan(tmp_path, ("one", "write", {"text": "c"}), STEPS[1]))
    assert [(step["name"], step["cached"]) for step in again.steps] == [("prove", True), ("one", False), ("two", False)]


def test_other_weights_of_one_config_share_a_proof_and_another_config_does_not(fakes, tmp_path):
    plan = fakes.plan(tmp_path, *STEPS)
    model, steps = plan.input_model, claims(plan)
    assert [step.name for step in steps] == ["two"]

    def key():
        return proof_key(steps[0], model, Hashes(tmp_path / "cache"))

    first = key()
    (model.path / "model.safetensors").write_bytes(b"other weights")
    assert key() == first
    (model.path / "config.json").write_text(json.dumps({"sliding_window": 16}))
    assert key() != first

"""A merge of a real (tiny) model, scored at each seam by the real worker."""

import json

import pytest

from olivine.errors import GoalMissed
from olivine.models import Model
from olivine.workflow.engine import run
from olivine.workflow.journal import read_journal
from olivine.workflow.keys import cached

pytestmark = pytest.mark.usefixtures("warm")
ROWS = [
    ("what a lovely day", "joy"),
    ("something moved in the dark", "fear"),
    ("he is gone", "sadness"),
    ("oh", "surprise"),
]


@pytest.fixture
def merge_plan(fakes, tmp_path, tiny_llama, llama_adapter):
    """An adapter as the input model, merged and scored."""
    lines = [json.dumps({"phrase": phrase, "tone": tone}) + "\n" for phrase, tone in ROWS * 2]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    base, adapter = (getattr(model, "path", model) for model in (tiny_llama, llama_adapter))
    model = Model("adapter", adapter, base=Model("hf", base))

    def make(*steps, **changes):
        return fakes.plan(tmp_path, ("merged", "merge", {}), *steps, score=True, input_model=model, **changes)

    return make


def test_merge_is_scored_at_each_seam_written_out_and_cached(merge_plan, tmp_path, monkeypatch):
    plan = merge_plan()
    result = run(plan)
    assert [(row["model"], row["format"]) for row in result.scores] == [("base", "adapter"), ("merged", "hf")]
    base, merged = result.scores
    assert merged["loss"] == pytest.approx(base["loss"], abs=1e-3)
    assert merged["kl"] == pytest.approx(0, abs=1e-3)
    assert "kl" not in base
    assert len(result.samples) == 4
    assert (result.model / "model.safetensors").is_file()
    assert (result.model / "tokenizer.json").is_file()
    assert {event.model for event in read_journal(plan.output_dir) if event.kind == "score"} == {
        "base",
        "merged",
    }
    monkeypatch.setattr("subprocess.Popen", None)
    again = run(plan)
    assert again.scores == result.scores
    assert all(step["cached"] for step in again.steps)
    assert cached(plan) == {"merged", "score:base", "score:merged"}


def test_model_broken_by_a_step_fails_the_run(merge_plan):
    with pytest.raises(GoalMissed, match="'spoilt' is broken, 'merged' was not: NaN logits in 4 of 4 rows") as caught:
        run(merge_plan(("spoilt", "spoil", {})))
    assert (caught.value.result.model / "model.safetensors").is_file()


def test_workflow_json_plans_the_same_steps(fakes, tmp_path, tiny_llama, llama_adapter):
    from olivine.config import load
    from olivine.workflow.plan import make_plan

    config = {
        "input_model": {"model_path": str(tiny_llama), "adapter_path": str(llama_adapter)},
        "passes": {"merge": {"type": "MergeAdapterWeights"}},
        "quality": {"enabled": False},
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    run(make_plan(load(tmp_path / "config.json"), offline=True))
    again = make_plan(load(tmp_path / "out" / "workflow.json"), offline=True)
    assert not again.problems
    assert again.cached == {"merge"}

"""Passes of third parties: a broken one harms only who asks for it, and none takes a name of ours."""

import json
import sys

import pytest

from olivine.cli import exit_code
from olivine.config import load
from olivine.passes import Pass, passes
from olivine.registry import Registry
from olivine.workflow.doctor import diagnose
from olivine.workflow.plan import make_plan

GOOD = """
from olivine.passes import Pass
class Good(Pass):
    "Do nothing."
    aliases = ("LoRA", "merge", "Better")
    accepts = frozenset({"hf"})
    produces = "hf"
    def run(self, model, context):
        return model
class Abstract(Pass):
    accepts, produces = frozenset(), "hf"
class Unsaid(Pass):
    def run(self, model, context):
        return model
class Aliased(Good):
    aliases = "text"
number = 1
"""
BROKEN = {
    "missing": "olivine_no_such_module:Thing",
    "absent": "third_party:Nothing",
    "number": "third_party:number",
    "abstract": "third_party:Abstract",
    "unsaid": "third_party:Unsaid",
    "aliased": "third_party:Aliased",
    "raises": "third_party_raises:Thing",
    "exits": "third_party_exits:Thing",
    "panics": "third_party_panics:Thing",
    "GPTQ": "third_party:Good",
    "MergeAdapterWeights": "third_party:Good",
}


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """An installed distribution with one good pass and many broken ones."""
    info = tmp_path / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    points = {"good": "third_party:Good", **BROKEN}
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[olivine.passes]\n{lines}")
    (tmp_path / "third_party.py").write_text(GOOD)
    (tmp_path / "third_party_raises.py").write_text("raise RuntimeError('two\\nlines')")
    (tmp_path / "third_party_exits.py").write_text("raise SystemExit(3)")
    (tmp_path / "third_party_panics.py").write_text("class Panic(BaseException):\n    pass\nraise Panic('in Rust')")
    monkeypatch.syspath_prepend(tmp_path)
    passes.forget()
    yield
    passes.forget()


def test_broken_plugins_leave_the_others_as_they_were(third_party):
    ours = Registry("olivine.passes", Pass, group="nobody").classes
    assert passes.classes.keys() == {*ours, "good"}
    assert passes.broken.keys() == BROKEN.keys()
    assert all("\n" not in why and "'third-party' does not load" in why for why in passes.broken.values())


def test_plugin_is_imported_by_who_names_it_alone(third_party, tiny_llama, tmp_path, capsys):
    (tmp_path / "third_party.py").write_text(f"open({str(tmp_path / 'met')!r}, 'w').close()\nprint('hello')\n{GOOD}")
    config = {
        "input_model": {"type": "HfModel", "model_path": str(tiny_llama)},
        "passes": {"a": {"type": "rtn", "group_size": 32}, "b": {"type": "ModelBuilder"}},
        "quality": {"enabled": False},
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    sys.modules.pop("third_party", None)
    assert exit_code(["plan", "--config", str(tmp_path / "config.json")]) == 0
    assert not (tmp_path / "met").exists()
    capsys.readouterr()
    assert exit_code(["passes", "good", "--json"]) == 0
    assert (tmp_path / "met").exists()
    printed = capsys.readouterr()
    assert json.loads(printed.out)["name"] == "good"  # what it prints itself is not the answer
    assert "hello" in printed.err


def test_names_and_aliases_of_our_own_win(third_party):
    for name in ("LoRA", "merge", "gptq", "MergeAdapterWeights"):
        assert passes.find(name).__module__.startswith("olivine.")
    assert passes.find("better").__module__ == "third_party"


def test_broken_plugin_is_told_to_who_names_it_and_by_doctor(third_party, tiny_llama, tmp_path, capsys):
    config = {
        "input_model": {"type": "HfModel", "model_path": str(tiny_llama)},
        "passes": {"mine": {"type": "Raises"}},
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert exit_code(["plan", "--config", str(tmp_path / "config.json"), "--json"]) == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert "'raises' of the package 'third-party' does not load (RuntimeError: two)" in problem["message"]
    assert exit_code(["passes", "raises"]) == 2
    assert "does not load" in capsys.readouterr().err
    assert exit_code(["passes"]) == 0
    assert len([finding for finding in diagnose() if finding.name == "pass" and not finding.ok]) == len(BROKEN)


def test_pass_that_trains_says_on_what_whatever_its_params_are_called(fakes, tiny_llama, tmp_path):
    rows = [{"text": f"row {n}"} for n in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "input_model": {"model_path": str(tiny_llama)},
        "data_configs": [
            {
                "name": "mine",
                "load_dataset_config": {"data_name": "json", "data_files": str(tmp_path / "rows.jsonl")},
                "pre_process_data_config": {"text_cols": "text"},
            }
        ],
        "passes": {"tune": {"type": "tune", "corpus": "mine", "kept_apart": 0.3}, "q": {"type": "gptq"}},
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    plan = make_plan(load(tmp_path / "config.json"), offline=True)
    assert plan.problems == ()
    assert (plan.score.data.name, plan.score.part, plan.score.eval_size, plan.score.seed) == ("mine", "eval", 0.3, 7)
    quantizer = plan.steps[1].params
    assert (quantizer["data_config"], quantizer["calibration_held_out"], quantizer["calibration_seed"]) == (
        "mine",
        0.3,
        7,
    )

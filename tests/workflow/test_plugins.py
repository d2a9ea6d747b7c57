"""Passes of third parties: a broken one harms only who asks for it, and none takes a name of ours."""

import json

import pytest

from olivine.cli import exit_code
from olivine.passes import Pass, passes
from olivine.registry import Registry
from olivine.workflow.doctor import diagnose

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
    monkeypatch.syspath_prepend(tmp_path)
    passes.forget()
    yield
    passes.forget()


def test_broken_plugins_leave_the_others_as_they_were(third_party):
    ours = Registry("olivine.passes", Pass, group="nobody").classes
    assert passes.classes.keys() == {*ours, "good"}
    assert passes.broken.keys() == BROKEN.keys()
    assert all("\n" not in why and "'third-party' does not load" in why for why in passes.broken.values())


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

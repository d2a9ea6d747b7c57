"""Input models as configs of all years name them: parts of a folder, names of the hub without an owner."""

import json
import os

from encoders import tiny_encoder
from olivine.config import load
from olivine.workflow.plan import make_plan


def planned(folder, model, passes=None, **more):
    """The plan of a config with that input model."""
    config = {"input_model": model, "passes": passes or {"c": {"type": "OnnxConversion"}}} | more
    (folder / "config.json").write_text(json.dumps(config))
    return make_plan(load(folder / "config.json"))


def messages(plan):
    return [problem.message for problem in plan.problems]


def test_subfolder_names_the_part_of_a_model_that_is_meant(tmp_path):
    tiny_encoder(tmp_path / "pipeline" / "text_encoder", "clip_text")
    model = {"type": "HfModel", "model_path": str(tmp_path / "pipeline")}
    plan = planned(tmp_path, model | {"load_kwargs": {"subfolder": "text_encoder"}})
    assert messages(plan) == []
    assert plan.input_model.path == tmp_path / "pipeline" / "text_encoder"
    absent = planned(tmp_path, model | {"load_kwargs": {"subfolder": "unet"}})
    assert messages(absent) == ["the model has no folder 'unet'."]
    assert absent.problems[0].fix == "There are: text_encoder."
    outside = planned(tmp_path, model | {"load_kwargs": {"subfolder": "../elsewhere"}})
    assert "leads out of" in messages(outside)[0]


def test_models_of_the_hub_that_have_no_owner_are_found_in_its_cache(tmp_path, monkeypatch):
    root = tmp_path / "hub" / "models--bert-base-uncased"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    tiny_encoder(root / "snapshots" / ("0" * 40), "bert")
    monkeypatch.setitem(os.environ, "HF_HUB_CACHE", str(tmp_path / "hub"))
    plan = planned(tmp_path, {"type": "HfModel", "model_path": "bert-base-uncased"})
    assert messages(plan) == []
    assert plan.input_model.path.parent.name == "snapshots"
    misspelt = planned(tmp_path, {"type": "HfModel", "model_path": "my-bert"})
    assert messages(misspelt) == ["the model 'my-bert' does not exist."]

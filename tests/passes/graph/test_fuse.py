"""Fusions: the operators of onnxruntime in the place of many nodes, and the same outputs."""

import shutil

import numpy as np
import pytest

from encoders import tiny_encoder, write_config
from graph_tools import changed, largest_difference, operators, rows_for
from graphs import text_classifier
from olivine.config import load
from olivine.passes import passes
from olivine.passes.graph.fuse import OPTIONS, OWN
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan

pytestmark = pytest.mark.usefixtures("warm")

SIZES = {"num_heads": 4, "hidden_size": 32}


def test_layers_of_bert_become_one_attention_each_and_outputs_stay(exported, tmp_path):
    graph = exported("bert")
    fused, heard = changed("OrtTransformersOptimization", graph, tmp_path)
    nodes = operators(fused)
    assert nodes["Attention"] == 2
    assert sum(nodes.values()) < 40 < sum(operators(graph).values())
    assert heard.facts["changes"]["Attention"] == 2
    assert not heard.warnings
    assert largest_difference(graph, fused) < 1e-4


def test_rows_that_are_padded_on_the_left_stay_right(exported, tmp_path):
    graph = exported("bert")
    fused, _ = changed("OrtTransformersOptimization", graph, tmp_path)
    rows = [dict(row) for row in rows_for(graph)]
    for row in rows:
        row["attention_mask"] = np.array([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    assert largest_difference(graph, fused, rows) < 1e-4


def test_other_families_are_found_from_the_config(exported, tmp_path):
    graph = exported("distilbert")
    fused, heard = changed("OrtTransformersOptimization", graph, tmp_path)
    assert heard.facts["changes"]["Attention"] == 2
    assert largest_difference(graph, fused) < 1e-4


@pytest.mark.parametrize("name", ["vit", "clip_text"])
def test_layers_whose_attention_is_not_known_are_fused_without_it_and_that_is_told(exported, tmp_path, name):
    graph = exported(name)
    fused, heard = changed("OrtTransformersOptimization", graph, tmp_path)
    assert sum(heard.facts["changes"].values()) >= 5
    assert heard.warnings[0].startswith("no attention was fused")
    assert largest_difference(graph, fused) < 1e-4


def test_family_of_a_lone_graph_is_tried_out(exported, tmp_path):
    (tmp_path / "lone").mkdir()
    alone = shutil.copy(exported("bert"), tmp_path / "lone" / "model.onnx")
    fused, heard = changed(
        "OrtTransformersOptimization", tmp_path / "lone" / "model.onnx", tmp_path, model_type="", **SIZES
    )
    assert heard.facts["changes"]["Attention"] == 2
    assert largest_difference(alone, fused) < 1e-4


def test_fusing_again_changes_nothing_and_says_so(exported, tmp_path):
    once, _ = changed("OrtTransformersOptimization", exported("bert"), tmp_path / "a")
    twice, heard = changed("OrtTransformersOptimization", once, tmp_path / "b")
    assert operators(once) == operators(twice)
    assert "no node was fused" in heard.warnings[0]
    assert largest_difference(once, twice) == 0


def test_graph_without_layers_is_warned_of_and_stays(tmp_path):
    graph = text_classifier(tmp_path / "given" / "model.onnx")
    fused, heard = changed("OrtTransformersOptimization", graph, tmp_path, model_type="bert")
    assert "no node was fused" in heard.warnings[0]
    assert largest_difference(graph, fused) < 1e-6


def test_half_precision_keeps_the_types_of_inputs_and_outputs(exported, tmp_path):
    graph = exported("bert")
    fused, _ = changed("OrtTransformersOptimization", graph, tmp_path, float16=True, save_as_external_data=True)
    assert fused.with_name("model.onnx.data").stat().st_size < 0.6 * graph.stat().st_size
    assert largest_difference(graph, fused) < 0.05


def test_families_and_options_are_those_that_onnxruntime_has():
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import MODEL_TYPES

    assert set(OWN) == set(MODEL_TYPES)
    assert set(OPTIONS) == {name for family in ("bert", "unet") for name in vars(FusionOptions(family))}


def test_unknown_families_and_options_are_problems_of_the_plan(tmp_path):
    given = {"type": "OrtTransformersOptimization", "model_type": "brt", "optimization_options": {"enable_gelus": True}}
    path = write_config(tmp_path, tiny_encoder(tmp_path / "model"), {"c": {"type": "OnnxConversion"}, "o": given})
    assert [problem.message for problem in make_plan(load(path)).problems] == [
        "onnxruntime has no fusions for models of type 'brt'.",
        "onnxruntime has no fusion option 'enable_gelus'.",
    ]


def test_config_of_three_passes_runs_and_every_seam_is_scored(tmp_path):
    chain = {
        "conversion": {"type": "OnnxConversion", "config": {"target_opset": 17}},
        "transformers_optimization": {"type": "OrtTransformersOptimization", "config": {"model_type": "bert"}},
        "quantization": {"type": "OnnxBlockWiseRtnQuantization", "bits": 8, "block_size": 16},
    }
    plan = make_plan(load(write_config(tmp_path, tiny_encoder(tmp_path / "model"), chain)))
    assert not plan.problems
    scores = run(plan).scores
    assert len(scores) == 4
    assert scores[1]["cosine"] > 0.9999
    assert scores[2]["cosine"] > 0.9999
    assert scores[3]["cosine"] > 0.98


def test_pass_is_known_by_olives_name():
    assert passes.find("OrtTransformersOptimization") is passes.find("fuse")

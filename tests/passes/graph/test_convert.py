"""Checkpoints to graphs: what comes out computes what went in, at any size, in the opset that was asked for."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from encoders import KINDS, tiny_encoder, write_config
from olivine.config import load
from olivine.errors import ModelError
from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.models.loading import load_module
from olivine.models.onnx_header import OnnxHeader
from olivine.passes import passes
from olivine.runtimes.module import call
from olivine.testing.passes import MACHINE
from olivine.work import Context, Silent
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan
from tiny import tiny_model

pytestmark = pytest.mark.usefixtures("warm")


class Heard(Silent):
    def __init__(self):
        self.facts, self.notes = {}, []

    def record(self, **facts):
        self.facts |= facts

    def note(self, message):
        self.notes.append(message)


def converted(model, folder, report=None, **params):
    plugin = passes.find("OnnxConversion")
    step = plugin(plugin.Params(**params))
    (folder / "out").mkdir(parents=True)
    (folder / "scratch").mkdir()
    step.requires(model)
    result = step.run(model, Context(folder / "out", folder / "scratch", MACHINE, report or Silent()))
    step.ensures(result)
    return result.path / "model.onnx"


def checkpoint(folder, name="bert"):
    path = tiny_encoder(folder, name)
    return Model("hf", path, task=read_facts(path).task)


def test_graph_of_a_classifier_gives_what_the_checkpoint_gives_at_any_size(tmp_path):
    model = checkpoint(tmp_path / "model")
    graph = converted(model, tmp_path, target_opset=17)
    header = OnnxHeader.read(graph)
    assert header.opsets[""] == 17
    assert header.signature.in_words == (
        "input_ids int64 [batch, sequence], attention_mask int64 [batch, sequence], "
        "token_type_ids int64 [batch, sequence] -> logits float32 [batch, 3]"
    )
    ids = torch.randint(0, 389, (4, 11))
    mask = torch.ones_like(ids)
    mask[:, 7:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    expected = call(load_module(model), inputs)["logits"].numpy()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {name: one.numpy() for name, one in inputs.items()})
    assert np.abs(logits - expected).max() < 1e-4
    assert {file.name for file in graph.parent.iterdir()} >= {"config.json", "tokenizer.json"}


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"bert", "t5", "whisper"}))
def test_every_kind_of_model_is_exported_and_names_what_it_gives(name, tmp_path):
    report = Heard()
    graph = converted(checkpoint(tmp_path / "model", name), tmp_path, report, target_opset=17)
    outputs = {
        "bert_body": ["last_hidden_state", "pooler_output"],
        "distilbert": ["last_hidden_state"],
        "clip": ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"],
        "clip_text": ["text_embeds", "last_hidden_state"],
    }.get(name, ["logits"])
    assert [spec.name for spec in OnnxHeader.read(graph).signature.outputs] == outputs
    assert report.facts["exporter"] == "torchscript"


@pytest.mark.slow
def test_what_the_tracing_exporter_cannot_is_exported_by_the_other_and_told(tmp_path):
    report = Heard()
    told = {"io_config": {"input_names": ["input_features", "decoder_input_ids"], "output_names": ["logits"]}}
    model = replace(checkpoint(tmp_path / "model", "whisper"), attributes=told)  # as one graph
    converted(model, tmp_path, report, target_opset=18)
    assert report.facts["exporter"] == "dynamo"
    assert "aten::diff" in report.notes[0]
    with pytest.raises(ModelError, match="cannot be exported to opset 17: torchscript: "):
        converted(model, tmp_path / "b", target_opset=17)


def test_decoder_is_exported_without_a_cache(tmp_path):
    model = Model("hf", tiny_model(tmp_path / "model", "llama"))
    graph = converted(model, tmp_path, target_opset=17)
    signature = OnnxHeader.read(graph).signature
    assert [spec.name for spec in signature.inputs] == ["input_ids", "attention_mask"]
    assert signature.outputs[0].shape == ("batch", "sequence", 389)


def test_sizes_are_fixed_and_weights_lie_beside_the_graph_where_that_is_asked_for(tmp_path):
    model = checkpoint(tmp_path / "model", "vit")
    graph = converted(model, tmp_path, dynamic=False, save_as_external_data=True, external_data_name="weights.bin")
    header = OnnxHeader.read(graph)
    assert header.signature.inputs[0].shape == (1, 3, 32, 32)
    assert header.external_files == ["weights.bin"]
    header.check_external()


def test_half_precision_is_that_of_the_graph(tmp_path):
    graph = converted(checkpoint(tmp_path / "model"), tmp_path, torch_dtype="float16")
    types = {one.data_type for one in onnx.load(graph).graph.initializer if len(one.dims) == 2}
    assert types == {onnx.TensorProto.FLOAT16}


def test_config_as_users_write_it_runs_and_its_seam_is_scored(tmp_path):
    passes_ = {"conversion": {"type": "OnnxConversion", "config": {"target_opset": 14}}}
    model = {"type": "HfModel", "model_path": str(tiny_encoder(tmp_path / "model")), "task": "text-classification"}
    plan = make_plan(load(write_config(tmp_path, tmp_path / "model", passes_, input_model=model)))
    assert not plan.problems
    base, graph = run(plan).scores
    assert base["n_rows"] == 16
    assert graph["cosine"] > 0.9999
    assert graph["largest_difference"] < 1e-4
    assert graph["top1_agreement"] == 1
    assert (tmp_path / "out" / "model" / "model.onnx").is_file()


def test_opsets_that_an_exporter_does_not_write_are_problems_of_the_plan(tmp_path):
    tiny_encoder(tmp_path / "model")
    for given, told in (
        (
            {"target_opset": 14, "use_dynamo_exporter": True},
            "the exporter torch.export writes opsets 18 to 23, not 14.",
        ),
        ({"target_opset": 21, "use_dynamo_exporter": False}, "the tracing exporter writes opsets 9 to 20, not 21."),
        ({"target_opset": 99}, "torch writes opsets 9 to 23, not 99."),
    ):
        path = write_config(tmp_path, tmp_path / "model", {"c": {"type": "OnnxConversion", **given}})
        (problem,) = make_plan(load(path)).problems
        assert problem.message == told


def test_checkpoint_without_the_head_of_its_task_is_refused(tmp_path):
    model = Model("hf", tiny_encoder(tmp_path / "model", "bert_body"), task="text-classification")
    with pytest.raises(
        ModelError, match=r"lacks the weights classifier\.bias, classifier\.weight of a model for text-cl"
    ):
        converted(model, tmp_path)

"""A genai_config.json goes along with its graph: names that are changed in the one are changed in the other."""

import json

import onnx
import pytest
from onnx import TensorProto, helper

from graph_tools import changed
from graphs import value
from olivine.errors import ModelError
from olivine.models.onnx_files import onnx_model

NAMES = {
    "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask", "past_key_names": "past.%d.key"},
    "outputs": {"logits": "logits", "present_key_names": "present.%d.key"},
}


@pytest.fixture
def folder(tmp_path):
    """A folder as the model builder leaves it, whose graph is none of a decoder but has its inputs and outputs."""
    ids = [value(name, ["batch", "length"], TensorProto.INT64) for name in ("input_ids", "attention_mask")]
    pasts = [value(f"past.{layer}.key", ["batch", 2, "past", 8]) for layer in range(2)]
    presents = [value(f"present.{layer}.key", ["batch", 2, "past", 8]) for layer in range(2)]
    nodes = [
        *(
            helper.make_node("Mul", ["input_ids", "attention_mask"], ["m"]),
            helper.make_node("Cast", ["m"], ["logits"], to=1),
        ),
        *(helper.make_node("Relu", [f"past.{layer}.key"], [f"present.{layer}.key"]) for layer in range(2)),
    ]
    graph = helper.make_graph(nodes, "tiny", [*ids, *pasts], [value("logits", ["batch", "length"]), *presents])
    (tmp_path / "given").mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "given" / "model.onnx")
    decoder = {"filename": "model.onnx", "num_hidden_layers": 2, **NAMES}
    config = {"model": {"type": "llama", "context_length": 64, "vocab_size": 8, "decoder": decoder}}
    (tmp_path / "given" / "genai_config.json").write_text(json.dumps(config))
    (tmp_path / "given" / "genai_config.json").chmod(0o444)
    return tmp_path


def names_after(folder, name, **params):
    result, _ = changed(name, onnx_model(folder / "given"), folder / "a", **params)
    decoder = json.loads((result.parent / "genai_config.json").read_text())["model"]["decoder"]
    return {section: decoder[section] for section in NAMES}


def test_renamed_inputs_and_outputs_are_renamed_for_the_runtime_too(folder):
    surgeries = [
        {"surgeon": "RenameInputs", "old_names": ["input_ids"], "new_names": ["ids"]},
        {"surgeon": "RenameOutputs", "old_names": ["logits"], "new_names": ["scores"]},
    ]
    told = names_after(folder, "GraphSurgeries", surgeries=surgeries)
    assert told["inputs"] == NAMES["inputs"] | {"input_ids": "ids"}
    assert told["outputs"] == NAMES["outputs"] | {"logits": "scores"}


def test_name_of_one_layer_that_the_runtime_forms_itself_cannot_be_changed(folder):
    surgery = {"surgeon": "RenameInputs", "old_names": ["past.1.key"], "new_names": ["other"]}
    with pytest.raises(
        ModelError, match=r"genai_config.json names the input 'past.1.key', which the graph has no more"
    ):
        names_after(folder, "GraphSurgeries", surgeries=[surgery])


def test_passes_that_change_no_name_leave_the_config_as_it_was(folder):
    params = {"name_pattern": "logits", "source_dtype": "float32", "target_dtype": "float16"}
    assert names_after(folder, "OnnxIODataTypeConverter", **params) == NAMES

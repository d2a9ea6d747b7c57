"""Models of OpenVINO read without openvino: what a plan knows of them, and what is wrong with them."""

import json

import pytest

from olivine.cli import exit_code
from olivine.errors import ModelError
from olivine.models.deciding import deciding_files
from olivine.models.interface import facts_of, signature_of
from olivine.models.openvino_files import ir_header_of, openvino_model

# token ids through a table of 40 rows of 4 weights, as openvino writes it
IR = """<?xml version="1.0"?>
<net name="table" version="11">
  <layers>
    <layer id="0" name="ids" type="Parameter" version="opset1">
      <data shape="?,?" element_type="i64" />
      <output><port id="0" precision="I64" names="input_ids"><dim>-1</dim><dim>-1</dim></port></output>
    </layer>
    <layer id="1" name="table" type="Const" version="opset1">
      <data element_type="f16" shape="40, 4" offset="0" size="320" />
      <output><port id="0" precision="FP16"><dim>40</dim><dim>4</dim></port></output>
    </layer>
    <layer id="2" name="axis" type="Const" version="opset1">
      <data element_type="i64" shape="" offset="320" size="8" />
      <output><port id="0" precision="I64" /></output>
    </layer>
    <layer id="3" name="narrow" type="Convert" version="opset1">
      <data destination_type="i32" />
      <input><port id="0" precision="I64"><dim>-1</dim><dim>-1</dim></port></input>
      <output><port id="1" precision="I32"><dim>-1</dim><dim>-1</dim></port></output>
    </layer>
    <layer id="4" name="rows" type="Gather" version="opset8">
      <data batch_dims="0" />
      <input>
        <port id="0" precision="FP16"><dim>40</dim><dim>4</dim></port>
        <port id="1" precision="I32"><dim>-1</dim><dim>-1</dim></port>
        <port id="2" precision="I64" />
      </input>
      <output><port id="3" precision="FP16" names="rows,hidden"><dim>-1</dim><dim>-1</dim><dim>4</dim></port></output>
    </layer>
    <layer id="5" name="result" type="Result" version="opset1">
      <input><port id="0" precision="FP16"><dim>-1</dim><dim>-1</dim><dim>4</dim></port></input>
    </layer>
  </layers>
  <edges>
    <edge from-layer="0" from-port="0" to-layer="3" to-port="0" />
    <edge from-layer="3" from-port="1" to-layer="4" to-port="1" />
    <edge from-layer="1" from-port="0" to-layer="4" to-port="0" />
    <edge from-layer="2" from-port="0" to-layer="4" to-port="2" />
    <edge from-layer="4" from-port="3" to-layer="5" to-port="0" />
  </edges>
</net>
"""


def written(folder, text=IR, n_bytes=328, name="ov_model"):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.xml").write_text(text)
    if n_bytes is not None:
        (folder / f"{name}.bin").write_bytes(bytes(n_bytes))
    return folder


def test_inputs_outputs_and_weights_are_read_from_the_xml(tmp_path):
    model = openvino_model(written(tmp_path / "model"))
    assert signature_of(model).in_words == "input_ids int64 [?, ?] -> hidden float16 [?, ?, 4]"
    assert signature_of(model).inputs[0].n_choices == 40
    facts = facts_of(model)
    assert (facts.n_parameters, facts.weight_bytes, facts.kind) == (160, 328, "graph")
    assert [name for name, _ in deciding_files(model)] == ["ov_model.xml", "ov_model.bin"]


def test_what_lies_beside_an_ir_and_is_no_part_of_it_does_not_decide(tmp_path):
    folder = written(tmp_path / "model")
    (folder / "notes.txt").write_text("mine")
    (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    names = [name for name, _ in deciding_files(openvino_model(folder))]
    assert names == ["ov_model.xml", "ov_model.bin", "config.json"]


def test_tokenizer_beside_a_model_is_not_taken_for_it(tmp_path):
    folder = written(tmp_path / "model", name="openvino_model")
    written(folder, name="openvino_tokenizer")
    assert ir_header_of(openvino_model(folder)).path.name == "openvino_model.xml"


def test_two_models_in_a_folder_are_told_and_one_is_to_be_named(tmp_path):
    folder = written(written(tmp_path / "model", name="one"), name="other")
    with pytest.raises(ModelError, match=r"one\.xml, other\.xml"):
        openvino_model(folder)
    assert ir_header_of(openvino_model(folder / "other.xml")).path.name == "other.xml"


@pytest.mark.parametrize(
    ("text", "n_bytes", "told"),
    [
        (IR, 300, "is truncated: 300 bytes, but the weights of 'ov_model.xml' end at 328"),
        (IR, None, "lacks the weights 'ov_model.bin'"),
        (IR[:900], 328, "is damaged: it is no XML"),
        ("<html></html>", 328, "is no model of OpenVINO"),
        (IR.replace('size="320"', 'size="many"'), 328, "is damaged"),
        (IR.replace('element_type="i64" />\n      <output>', "/>\n      <output>", 1), 328, "is damaged"),
    ],
)
def test_damaged_model_is_told_while_planning_in_a_sentence(tmp_path, capsys, text, n_bytes, told):
    folder = written(tmp_path / "model", text, n_bytes)
    config = {
        "input_model": {"type": "OpenVINOModel", "model_path": str(folder)},
        "passes": {"io": {"type": "OpenVINOIoUpdate"}},
        "output_dir": str(tmp_path / "out"),
        "cache_dir": str(tmp_path / "cache"),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert exit_code(["plan", str(tmp_path / "config.json")]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_model_of_openvino_under_another_type_is_told_which_one_it_is(tmp_path, capsys):
    config = {
        "input_model": {"type": "HfModel", "model_path": str(written(tmp_path / "model"))},
        "passes": {"io": {"type": "OpenVINOIoUpdate"}},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert exit_code(["plan", str(tmp_path / "config.json")]) == 2
    assert 'Write "type": "OpenVINOModel"' in " ".join(capsys.readouterr().err.split())

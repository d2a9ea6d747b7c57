"""OpenVINO's passes, by openvino and nncf themselves: `make test-openvino`, in an environment that has the extra."""

import json
import math
from typing import ClassVar

import pytest

import olivine  # noqa: F401 - it keeps nncf from counting who uses it, which begins with its import

pytest.importorskip("openvino", reason="needs the extra openvino: make test-openvino")
pytest.importorskip("nncf", reason="needs the extra openvino: make test-openvino")

import numpy as np
import onnx
import openvino as ov
import torch

from encoders import tiny_encoder
from graph_tools import result_of
from olivine.cli import exit_code
from olivine.config.schema import DataConfig
from olivine.errors import ModelError
from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.models.interface import signature_of
from olivine.models.onnx_files import onnx_model
from olivine.models.openvino_files import ir_header_of, ir_of, openvino_model
from olivine.models.sample_inputs import made_up
from olivine.passes import passes
from olivine.runtimes.module import ModuleSession, open_session
from olivine.runtimes.openvino import OpenvinoSession
from olivine.testing.passes import MACHINE, PassContract

SIZES = {"batch": 2, "sequence": 6}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny checkpoint of that name, and the model of OpenVINO that it becomes; read only."""
    known = {}

    def make(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            path = tiny_encoder(folder / "model", name)
            checkpoint = Model("hf", path, task=read_facts(path).task)
            ir, _ = result_of("OpenVINOConversion", checkpoint, folder / "made", compress_to_fp16=False)
            known[name] = checkpoint, ir
        return known[name]

    return make


def rows_for(model, n_rows=3):
    return made_up(signature_of(model), n_rows, 0, SIZES)


def farthest(one, other, rows):
    """The largest difference of what two sessions give, of the largest output."""
    pairs = [(one.run(row), other.run(row)) for row in rows]
    return max(
        float(np.abs(a[name] - b[name]).max() / np.abs(a[name]).max()) for a, b in pairs for name in a if name in b
    )


@pytest.mark.parametrize("name", ["bert", "vit", "resnet", "clip_text"])
def test_model_of_openvino_gives_what_the_checkpoint_gives(made, name):
    checkpoint, ir = made(name)
    session = OpenvinoSession(ir_of(ir), exact=True)
    rows = rows_for(checkpoint)
    assert set(session.input_names) == set(rows[0])
    assert farthest(ModuleSession(checkpoint), session, rows) < 1e-4
    assert list(session.run(rows[0])) == [spec.name for spec in signature_of(ir).outputs]


@pytest.mark.slow
def test_model_that_openvino_does_not_take_comes_by_an_onnx_graph(made):
    checkpoint, ir = made("whisper")
    assert farthest(ModuleSession(checkpoint), OpenvinoSession(ir_of(ir), exact=True), rows_for(checkpoint)) < 1e-4


def test_onnx_graph_becomes_a_model_with_the_same_names_and_outputs(made, tmp_path):
    checkpoint, _ = made("bert")
    graph, _ = result_of("OnnxConversion", checkpoint, tmp_path / "onnx", target_opset=17)
    ir, _ = result_of("OpenVINOConversion", graph, tmp_path / "ir", compress_to_fp16=False)
    assert [spec.name for spec in signature_of(ir).inputs] == [spec.name for spec in signature_of(graph).inputs]
    same = farthest(
        open_session(graph, MACHINE.execution_provider, "cpu"), OpenvinoSession(ir_of(ir), exact=True), rows_for(graph)
    )
    assert same < 1e-4


def test_weights_of_16_bits_take_half_the_room(made, tmp_path):
    checkpoint, ir = made("bert")
    half, _ = result_of("OpenVINOConversion", checkpoint, tmp_path)
    assert ir_header_of(half).weights.stat().st_size < 0.55 * ir_header_of(ir).weights.stat().st_size


def test_shapes_fix_sizes_of_conversion_and_of_io_update_alike(made, tmp_path):
    checkpoint, ir = made("bert")
    shapes = [[2, 6]] * 3
    converted, _ = result_of("OpenVINOConversion", checkpoint, tmp_path / "a", input_shapes=shapes)
    updated, heard = result_of("OpenVINOReshape", ir, tmp_path / "b", input_shapes=shapes, static=True)
    assert [spec.shape for spec in signature_of(converted).inputs] == [(2, 6)] * 3
    assert [spec.shape for spec in signature_of(updated).inputs] == [(2, 6)] * 3
    assert heard.facts["changes"] == {"names given": 0, "shapes fixed": 3}
    again, heard = result_of("OpenVINOIoUpdate", updated, tmp_path / "c", static=True)
    assert heard.facts["changes"] == {"names given": 0, "shapes fixed": 0}
    with pytest.raises(ModelError, match="does not run on"):
        OpenvinoSession(ir_of(again)).run(
            {name: np.ones((3, 4), np.int64) for name in OpenvinoSession(ir_of(again)).input_names}
        )


def test_shapes_of_an_example_leave_sizes_open(made, tmp_path):
    checkpoint, _ = made("bert")
    open_one, _ = result_of("OpenVINOConversion", checkpoint, tmp_path, input_shapes=[[1, 9]] * 3, static=False)
    assert [spec.shape for spec in signature_of(open_one).inputs] == [(None, None)] * 3


def test_outputs_without_names_get_some(tmp_path):
    nameless = ov.convert_model(torch.nn.ReLU(), example_input=torch.ones(1, 4))
    assert not nameless.outputs[0].get_names()
    (tmp_path / "model").mkdir()
    ov.save_model(nameless, str(tmp_path / "model" / "nameless.xml"))
    model, heard = result_of("OpenVINOIoUpdate", openvino_model(tmp_path / "model"), tmp_path / "io")
    assert heard.facts["changes"]["names given"] == 1
    (name,) = [spec.name for spec in signature_of(model).inputs]
    row = {name: np.float32([[-1, 0, 1, 2]])}
    assert OpenvinoSession(ir_of(model)).run(row)["output_0"].tolist() == [[0, 0, 1, 2]]


def constants(model, kind):
    """Codes of a type with the scales that they are multiplied with, as arrays of floats."""
    graph = ov.Core().read_model(str(ir_of(model)))
    for one in graph.get_ops():
        if one.get_type_name() != "Constant" or one.get_element_type().get_type_name() != kind:
            continue
        convert = next(iter(one.output(0).get_target_inputs())).get_node()
        product = next(iter(convert.output(0).get_target_inputs())).get_node()
        if product.get_type_name() == "Multiply":
            scale = product.input_value(1).get_node()
            scale = scale if scale.get_type_name() == "Constant" else scale.input_value(0).get_node()
            yield np.asarray(one.get_data(dtype=np.int8), np.float32), np.asarray(scale.get_data(), np.float32)


def test_weights_of_products_in_8_bits_are_off_by_a_step_of_the_scale_of_their_row_at_most(made, tmp_path):
    _, ir = made("bert")
    rounded, heard = result_of("OpenVINOWeightCompression", ir, tmp_path, compress_config={"mode": "INT8_SYM"})
    stored = {}
    for one in ov.Core().read_model(str(ir_of(ir))).get_ops():
        if one.get_type_name() == "Constant" and one.get_element_type().get_type_name() == "f32":
            stored.setdefault(tuple(one.shape), []).append(np.array(one.get_data()))
    n_seen = 0
    for codes, scale in constants(rounded, "i8"):
        if len(codes) > 64:  # a table of tokens, from which rows are picked
            continue
        steps = np.abs(scale)  # the largest weight of a row is the code -128: its opposite is cut by a step
        near = [one for one in stored.get(codes.shape, ()) if np.all(np.abs(codes * scale - one) <= 1.05 * steps)]
        assert near, f"no weight of shape {codes.shape} is what codes and scales tell"
        assert np.allclose(steps, np.abs(near[0]).max(axis=-1, keepdims=True) / 128, rtol=0.02, atol=1e-6)
        n_seen += 1
    assert n_seen > 10
    assert heard.facts["cosine"] > 0.99


def test_weights_in_4_bits_have_a_scale_for_each_group(made, tmp_path):
    _, ir = made("bert")
    config = {"mode": "INT4_SYM", "group_size": 16, "all_layers": True, "ratio": 1.0}
    rounded, heard = result_of("OpenVINOWeightCompression", ir, tmp_path, compress_config=config, min_cosine=0)
    assert heard.facts["rounded"]["i4"] > 10
    text = ir_of(rounded).read_text()
    assert 'element_type="i4" shape="32, 2, 16"' in text
    assert 'shape="32, 2, 1"' in text


def test_rounding_that_breaks_the_model_fails_with_the_cosine(made, tmp_path):
    _, ir = made("bert")
    config = {"mode": "INT4_SYM", "group_size": 16, "all_layers": True, "ratio": 1.0}
    with pytest.raises(ModelError, match=r"have a cosine of 0\.\d+ to those before, and min_cosine asks for 0\.999"):
        result_of("OpenVINOWeightCompression", ir, tmp_path, compress_config=config, min_cosine=0.999)


def test_scopes_keep_layers_as_they_are(made, tmp_path):
    _, ir = made("bert")
    _, whole = result_of("OpenVINOWeightCompression", ir, tmp_path / "a")
    scope = {"ignored_scope": [[".*pooler.*"], ["Gather"]], "ignored_scope_type": ["patterns", "types"]}
    _, part = result_of("OpenVINOWeightCompression", ir, tmp_path / "b", **scope)
    assert sum(part.facts["rounded"].values()) < sum(whole.facts["rounded"].values())
    with pytest.raises(ModelError, match="nncf does not round"):
        result_of("OpenVINOWeightCompression", ir, tmp_path / "c", ignored_scope="nowhere", ignored_scope_type="names")


def test_setting_that_nncf_lacks_is_told_with_those_that_it_has(made, tmp_path):
    _, ir = made("bert")
    args = {"advanced_compression_parameters": {"awq_params": {"stepz": 3}}}
    with pytest.raises(ModelError, match=r"awq_params has no 'stepz'; it has subset_size"):
        result_of("OpenVINOWeightCompression", ir, tmp_path, extra_args=args)


@pytest.mark.parametrize("mode", ["INT8_ASYM", "INT4_ASYM"])
def test_onnx_graph_whose_weights_are_rounded_runs_in_onnxruntime(made, tmp_path, mode):
    checkpoint, _ = made("bert")
    graph, _ = result_of("OnnxConversion", checkpoint, tmp_path / "onnx", target_opset=17)
    config = {"mode": mode} | ({"group_size": 16, "all_layers": True} if "4" in mode else {})
    rounded, heard = result_of(
        "OpenVINOWeightCompression", graph, tmp_path / "rounded", compress_config=config, min_cosine=0
    )
    assert sum(heard.facts["rounded"].values()) > 10
    assert heard.facts["cosine"] > (0.99 if "8" in mode else 0.8)
    assert set(open_session(rounded, MACHINE.execution_provider, "cpu").run(rows_for(graph)[0])) == {"logits"}


@pytest.mark.parametrize("form", ["openvino", "onnx"])
def test_quantized_model_is_near_the_one_before_and_computes_in_8_bits(made, tmp_path, form):
    checkpoint, model = made("resnet")
    if form == "onnx":
        model, _ = result_of("OnnxConversion", checkpoint, tmp_path / "onnx", target_opset=17)
    result, heard = result_of("OpenVINOQuantization", model, tmp_path / "q", preset="mixed", target_device="cpu")
    assert heard.facts["quantized"]["quantizers"] > 5
    assert heard.facts["ways"][-1]["cosine"] > 0.95
    before, after = (open_session(one, MACHINE.execution_provider, "cpu") for one in (model, result))
    assert 0 < farthest(before, after, rows_for(model)) < 0.3


def test_what_was_tried_is_told_where_nothing_holds(made, tmp_path):
    _, ir = made("bert")
    with pytest.raises(ModelError) as failure:
        result_of("OpenVINOQuantization", ir, tmp_path / "a", min_cosine=1.0)
    assert str(failure.value).count("with the scheme for transformers") == 2
    with pytest.raises(ModelError) as failure:
        result_of("OpenVINOQuantization", ir, tmp_path / "b", min_cosine=1.0, mend=False)
    assert "scheme" not in str(failure.value)


@pytest.fixture
def labelled(tmp_path):
    rows = [
        {"text": text, "label": number % 3} for number, text in enumerate(("joy", "rage", "calm", "fear", "joy rage"))
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {"name": "rows", "folder": str(tmp_path), "load_dataset_config": {"data_files": "rows.jsonl"}}
    return {"rows": DataConfig.model_validate({**settings, "pre_process_data_config": {"text_cols": "text"}})}


def test_accuracy_that_holds_is_recorded_and_one_that_falls_fails(made, tmp_path, labelled):
    _, ir = made("bert")
    name, asked = "OpenVINOQuantizationWithAccuracy", {"data_config": "rows", "model_type": "TRANSFORMER"}
    _, heard = result_of(name, ir, tmp_path / "a", labelled, max_drop=1.0, **asked)
    assert 0 <= heard.facts["accuracy_after"] <= 1
    script = tmp_path / "script.py"
    # 1 for the model as it is, 0 for one that has quantizers
    script.write_text(
        "def validate(model, rows):\n"
        "    kinds = [op.get_rt_info()['layerType'].astype(str) for op in model.get_runtime_model().get_ops()]\n"
        "    assert len(list(rows)) == 5\n"
        "    return float(not any('FakeQuantize' in kind or 'Quantize' in kind for kind in kinds))\n"
    )
    params = {**asked, "user_script": str(script), "validation_func": "validate", "max_drop": 0.5}
    advanced = {"advanced_accuracy_restorer_parameters": {"max_num_iterations": 1}}
    with pytest.raises(ModelError, match=r"accuracy falls from 1 to 0, and max_drop allows 0\.5"):
        result_of(name, ir, tmp_path / "b", labelled, extra_configs=[advanced], **params)


def test_graph_that_wraps_a_model_has_its_names_and_is_run_as_it(made, tmp_path):
    _, ir = made("bert")
    wrapped, _ = result_of("OpenVINOEncapsulation", ir, tmp_path, target_device="NPU", ov_version="2025.1")
    (node,) = onnx.load(str(wrapped.path / "ov_model.onnx")).graph.node
    told = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    assert (node.op_type, node.domain) == ("EPContext", "com.microsoft")
    assert (told["ep_cache_context"], told["DeviceClass"], told["ep_sdk_version"]) == (
        b"ov_model.xml",
        b"NPU",
        b"2025.1",
    )
    assert list(node.input) == [spec.name for spec in signature_of(ir).inputs]
    rows = rows_for(ir)
    assert farthest(open_session(wrapped, "CPUExecutionProvider", "cpu"), open_session(ir, "", "cpu"), rows) == 0
    again = onnx_model(wrapped.path)
    assert math.isclose(signature_of(again).outputs[0].shape[-1], 3)


@pytest.mark.slow
def test_workflow_delivers_a_model_that_is_scored_at_every_seam_and_taken_as_an_input(tmp_path, capsys):
    path = tiny_encoder(tmp_path / "model", "bert")
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({"text": text, "label": 0}) for text in ("a", "b c", "d"))
    )
    config = {
        "input_model": {"model_path": str(path)},
        "data_configs": [
            {
                "name": "rows",
                "load_dataset_config": {"data_files": "rows.jsonl"},
                "pre_process_data_config": {"text_cols": "text"},
            }
        ],
        "passes": {
            "convert": {"type": "OpenVINOConversion"},
            "int8": {
                "type": "OpenVINOQuantization",
                "data_config": "rows",
                "model_type": "TRANSFORMER",
                "min_cosine": 0.5,
            },
        },
        "evaluators": {"fast": {"metrics": [{"name": "latency", "type": "latency", "sub_types": [{"name": "avg"}]}]}},
        "evaluator": "fast",
        "quality": {"data_config": "rows"},
        "output_dir": str(tmp_path / "out"),
        "cache_dir": str(tmp_path / "cache"),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert exit_code(["run", "--config", str(tmp_path / "config.json")]) == 0, capsys.readouterr().err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert all(row["cosine"] > 0.5 for row in metrics["scores"][1:])
    assert len(metrics["scores"]) == 3
    assert "openvino.Core()" in (tmp_path / "out" / "README.md").read_text()
    after = config | {"output_dir": str(tmp_path / "wrapped"), "passes": {"wrap": {"type": "OpenVINOEncapsulation"}}}
    after["input_model"] = {"type": "OpenVINOModel", "model_path": str(tmp_path / "out" / "model")}
    (tmp_path / "after.json").write_text(json.dumps(after))
    assert exit_code(["run", "--config", str(tmp_path / "after.json")]) == 0, capsys.readouterr().err
    assert {"ov_model.onnx", "ov_model.xml", "ov_model.bin"} <= {
        one.name for one in (tmp_path / "wrapped" / "model").iterdir()
    }


class _OfAnIr(PassContract):
    is_exact = False  # openvino numbers layers through the whole process

    def model(self, folder):
        path = tiny_encoder(folder / "checkpoint", "resnet")
        model, _ = result_of("OpenVINOConversion", Model("hf", path, task=read_facts(path).task), folder / "made")
        return model


@pytest.mark.slow
class TestConversion(PassContract):
    plugin = passes.own["openvino_conversion"]
    is_exact = False

    def model(self, folder):
        return Model("hf", tiny_encoder(folder, "resnet"), task="image-classification")


@pytest.mark.slow
class TestIoUpdate(_OfAnIr):
    plugin = passes.own["openvino_io_update"]


@pytest.mark.slow
class TestWeightCompression(_OfAnIr):
    plugin = passes.own["openvino_weight_compression"]


@pytest.mark.slow
class TestQuantization(_OfAnIr):
    plugin = passes.own["openvino_quantization"]
    params: ClassVar = {"max_samples": 4}


@pytest.mark.slow
class TestEncapsulation(_OfAnIr):
    plugin = passes.own["openvino_encapsulation"]

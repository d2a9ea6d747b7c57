"""A graph in pieces: it gives what the whole gives, and no piece has more weights than it may."""

import json
import shutil

import numpy as np
import onnx
import onnx_ir
import pytest

from olivine.errors import ModelError
from olivine.exporting import genai_graph, pieces, trial
from olivine.models import Model
from olivine.passes import passes
from olivine.runtimes.onnx import OnnxRuntime
from olivine.work import Context, Machine, Silent
from tiny import tiny_model

CPU = "CPUExecutionProvider"
LIMIT = 20_000  # bytes: a few matrices of a tiny model
Build = passes.classes["build"]
STEPS = [[1, 40, 50, 60, 70], [9], [23]]


def build(folder, architecture, tied=False, **params):
    model = Model("hf", tiny_model(folder / "model", architecture, tied=tied, hidden_size=128))
    output = folder / "built"
    output.mkdir()
    context = Context(output, folder / "scratch", Machine("cpu", CPU, 8 * 10**9, 10**12, 2), Silent())
    context.scratch.mkdir()
    return Build(Build.Params(**params)).run(model, context).path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A tiny Llama in int4 with searched scales; read only."""
    return build(tmp_path_factory.mktemp("pieces"), "llama")


def whole(folder):
    runtime = OnnxRuntime(Model("onnx", folder, attributes={"execution_provider": CPU}))
    return [runtime.feed([step], fresh=n == 0, last_only=True)[:, -1] for n, step in enumerate(STEPS)]


@pytest.mark.parametrize(
    ("architecture", "params"),
    [
        ("llama", {"precision": "int4"}),
        ("phi3", {"precision": "int4", "int4_algo_config": "default"}),
        ("gemma2", {"precision": "int8"}),
        ("gemma3", {"precision": "int4", "int4_algo_config": "rtn_last"}),
        ("phi", {"precision": "fp32"}),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_logits_of_the_pieces_are_those_of_the_whole(architecture, tied, params, tmp_path):
    folder = build(tmp_path, architecture, tied, **params)
    run = pieces.Run(genai_graph.check_folder(folder), folder, LIMIT)
    assert run.is_possible
    assert len(run.pieces) > 4
    for of_pieces, of_whole in zip(run.logits(STEPS), whole(folder), strict=True):
        np.testing.assert_allclose(of_pieces, of_whole, atol=1e-4)


def weights_of(graph, piece):
    part = onnx_ir.from_proto(onnx.ModelProto.FromString(piece.proto(graph)))
    return {name: value.const_value for name, value in part.graph.initializers.items()}, [n.op_type for n in part.graph]


def test_a_piece_has_no_more_weights_than_it_may_or_one_node(built):
    graph = genai_graph.check_folder(built)
    every = set()
    for piece in pieces.cut(graph, LIMIT):
        weights, operators = weights_of(graph, piece)
        n_nodes = sum(operator not in ("Cast", "Constant") for operator in operators)
        assert sum(weight.nbytes for weight in weights.values()) <= LIMIT or n_nodes == 1
        assert all(weight.location == "model.onnx.data" for weight in weights.values())  # none was read
        every |= weights.keys()
    assert every == {name for name, value in graph.graph.initializers.items() if value.uses()}


def test_a_graph_within_the_limit_is_one_piece(built):
    graph = genai_graph.check_folder(built)
    (piece,) = pieces.cut(graph, pieces.weight_bytes(graph))
    assert set(piece.inputs) <= {value.name for value in graph.graph.inputs}


def damaged(built, folder, weight, value):
    """A copy of the folder in whose file of weights some numbers are others."""
    shutil.copytree(built, folder)
    place = next(
        v.const_value for name, v in genai_graph.check_folder(folder).graph.initializers.items() if weight in name
    )
    with (folder / place.location).open("r+b") as stream:
        stream.seek(place.offset)
        stream.write(np.full(2, value, np.float32).tobytes())
    return folder


@pytest.mark.parametrize("limit", [LIMIT, 1 << 30])
def test_weights_that_are_no_numbers_are_refused_in_pieces_and_whole(limit, built, tmp_path):
    trial.check_generates(built, genai_graph.check_folder(built), CPU, limit)
    broken = damaged(built, tmp_path / "broken", "lm_head.MatMul.weight_scales", np.nan)
    with pytest.raises(ModelError, match=r"the built model does not run: .* no number"):
        trial.check_generates(broken, genai_graph.check_folder(broken), CPU, limit)


@pytest.mark.parametrize("limit", [LIMIT, 1 << 30])
def test_a_config_that_does_not_fit_the_graph_is_refused_in_pieces_and_whole(limit, built, tmp_path):
    folder = tmp_path / "renamed"
    shutil.copytree(built, folder)
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["decoder"]["inputs"]["past_key_names"] = "past.%d.key"
    (folder / "genai_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="the built model does not run"):
        trial.check_generates(folder, genai_graph.check_folder(folder), CPU, limit)


def test_a_length_beyond_the_context_is_refused(built, tmp_path):
    folder = tmp_path / "long"
    shutil.copytree(built, folder)
    config = json.loads((folder / "genai_config.json").read_text())
    config["search"]["max_length"] = config["model"]["context_length"] + 1
    (folder / "genai_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="is more than its context"):
        trial.check_generates(folder, genai_graph.check_folder(folder), CPU)

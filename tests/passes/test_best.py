"""`best` puts GPTQ's codes, mended, into every matrix of the graph, head included, and goes on where it was killed."""

import numpy as np
import pytest
import torch
from test_quantized_export import stored

from olivine.calibration.decoder import linear_weights
from olivine.calibration.gptq_layers import load_layer
from olivine.calibration.importances import importances
from olivine.calibration.layer_stream import LayerStream
from olivine.calibration.refined import refined
from olivine.errors import OlivineError
from olivine.kernels.blockwise import Format, search
from olivine.models import Model
from olivine.models.weights import weights
from olivine.passes import Context, Machine, passes
from olivine.work import Silent
from plain_genai import greedy
from tiny import VOCABULARY, tiny_model

Build = passes.classes["build"]
MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
TOKENS = torch.randint(0, VOCABULARY, (16, 64), generator=torch.Generator().manual_seed(0))
FORMAT = Format(4, 32, symmetric=False)


def build(model, folder, **params):
    for name in ("built", "scratch"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    step = Build(Build.Params(calibration_tokens=512, int4_algo_config="best", **params))
    result = step.run(model, Context(folder / "built", folder / "scratch", MACHINE, Silent()))
    step.ensures(result)
    return result.path


@pytest.mark.parametrize("architecture", ["llama", "phi3", "gemma"])
@pytest.mark.parametrize("tied", [True, False])
def test_graph_holds_the_codes_of_every_matrix_and_runs(architecture, tied, tmp_path):
    model = Model("hf", tiny_model(tmp_path / "m", architecture, tied=tied))
    folder = build(model, tmp_path)
    files = set((tmp_path / "scratch" / "codes").glob("*.safetensors"))
    kept = {}
    for file in files - {tmp_path / "scratch" / "codes" / "sensitivity.safetensors"}:
        kept |= {name: read() for name, read in load_layer(file).items()}
    assert set(kept) == set(linear_weights(model, head=True))
    graph = stored(folder)
    head, down = kept["lm_head.weight"], kept["model.layers.0.mlp.down_proj.weight"]
    for matmul, blocks in (("/lm_head/MatMul", head), ("/model/layers.0/mlp/down_proj/MatMul", down)):
        node = f"{matmul}_Q{blocks.bits}"
        assert np.array_equal(graph[node][0], blocks.codes.numpy())
        assert np.array_equal(graph[node][2], blocks.zero_points.numpy())
    assert len(greedy(folder, [1, 40, 50], 8)) > 3


@pytest.mark.parametrize("tied", [True, False])
def test_outputs_of_the_model_are_nearer_than_those_of_search(tied, tmp_path):
    model = Model("hf", tiny_model(tmp_path / "m", "llama", tied=tied))
    own, measured = weights(model), importances(model, TOKENS)
    codes = refined(model, TOKENS, tmp_path / "codes", bits=4.625, symmetric=False, source=own)

    def replaced(values):
        return {
            **own,
            **{name: own[name].__class__(name, v.shape, "float32", lambda v=v: v) for name, v in values.items()},
        }

    def final(source):
        stream = LayerStream(model, TOKENS, source=source)
        for _ in stream:
            pass
        return torch.cat(list(stream.final()))

    layers = [name for name in codes if name != "lm_head.weight"]
    best = final(replaced({name: codes[name]().dequantized() for name in layers}))
    searched = {name: search(own[name].read(), FORMAT, measured[name]).dequantized() for name in layers}
    exact = final(own)
    assert (best - exact).square().mean() < 0.95 * (final(replaced(searched)) - exact).square().mean()


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_codes(tiny_tied, tmp_path):
    model = Model("hf", tiny_tied)
    own, folder = weights(model), tmp_path / "codes"
    whole = {
        name: read() for name, read in refined(model, TOKENS, folder, bits=5.5, symmetric=False, source=own).items()
    }
    (folder / "model.layers.1.safetensors").unlink()
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    again = {
        name: read() for name, read in refined(model, TOKENS, folder, bits=5.5, symmetric=False, source=own).items()
    }
    assert all(torch.equal(again[name].codes, blocks.codes) for name, blocks in whole.items())
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_a_head_in_8_bits_is_left_to_plain_rounding(tiny_tied, tmp_path):
    graph = stored(build(Model("hf", tiny_tied), tmp_path, head_bits=8))
    assert any("lm_head" in name and name.endswith("Q8") for name in graph)
    assert not (tmp_path / "scratch" / "codes" / "lm_head.weight.safetensors").exists()


def test_damaged_weights_are_named(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tiny_model(tmp_path / "m", "llama", tied=True)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(OlivineError, match=r"the weight 'model.layers.0.mlp.up_proj.weight' holds NaN or infinity"):
        build(Model("hf", folder), tmp_path)

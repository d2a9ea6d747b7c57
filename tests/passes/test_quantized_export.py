"""The int4 export of a quantized checkpoint holds the checkpoint's own codes, and onnxruntime-genai runs it."""

import numpy as np
import onnx_ir
import pytest
import torch
from test_streamed_export import PROMPT, export

from olivine.calibration.importances import importances
from olivine.exporting import rounding
from olivine.exporting.rounding import Settings
from olivine.kernels.blockwise import Format
from olivine.kernels.gptq import gptq
from olivine.models import Model
from olivine.models.weights import weights
from packed import Case, packed_model
from plain_genai import greedy
from tiny import VOCABULARY, tiny_adapter, tiny_model

# a matrix of the graph: the checkpoint's modules that it is made of, one below the other
MATRICES = {
    "attn/qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn/o_proj": ("self_attn.o_proj",),
    "mlp/gate_proj": ("mlp.gate_proj",),
    "mlp/up_proj": ("mlp.up_proj",),
    "mlp/down_proj": ("mlp.down_proj",),
}


def stored(folder):
    """Codes [N, K], scales and zero points [N, blocks] of every MatMulNBits by the node's name, unpacked slowly."""
    found = {}
    for node in onnx_ir.load(folder / "model.onnx").graph:
        if node.op_type == "MatMulNBits":
            bits, n, k = (node.attributes[key].as_int() for key in ("bits", "N", "K"))
            blocks = k // node.attributes["block_size"].as_int()
            _, codes, scales, *zeros = node.inputs
            found[node.name] = (
                unpacked(codes.const_value.numpy().reshape(n, -1), bits),
                scales.const_value.numpy().reshape(n, blocks) if scales.const_value else None,
                unpacked(zeros[0].const_value.numpy().reshape(n, -1), bits)[:, :blocks] if zeros else None,
            )
    return found


def unpacked(values, bits):
    return values if bits == 8 else np.stack([values & 15, values >> 4], -1).reshape(len(values), -1)


@pytest.mark.parametrize(
    "case",
    [Case("gptq"), Case("gptq", symmetric=True), Case("awq"), Case("compressed-tensors", bits=8, group=64)],
    ids=str,
)
def test_export_takes_the_codes_over(case, tiny_llama, tmp_path):
    folder, _ = packed_model(tiny_llama, tmp_path / "packed", case.config, case.pack)
    model = Model("hf", folder)
    out = export(model, tmp_path / "onnx", Settings())
    found, source = stored(out), weights(model)
    for layer in range(2):
        for name, modules in MATRICES.items():
            pieces = [source[f"model.layers.{layer}.{module}.weight"].blockwise() for module in modules]
            compare(node(found, f"/model/layers.{layer}/{name}"), pieces)
    assert len(greedy(out, PROMPT, 12)) > 5


def node(found, start):
    return next(value for name, value in found.items() if name.startswith(start))


def compare(found, pieces):
    codes, scales, zeros = found
    assert np.array_equal(codes, torch.cat([piece.codes for piece in pieces]).numpy())
    if scales is not None:
        assert np.array_equal(scales, torch.cat([piece.scales for piece in pieces]).numpy())
    if pieces[0].symmetric:
        assert zeros is None
    else:
        assert np.array_equal(zeros, torch.cat([piece.zero_points for piece in pieces]).numpy())


def test_merge_into_a_quantized_base_rounds_only_what_it_changes(tiny_llama, tmp_path):
    case = Case("gptq", group=64)
    folder, _ = packed_model(tiny_llama, tmp_path / "packed", case.config, case.pack)
    adapter = tiny_adapter(tiny_llama, tmp_path / "adapter", target_modules=["down_proj"])
    merged = Model("hf", folder, base=Model("adapter", adapter, base=Model("hf", folder)))
    found = stored(export(merged, tmp_path / "onnx", Settings()))
    untouched = weights(Model("hf", folder))["model.layers.0.mlp.up_proj.weight"].blockwise()
    compare(node(found, "/model/layers.0/mlp/up_proj"), [untouched])
    changed = node(found, "/model/layers.0/mlp/down_proj")
    assert changed[1].shape == (64, 4)  # in the export's own groups of 32


TOKENS = torch.randint(0, VOCABULARY, (16, 64), generator=torch.Generator().manual_seed(0))


def built(folder, tmp_path, **params):
    """The quantized graph that the pass makes of a checkpoint, calibrated with general text."""
    from test_build import build

    return stored(build(Model("hf", folder), tmp_path, calibration_tokens=512, **params))


@pytest.mark.parametrize("tied", [True, False])
def test_head_of_a_quantized_checkpoint_is_rounded_by_gptq(tied, tmp_path):
    base = tiny_model(tmp_path / "base", tied=tied)
    case = Case("gptq")
    folder, _ = packed_model(base, tmp_path / "packed", case.config, case.pack)
    model = Model("hf", folder)
    settings = Settings(search=True, symmetric=False, importance=importances(model, TOKENS, head="full"))
    codes, scales, zeros = stored(export(model, tmp_path / "onnx", settings))["/lm_head/MatMul_Q4"]
    name = "lm_head.weight" if "lm_head.weight" in weights(model) else "model.embed_tokens.weight"
    expected = gptq(weights(model)[name].read(), settings.importance["lm_head.weight"], Format(4, 32, symmetric=False))
    assert np.array_equal(codes, expected.codes.numpy())
    assert np.array_equal(zeros, expected.zero_points.numpy())
    assert np.array_equal(scales, expected.scales.numpy())


def test_pass_calibrates_what_a_quantized_checkpoint_holds_in_floats(tiny_llama, tmp_path, monkeypatch):
    case = Case("compressed-tensors", group=32)
    folder, _ = packed_model(tiny_llama, tmp_path / "packed", case.config, case.pack, keep=("down_proj",))
    seen, kept = [], rounding.choices

    def spy(settings, matrices):
        chosen = kept(settings, matrices)
        seen.append((settings, {matrices[name].node: choice for name, choice in chosen.items()}))
        return chosen

    monkeypatch.setattr(rounding, "choices", spy)
    built(folder, tmp_path)
    settings, chosen = seen[-1]
    assert settings.importance["lm_head.weight"].dim() == 2
    floats = chosen["/model/layers.0/mlp/down_proj/MatMul"]
    assert floats.given is None
    assert torch.equal(floats.importance, settings.importance["model.layers.0.mlp.down_proj.weight"])
    assert chosen["/model/layers.0/mlp/up_proj/MatMul"].given is not None


def test_nothing_is_calibrated_when_nothing_is_searched(tiny_llama, tmp_path, monkeypatch):
    case = Case("gptq")
    folder, _ = packed_model(tiny_llama, tmp_path / "packed", case.config, case.pack)
    monkeypatch.setattr("olivine.passes.export.build.Build._tokens", None)
    built(folder, tmp_path, head_bits=8)


def test_formats_are_known_without_reading_codes(tiny_llama, tmp_path):
    for case in (Case("gptq"), Case("gptq", symmetric=True), Case("awq"), Case("compressed-tensors", bits=8, group=64)):
        folder, _ = packed_model(tiny_llama, tmp_path / str(case), case.config, case.pack)
        reader = weights(Model("hf", folder))["model.layers.0.mlp.up_proj.weight"].blockwise
        made = reader()
        assert reader.format() == Format(made.bits, made.group, made.symmetric)
        assert torch.equal(made.scales, made.scales.half().float()) == reader.half_scales

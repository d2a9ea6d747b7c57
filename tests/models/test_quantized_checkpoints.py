"""Quantized checkpoints are read by the plain model's names, and their codes are taken over as they are."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from olivine.errors import ModelError, Unsupported
from olivine.models import Model
from olivine.models.inspect import check_checkpoint, read_facts
from olivine.models.loading import load_causal_lm
from olivine.models.materialize import materialize
from olivine.models.weights import weights
from packed import (
    Case,
    change_config,
    compressed,
    dequantized,
    pack_awq,
    pack_compressed,
    pack_gptq,
    packed_model,
    quantized,
)
from tiny import tiny_adapter

IDS = torch.tensor([[1, 40, 50, 60, 70, 80]])
NAME = "model.layers.0.mlp.down_proj"  # 128 inputs, 64 outputs


CASES = [
    Case("gptq"),
    Case("gptq", version=2),
    Case("gptq", bits=8, group=64),
    Case("gptq", bits=8, version=2, symmetric=True),
    Case("gptq", symmetric=True),
    Case("gptq", group=0),
    Case("awq"),
    Case("awq", group=64),
    Case("awq", symmetric=True),
    Case("compressed-tensors"),
    Case("compressed-tensors", symmetric=True),
    Case("compressed-tensors", bits=8, group=64),
    Case("compressed-tensors", bits=8, group=0, symmetric=True),
    Case("compressed-tensors", group=0),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_codes_scales_and_zero_points_are_those_that_were_packed(case, tiny_llama, tmp_path):
    folder, expected = packed_model(tiny_llama, tmp_path / "packed", case.config, case.pack)
    found, plain = weights(Model("hf", folder)), weights(Model("hf", tiny_llama))
    assert {name: tensor.shape for name, tensor in found.items()} == {name: plain[name].shape for name in plain}
    assert {name for name, tensor in found.items() if tensor.blockwise} == set(expected)
    for name, (codes, scales, zeros, group_of) in expected.items():
        stored = found[name].blockwise()
        group = case.group or codes.shape[1]
        assert (stored.bits, stored.group, stored.symmetric) == (case.bits, group, case.symmetric)
        assert stored.codes.dtype == torch.uint8
        assert torch.equal(stored.codes.int(), torch.from_numpy(codes).int())
        assert torch.equal(stored.scales, torch.from_numpy(scales.astype(np.float32)))
        if not case.symmetric:
            assert torch.equal(stored.zero_points.int(), torch.from_numpy(zeros).int())
        exact = dequantized(codes, scales, zeros, group_of)
        assert torch.equal(found[name].read(), exact)
        assert torch.equal(stored.dequantized(), exact)


@pytest.mark.parametrize("case", [CASES[0], CASES[6], CASES[9]], ids=str)
def test_model_is_the_plain_one_with_the_dequantized_weights(case, tiny_llama, tmp_path):
    folder, expected = packed_model(tiny_llama, tmp_path / "packed", case.config, case.pack)
    plain = shutil.copytree(tiny_llama, tmp_path / "plain")
    tensors = load_file(plain / "model.safetensors")
    save_file(tensors | {name: dequantized(*parts) for name, parts in expected.items()}, plain / "model.safetensors")
    ours, oracle = load_causal_lm(Model("hf", folder)), load_causal_lm(Model("hf", plain))
    assert torch.equal(ours(IDS).logits, oracle(IDS).logits)
    assert not hasattr(ours.config, "quantization_config")
    facts, exact = read_facts(folder), read_facts(plain)
    assert (facts.n_parameters, facts.as_decoder.linear_modules) == (
        exact.n_parameters,
        exact.as_decoder.linear_modules,
    )
    assert facts.weight_bytes == (folder / "model.safetensors").stat().st_size < exact.weight_bytes
    assert facts.bytes_per_weight == facts.weight_bytes / facts.n_parameters
    assert list(check_checkpoint(folder)) == []


def test_wide_groups_are_split_into_those_that_operators_know(tmp_path):
    codes, scales, zeros = quantized(torch.randn(16, 1536), group=768)
    folder = single(tmp_path, compressed_group(group_size=768), pack_compressed(codes, scales, zeros, 4))
    stored = weights(Model("hf", folder))["x.weight"].blockwise()
    assert (stored.group, stored.scales.shape) == (256, (16, 6))
    assert torch.equal(stored.dequantized(), dequantized(codes, scales, zeros, [k // 768 for k in range(1536)]))


def test_groups_that_no_operator_knows_are_read_but_not_taken_over(tmp_path):
    codes, scales, zeros = quantized(torch.randn(16, 48), group=24)
    folder = single(tmp_path, compressed_group(group_size=24), pack_compressed(codes, scales, zeros, 4))
    tensor = weights(Model("hf", folder))["x.weight"]
    assert tensor.blockwise is None
    assert torch.equal(tensor.read(), dequantized(codes, scales, zeros, [k // 24 for k in range(48)]))


def test_words_that_are_not_full(tmp_path):
    codes, scales, zeros = quantized(torch.randn(13, 36), group=12)
    folder = single(tmp_path, compressed_group(group_size=12), pack_compressed(codes, scales, zeros, 4))
    tensor = weights(Model("hf", folder))["x.weight"]
    assert tensor.shape == (13, 36)
    assert torch.equal(tensor.read(), dequantized(codes, scales, zeros, [k // 12 for k in range(36)]))


def test_zero_points_of_older_files_of_compressed_tensors(tmp_path):
    codes, scales, zeros = quantized(torch.randn(16, 64))
    parts = pack_compressed(codes, scales, zeros, 4)
    parts["weight_zero_point"] = torch.from_numpy(zeros - 8).to(torch.int8)
    tensor = weights(Model("hf", single(tmp_path, compressed_group(group_size=32), parts)))["x.weight"]
    assert torch.equal(tensor.blockwise().zero_points.int(), torch.from_numpy(zeros).int())


def test_config_groups_go_by_name_then_pattern_then_class(tiny_llama, tmp_path):
    kinds = {"Linear": (4, 32), "re:.*mlp.*": (8, 64), NAME: (4, 16)}
    groups = {
        f"g{bits}{group}": {"targets": [target], "weights": {"num_bits": bits, "group_size": group, "symmetric": False}}
        for target, (bits, group) in kinds.items()
    }

    def kind(module):
        return kinds[NAME if module == NAME else "re:.*mlp.*" if "mlp" in module else "Linear"]

    def pack(module, weight):
        bits, group = kind(module)
        return Case("compressed-tensors", bits, group).pack(module, weight)

    folder, expected = packed_model(tiny_llama, tmp_path / "packed", compressed(groups), pack)
    found = weights(Model("hf", folder))
    for name, parts in expected.items():
        stored = found[name].blockwise()
        assert (stored.bits, stored.group) == kind(name.removesuffix(".weight"))
        assert torch.equal(found[name].read(), dequantized(*parts))


def test_dynamic_rules_of_gptq_change_bits_and_groups_of_modules(tiny_llama, tmp_path):
    dynamic = {"-:lm_head": {}, r"+:.*\.0\.mlp\..*": {"bits": 8, "group_size": 64}, r".*\.mlp\.up_proj": {"sym": True}}

    def case(module):
        if ".0.mlp." in module:
            return Case("gptq", bits=8, group=64)
        return Case("gptq", symmetric="up_proj" in module)

    config = Case("gptq").config | {"dynamic": dynamic}
    folder, expected = packed_model(
        tiny_llama, tmp_path / "packed", config, lambda module, weight: case(module).pack(module, weight)
    )
    found = weights(Model("hf", folder))
    for name, parts in expected.items():
        stored, wanted = found[name].blockwise(), case(name)
        assert (stored.bits, stored.group, stored.symmetric) == (wanted.bits, wanted.group, wanted.symmetric)
        assert torch.equal(found[name].read(), dequantized(*parts))


def test_order_of_activations_is_read_and_refused_for_operators(tiny_llama, tmp_path):
    case, random = Case("gptq"), np.random.default_rng(0)

    def pack(module, weight):
        return case.pack(module, weight, [int(place) // 32 for place in random.permutation(weight.shape[1])])

    folder, expected = packed_model(tiny_llama, tmp_path / "packed", case.config | {"desc_act": True}, pack)
    found = weights(Model("hf", folder))
    for name, parts in expected.items():
        assert torch.equal(found[name].read(), dequantized(*parts))
        with pytest.raises(
            Unsupported, match=rf"the groups of '{name}' follow the order of activations .* desc_act: false"
        ):
            found[name].blockwise()


def test_group_that_does_not_exist_is_named(tmp_path):
    codes, scales, zeros = quantized(torch.randn(16, 64))
    folder = single(tmp_path, Case("gptq").config, pack_gptq(codes, scales, zeros, 4, 1, [0] * 32 + [2] * 32))
    with pytest.raises(ModelError, match=r"g_idx of 'x\.weight' names a group that it does not have"):
        weights(Model("hf", folder))["x.weight"].read()


def test_shape_that_contradicts_the_packed_weight(tmp_path):
    codes, scales, zeros = quantized(torch.randn(16, 64))
    parts = pack_compressed(codes, scales, zeros, 4) | {"weight_shape": torch.tensor([16, 63])}
    folder = single(tmp_path, compressed_group(group_size=32), parts)
    with pytest.raises(ModelError, match=r"'x\.weight_shape' says \[16, 63\], but the packed weight is \[16, 64\]"):
        weights(Model("hf", folder))["x.weight"].read()


def test_nothing_is_read_before_it_is_asked_for(tiny_llama, tmp_path, monkeypatch):
    case = Case("gptq")
    folder, _ = packed_model(tiny_llama, tmp_path / "packed", case.config, case.pack)
    monkeypatch.setattr(np, "fromfile", lambda *_, **__: pytest.fail("read"))
    assert weights(Model("hf", folder))


def test_checking_needs_no_framework(tiny_llama, tmp_path):
    case = Case("compressed-tensors")
    folder, _ = packed_model(tiny_llama, tmp_path / "packed", case.config, case.pack)
    code = (
        "import sys; from pathlib import Path; from olivine.models.inspect import check_checkpoint, read_facts\n"
        f"path = Path({str(folder)!r}); assert not list(check_checkpoint(path)); read_facts(path)\n"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def gptq_base(tiny_llama, tmp_path_factory):
    case = Case("gptq", symmetric=True)
    return packed_model(tiny_llama, tmp_path_factory.mktemp("gptq") / "model", case.config, case.pack)[0]


def test_merge_keeps_the_codes_of_what_it_does_not_change(tiny_llama, gptq_base, tmp_path):
    adapter = tiny_adapter(tiny_llama, tmp_path / "adapter", target_modules=["q_proj"])
    base = Model("hf", gptq_base)
    merged = Model("hf", gptq_base, base=Model("adapter", adapter, base=base))
    found = weights(merged)
    kept = {name for name, tensor in found.items() if tensor.blockwise}
    assert kept == {name for name in found if name.endswith("_proj.weight") and "q_proj" not in name}
    assert torch.equal(found[f"{NAME}.weight"].blockwise().codes, weights(base)[f"{NAME}.weight"].blockwise().codes)
    changed = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(found[changed].read(), weights(base)[changed].read())


def test_materialized_merge_is_a_plain_model(tiny_llama, gptq_base, tmp_path):
    from transformers import AutoModelForCausalLM

    adapter = tiny_adapter(tiny_llama, tmp_path / "adapter")
    merged = Model("hf", gptq_base, base=Model("adapter", adapter, base=Model("hf", gptq_base)))
    (tmp_path / "own").mkdir()
    own = materialize(merged, tmp_path / "own")
    assert "quantization_config" not in json.loads((own.path / "config.json").read_text())
    assert torch.equal(AutoModelForCausalLM.from_pretrained(own.path)(IDS).logits, load_causal_lm(merged)(IDS).logits)


def compressed_group(**settings):
    weights = {"num_bits": 4, "symmetric": False, **settings}
    return compressed({"g": {"targets": ["Linear"], "weights": weights}})


def single(folder, config, parts, module="x"):
    """A checkpoint of one packed layer."""
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    save_file({f"{module}.{leaf}": part for leaf, part in parts.items()}, folder / "model.safetensors")
    return folder


def parts_of(method):
    codes, scales, zeros = quantized(torch.randn(16, 64))
    if method == "gptq":
        return pack_gptq(codes, scales, zeros, 4)
    return pack_awq(codes, scales, zeros) if method == "awq" else pack_compressed(codes, scales, zeros, 4)


def without(leaf):
    return lambda parts: parts.pop(leaf)


def cut(leaf):
    return lambda parts: parts.update({leaf: parts[leaf][:1].clone()})


def as_float(leaf):
    return lambda parts: parts.update({leaf: parts[leaf].float()})


@pytest.mark.parametrize(
    ("method", "damage", "message"),
    [
        ("gptq", without("scales"), r"lacks 'x\.scales', without which 'x\.qweight' is not a weight"),
        ("gptq", without("qzeros"), r"lacks 'x\.qzeros'"),
        ("gptq", cut("scales"), r"'x\.scales' is \[1, 16\], but its weight asks for \[2, 16\]"),
        ("gptq", cut("qzeros"), r"'x\.qzeros' is \[1, 2\], but its weight asks for \[2, 2\]"),
        ("gptq", cut("g_idx"), r"'x\.g_idx' is \[1\], but its weight asks for \[64\]"),
        ("gptq", as_float("qweight"), r"'x\.qweight' is float32, but must be int32"),
        ("awq", without("qzeros"), r"lacks 'x\.qzeros'"),
        ("awq", cut("scales"), r"'x\.scales' is \[1, 16\], but its weight asks for \[2, 16\]"),
        ("compressed-tensors", without("weight_zero_point"), r"lacks 'x\.weight_zero_point'"),
        ("compressed-tensors", without("weight_scale"), r"lacks 'x\.weight_scale'"),
        ("compressed-tensors", without("weight_shape"), r"lacks 'x\.weight_shape'"),
        (
            "compressed-tensors",
            cut("weight_scale"),
            r"'x\.weight_scale' is \[1, 2\], but its weight asks for \[16, 2\]",
        ),
    ],
)
def test_damaged_layer_is_one_sentence(method, damage, message, tmp_path):
    parts = parts_of(method)
    damage(parts)
    single(tmp_path, Case(method).config, parts)
    with pytest.raises(ModelError, match=message):
        weights(Model("hf", tmp_path))
    (tmp_path / "tokenizer.json").write_text('{"model": {}, "added_tokens": []}')
    (problem,) = check_checkpoint(tmp_path)
    assert problem.kind == "missing-model"


def gptq(**changes):
    return Case("gptq").config | changes


@pytest.mark.parametrize(
    ("config", "method", "message"),
    [
        (gptq(group_size=48), "gptq", "the group size 48 does not divide the 64 inputs of 'x'"),
        (gptq(group_size=0), "gptq", "the group size 0 does not divide"),
        (gptq(group_size="wide"), "gptq", "group_size of the quantization must be a number, not 'wide'"),
        (gptq(bits=None), "gptq", "bits of the quantization must be a number, not None"),
        (gptq(dynamic=[1]), "gptq", "'dynamic' of the quantization must map patterns to objects"),
        (gptq(dynamic={"(": {"sym": True}}), "gptq", r"the pattern '\(' of 'dynamic' is no regular expression"),
        (gptq(dynamic={"x{99999999999}": {}}), "gptq", r"the pattern 'x\{99999999999\}' of 'dynamic' is no regular"),
        (compressed({}), "compressed-tensors", "config_groups of the quantization must hold objects"),
        (
            compressed({"g": {"targets": ["y"], "weights": {"num_bits": 4, "group_size": 32}}}),
            "compressed-tensors",
            "'x' is packed, but no config group of the quantization targets it",
        ),
        (
            compressed({"g": {"targets": ["re:("], "weights": {"num_bits": 4, "group_size": 32}}}),
            "compressed-tensors",
            r"the target 're:\(' of the quantization is no regular expression",
        ),
        (
            compressed({"g": {"targets": ["re:x{99999999999}"], "weights": {"num_bits": 4, "group_size": 32}}}),
            "compressed-tensors",
            r"the target 're:x\{99999999999\}' of the quantization is no regular expression",
        ),
        (
            compressed_group(group_size=48),
            "compressed-tensors",
            "the group size 48 does not divide the 64 inputs of 'x'",
        ),
        ("all of it", "gptq", "its 'quantization_config' must be an object"),
        (None, "gptq", r"holds packed weights \('x\.qweight'\), but its config\.json has no quantization_config"),
    ],
)
def test_damaged_config_is_one_sentence(config, method, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        weights(Model("hf", single(tmp_path, config, parts_of(method))))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "fp8"}, r"already quantized \('fp8'\), which are read of awq, compressed-tensors, gptq only"),
        ({"quant_method": "mxfp4"}, "'mxfp4'"),
        ({"load_in_4bit": True}, "'unknown'"),
        (gptq(bits=3), r"weights of 3 bits \('gptq'\); 4 and 8 bits are read"),
        (gptq(dynamic={"x": {"bits": 2}}), "weights of 2 bits"),
        (gptq(checkpoint_format="marlin"), "GPTQ weights packed as 'marlin'; 'gptq' and 'gptq_v2' are read"),
        (Case("awq").config | {"version": "gemv"}, "AWQ weights packed as 'gemv'; 'gemm' is read"),
        (Case("awq").config | {"backend": "llm-awq"}, "packed as 'llm-awq'"),
        (Case("awq").config | {"bits": 8}, "AWQ weights of 8 bits; 4 bits are read"),
        (compressed_group(group_size=32) | {"format": "nvfp4-pack-quantized"}, "in the format 'nvfp4-pack-quantized'"),
        (compressed_group(type="float", group_size=32), "weights of the type 'float' with a scale for each group"),
        (compressed_group(strategy="block"), "with a scale for each block"),
        (compressed_group(num_bits=3, group_size=32), "weights of 3 bits"),
        (compressed_group(group_size=32) | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse weights"),
        (compressed_group(group_size=32) | {"transform_config": {"config_groups": {"R3": {}}}}, "transform_config"),
    ],
)
def test_what_is_not_read_is_refused_by_name(config, message, tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "copy")
    change_config(folder, quantization_config=config)
    with pytest.raises(Unsupported, match=message):
        weights(Model("hf", folder))
    (problem,) = check_checkpoint(folder)
    assert problem.kind == "unsupported"


def test_truncated_shard_is_named(tiny_llama, tmp_path):
    case = Case("awq")
    folder, _ = packed_model(tiny_llama, tmp_path / "packed", case.config, case.pack)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors is truncated"):
        weights(Model("hf", folder))
    assert [problem.kind for problem in check_checkpoint(folder)] == ["missing-model"]

"""A quantized checkpoint that is written is read back code for code, here and by transformers."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olivine.errors import ModelError
from olivine.kernels.blockwise import Format, rtn
from olivine.models import Model
from olivine.models.blockwise import Blockwise
from olivine.models.inspect import check_checkpoint
from olivine.models.loading import load_causal_lm, load_tokenizer
from olivine.models.quantized.words import pack_words, unpack_words
from olivine.models.quantized.write import write_quantized
from olivine.models.tensors import LazyTensor
from olivine.models.weights import weights
from packed import matrix, words
from tiny import tiny_model

IDS = torch.tensor([[1, 40, 50, 60, 70, 80]])


def quantized(model, choose):
    """The model's tensors, those that `choose` gives a format to be stored in it."""

    def one(name, tensor):
        fmt = choose(name)
        return replace(tensor, blockwise=None if fmt is None else lambda: rtn(tensor.read(), fmt))

    return {name: one(name, tensor) for name, tensor in weights(model).items()}


def mixed(symmetric):
    def choose(name):
        if not name.endswith("_proj.weight") or "layers.1.mlp.up" in name:
            return None
        return Format(8, 64, symmetric) if "down_proj" in name else Format(4, 16 if "o_proj" in name else 32, symmetric)

    return choose


def write(model, folder, tensors, **options):
    folder.mkdir()
    return write_quantized(model, folder, tensors, **options)


def alike(ours, theirs):
    zeros = (ours.zero_points, theirs.zero_points)
    assert (ours.bits, ours.group) == (theirs.bits, theirs.group)
    assert torch.equal(ours.codes, theirs.codes)
    assert torch.equal(ours.scales, theirs.scales)
    assert zeros == (None, None) or torch.equal(*zeros)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "phi3"])
def test_codes_scales_and_zero_points_come_back(architecture, symmetric, tmp_path):
    model = Model("hf", tiny_model(tmp_path / "model", architecture))
    tensors = quantized(model, mixed(symmetric))
    written = write(model, tmp_path / "q", tensors)
    found = weights(written)
    assert {name: tensor.shape for name, tensor in found.items()} == {name: t.shape for name, t in tensors.items()}
    for name, tensor in tensors.items():
        assert (found[name].blockwise is None) == (tensor.blockwise is None)
        if tensor.blockwise:
            alike(found[name].blockwise(), tensor.blockwise())
        else:
            assert torch.equal(found[name].read(), tensor.read())
    assert list(check_checkpoint(written.path)) == []
    assert load_tokenizer(written)("joy") == load_tokenizer(model)("joy")
    assert {file.suffix for file in written.path.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_quantized_embedding_and_head_come_back(tiny_llama, tmp_path):
    model = Model("hf", tiny_llama)
    tensors = quantized(model, lambda name: Format(8, 32, symmetric=False) if "norm" not in name else None)
    found = weights(write(model, tmp_path / "q", tensors))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        alike(found[name].blockwise(), tensors[name].blockwise())


def test_config_names_the_usual_scheme_by_class_and_the_others_by_module(tiny_llama, tmp_path):
    model = Model("hf", tiny_llama)
    written = write(model, tmp_path / "q", quantized(model, mixed(symmetric=False)))
    config = json.loads((written.path / "config.json").read_text())["quantization_config"]
    groups = {
        (group["weights"]["num_bits"], group["weights"]["group_size"]): group["targets"]
        for group in config["config_groups"].values()
    }
    assert groups == {
        (4, 32): ["Linear"],
        (8, 64): ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"],
        (4, 16): ["model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"],
    }
    assert set(config["ignore"]) == {"lm_head", "model.layers.1.mlp.up_proj"}


def test_tied_head_is_ignored_by_name(tiny_tied, tmp_path):
    model = Model("hf", tiny_tied)
    written = write(model, tmp_path / "q", quantized(model, mixed(symmetric=True)))
    assert "lm_head" in json.loads((written.path / "config.json").read_text())["quantization_config"]["ignore"]


def test_scales_may_be_stored_in_16_bits(tiny_llama, tmp_path):
    model = Model("hf", tiny_llama)
    tensors = quantized(model, mixed(symmetric=True))
    found = weights(write(model, tmp_path / "q", tensors, scale_dtype="float16"))
    name = "model.layers.0.mlp.gate_proj.weight"
    exact = tensors[name].blockwise()
    alike(found[name].blockwise(), replace(exact, scales=exact.scales.half().float()))


def test_checkpoint_that_is_written_again_is_the_same(tiny_llama, tmp_path):
    model = Model("hf", tiny_llama)
    first = write(model, tmp_path / "one", quantized(model, mixed(symmetric=False)))
    second = write(first, tmp_path / "two", weights(first))
    files = [{file.name: file.read_bytes() for file in one.path.iterdir()} for one in (first, second)]
    assert weights(first).keys() == weights(second).keys()
    for name, tensor in weights(first).items():
        assert torch.equal(tensor.read(), weights(second)[name].read())
    assert json.loads(files[0]["config.json"]) == json.loads(files[1]["config.json"])


def test_every_tensor_is_computed_once(tiny_llama, tmp_path):
    model, computed = Model("hf", tiny_llama), []

    def counted(name, compute):
        return lambda: computed.append(name) or compute()

    tensors = {
        name: replace(
            tensor,
            read=counted(name, tensor.read),
            blockwise=tensor.blockwise and counted(name, tensor.blockwise),
        )
        for name, tensor in quantized(model, mixed(symmetric=True)).items()
    }
    write(model, tmp_path / "q", tensors)
    assert sorted(computed) == sorted(tensors)


def test_shards_have_an_index(tiny_llama, tmp_path):
    model = Model("hf", tiny_llama)
    tensors = quantized(model, mixed(symmetric=False))
    found = weights(write(model, tmp_path / "q", tensors, max_shard_bytes=60_000))
    assert len(list((tmp_path / "q").glob("model-0000?-of-0000?.safetensors"))) > 2
    for name, tensor in tensors.items():
        if tensor.blockwise:
            alike(found[name].blockwise(), tensor.blockwise())


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (lambda one: replace(one, codes=one.codes[:4]), r"is \[64, 64\], but was quantized to \[4, 64\]"),
        (lambda one: replace(one, scales=one.scales * float("nan")), "with a scale that is NaN or infinite"),
    ],
)
def test_wrong_codes_leave_nothing_behind(stored, message, tiny_llama, tmp_path):
    model, name = Model("hf", tiny_llama), "model.layers.1.self_attn.q_proj.weight"
    tensors = quantized(model, mixed(symmetric=True))
    right = tensors[name].blockwise
    tensors[name] = replace(tensors[name], blockwise=lambda: stored(right()))
    with pytest.raises(ModelError, match=message):
        write(model, tmp_path / "q", tensors)
    assert list((tmp_path / "q").iterdir()) == []


def test_nothing_quantized_is_refused(tiny_llama, tmp_path):
    model = Model("hf", tiny_llama)
    with pytest.raises(ModelError, match=r"no weight of .* is quantized"):
        write(model, tmp_path / "q", weights(model))
    assert list((tmp_path / "q").iterdir()) == []


def test_full_disk_leaves_nothing_behind(tiny_llama, tmp_path):
    resource = pytest.importorskip("resource")  # POSIX
    model = Model("hf", tiny_llama)
    tensors = quantized(model, mixed(symmetric=True))
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write(model, tmp_path / "q", tensors)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert list((tmp_path / "q").iterdir()) == []


def test_weights_in_16_bits_stay_so(tmp_path):
    model = Model("hf", tiny_model(tmp_path / "model", "llama"))
    tensors = {
        name: LazyTensor(name, one.shape, "bfloat16", lambda one=one: one.read().bfloat16(), blockwise=one.blockwise)
        for name, one in quantized(model, mixed(symmetric=True)).items()
    }
    found = weights(write(model, tmp_path / "q", tensors))
    assert found["model.embed_tokens.weight"].dtype == "bfloat16"


def test_codes_of_any_value_survive(tmp_path, tiny_llama):
    """Every code and zero point from 0 to the highest."""
    name = "model.layers.0.mlp.up_proj.weight"
    for bits in (4, 8):
        generator = torch.Generator().manual_seed(bits)
        codes = torch.randint(0, 1 << bits, (128, 64), generator=generator).to(torch.uint8)
        zeros = torch.randint(0, 1 << bits, (128, 2), generator=generator).to(torch.uint8)
        stored = Blockwise(bits, 32, codes, torch.rand((128, 2), generator=generator), zeros)
        model = Model("hf", tiny_llama)
        tensors = {**weights(model)}
        tensors[name] = replace(tensors[name], blockwise=lambda stored=stored: stored)
        alike(weights(write(model, tmp_path / str(bits), tensors))[name].blockwise(), stored)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([4, 8]).flatmap(
        lambda bits: st.tuples(
            st.just(bits), st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=40), st.permutations(range(8))
        )
    )
)
def test_words_hold_what_the_slow_packer_puts_into_them(drawn):
    bits, numbers, order = drawn
    codes = torch.tensor([numbers], dtype=torch.uint8)
    packed = pack_words(codes, bits)
    assert torch.equal(packed, matrix([words(numbers, bits)]))
    assert torch.equal(unpack_words(packed, bits)[:, : len(numbers)], codes)
    if bits == 4 and len(numbers) % 8 == 0:
        places = [order.index(code) for code in range(8)]
        assert torch.equal(unpack_words(matrix([words(numbers, 4, order)]), 4, places), codes)


@pytest.mark.parametrize("bits", [4, 8])
def test_single_row_that_was_transposed_is_packed(bits):
    """Zero points of a weight that is one group wide: torch takes its stride of 1 for a row's."""
    codes = (torch.arange(64) % 2**bits).to(torch.uint8)[:, None]
    assert torch.equal(unpack_words(pack_words(codes.T.contiguous(), bits), bits), codes.T)


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_computes_the_same(tied, tmp_path):
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM

    model = Model("hf", tiny_model(tmp_path / "model", "llama", tied=tied))
    written = write(model, tmp_path / "q", quantized(model, mixed(symmetric=True)))
    theirs = AutoModelForCausalLM.from_pretrained(written.path, dtype=torch.float32)
    assert torch.equal(theirs(IDS).logits, load_causal_lm(written)(IDS).logits)


def test_transformers_computes_the_same_with_zero_points(tmp_path):
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    model = Model("hf", tiny_model(tmp_path / "model", "llama"))
    choose = lambda name: Format(4, 32, symmetric=False) if "_proj" in name else None  # noqa: E731
    written = write(model, tmp_path / "q", quantized(model, choose))
    theirs = AutoModelForCausalLM.from_pretrained(
        written.path, dtype=torch.float32, quantization_config=CompressedTensorsConfig(dequantize=True)
    )
    assert torch.equal(theirs(IDS).logits, load_causal_lm(written)(IDS).logits)

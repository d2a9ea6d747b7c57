"""Blocks of GGUF files that are codes and a scale are taken over as they are, in the rows' Hugging Face order."""

import gguf
import numpy as np
import pytest
import torch
from test_gguf_weights import view, write_gguf

from olivine.models.gguf_header import GgufHeader, GgufTensor
from olivine.models.quantized.gguf import gguf_blockwise
from olivine.models.weights import weights
from tiny import tiny_model

KINDS = gguf.GGMLQuantizationType


class AsItIs:
    def process(self, weights, **_):
        return gguf_tensor(weights)


def gguf_tensor(values):
    from transformers.modeling_gguf_pytorch_utils import GGUFTensor

    return GGUFTensor(values, None, {})


@pytest.mark.parametrize(("kind", "bits"), [("Q4_0", 4), ("Q8_0", 8)])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_blocks_are_the_values_that_gguf_itself_computes(architecture, kind, bits, tmp_path):
    folder = tiny_model(tmp_path / "hf", architecture)
    model = view(write_gguf(folder, tmp_path / "a.gguf", architecture, getattr(KINDS, kind)), tmp_path / "view")
    found = weights(model)
    quantized = {name for name, tensor in found.items() if tensor.blockwise}
    assert quantized == {name for name, tensor in found.items() if len(tensor.shape) == 2}
    for name in quantized:
        stored = found[name].blockwise()
        assert (stored.bits, stored.group, stored.symmetric) == (bits, 32, True)
        assert stored.scales.dtype == torch.float32
        assert torch.equal(stored.dequantized(), found[name].read())


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_any_bytes_are_read_like_gguf_reads_them(kind, tmp_path):
    block, size = gguf.GGML_QUANT_SIZES[getattr(KINDS, kind)]
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (48, 3, size), dtype=np.uint8)
    blocks[..., :2] = random.normal(size=(48, 3, 1)).astype("<f2").view(np.uint8)
    file = tmp_path / "blocks"
    file.write_bytes(blocks.tobytes())
    tensor = GgufTensor("x", int(getattr(KINDS, kind)), (48, 3 * block), 0)
    stored = gguf_blockwise(file, tensor, AsItIs())()
    exact = gguf.dequantize(blocks.reshape(48, -1), getattr(KINDS, kind))
    assert np.array_equal(stored.dequantized().numpy(), exact)
    codes = [[slow_code(kind, blocks[row, k // 32], k % 32) for k in range(3 * block)] for row in range(48)]
    assert np.array_equal(stored.codes.numpy(), np.array(codes))


def slow_code(kind, block, place):
    if kind == "Q8_0":
        return (int(block[2 + place]) + 128) % 256
    byte = int(block[2 + place % 16])
    return byte % 16 if place < 16 else byte // 16


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_0", "F16"])
def test_other_types_are_dequantized_only(kind, tmp_path):
    folder = tiny_model(tmp_path / "hf", "llama")
    file = write_gguf(folder, tmp_path / "a.gguf", "llama", getattr(KINDS, kind))
    found = weights(view(file, tmp_path / "view"))
    assert not [name for name, tensor in found.items() if tensor.blockwise]
    header = GgufHeader.read(file)
    (name,) = [name for name in header.tensors if name == "token_embd.weight"]
    tensor = header.tensors[name]
    raw = np.fromfile(file, np.uint8, tensor.n_bytes, offset=tensor.offset)
    exact = gguf.dequantize(raw.view(np.float16) if kind == "F16" else raw, getattr(KINDS, kind)).reshape(tensor.shape)
    assert np.array_equal(found["model.embed_tokens.weight"].read().numpy(), exact)


def test_layout_that_changes_more_than_the_order_of_rows_is_not_taken_over(tmp_path):
    class Turned:
        def process(self, weights, **_):
            return gguf_tensor(weights.T)

    tensor = GgufTensor("x", int(KINDS.Q8_0), (32, 32), 0)
    assert gguf_blockwise(tmp_path / "none", tensor, Turned()) is None

"""Block-wise quantization: ONNX Runtime's own codes, an obvious search, and what no weight may do."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits

from olivine.kernels.blockwise import Blockwise, Format, pack, quantize, rtn, search


def correlated(n_rows=48, width=128, seed=0):
    """A weight, and inputs X whose channels differ a thousandfold in strength."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n_rows, width, generator=generator) * 0.05
    strength = torch.exp(1.5 * torch.randn(width, generator=generator))
    mixing = torch.eye(width) + 0.3 * torch.randn(width, width, generator=generator) / width**0.5
    return weight, torch.randn(512, width, generator=generator) @ mixing * strength


def output_error(weight, stored, inputs):
    return float(((stored.dequantized() - weight) @ inputs.T).square().mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("bits", [4, 8])
def test_round_to_nearest_gives_the_bytes_of_onnxruntime(bits, group, symmetric, dtype):
    n_rows, width = 24, 512
    weight = (torch.randn(n_rows, width, generator=torch.Generator().manual_seed(1)) * 0.02).to(dtype)
    weight[0], weight[1], weight[2], weight[3] = 0, weight[1].abs(), -weight[2].abs(), 1.0
    n_blocks, per_byte = width // group, 8 // bits
    packed = np.zeros((n_rows, n_blocks, group // per_byte), np.uint8)
    zeros = np.zeros((n_rows, -(-n_blocks // per_byte)), np.uint8)
    scales = np.zeros((n_rows, n_blocks), np.float32)
    kernel = quantize_matmul_4bits if bits == 4 else quantize_matmul_8bits
    kernel(packed, weight.float().T.contiguous().numpy(), scales, zeros, group, n_rows, width, symmetric)
    stored = rtn(weight, Format(bits, group, symmetric))
    assert np.array_equal(pack(stored.codes, bits).numpy(), packed.reshape(n_rows, -1))
    assert np.array_equal(stored.scales.numpy(), scales)
    assert symmetric or np.array_equal(pack(stored.zero_points, bits).numpy(), zeros)


def obvious_search(block, importance, highest, zero_points):
    """The least weighted squared error over a fine grid of scales and all zero points."""
    best = float("inf")
    span = float(block.max().clamp(min=0) - block.min().clamp(max=0))
    for shrink in np.linspace(0.4, 1.1, 71):
        for sign in (1, -1):
            scale = sign * span * shrink / highest
            for zero in zero_points:
                codes = (torch.round(block / scale) + zero).clamp(0, highest) - zero
                square = float((importance * codes * codes).sum())
                fitted = float((importance * codes * block).sum()) / square if square else 0.0
                best = min(best, float((importance * (fitted * codes - block) ** 2).sum()))
    return best


@pytest.mark.parametrize("symmetric", [True, False])
def test_search_is_within_a_few_percent_of_trying_everything(symmetric):
    weight, inputs = correlated(8, 64)
    importance = inputs.square().mean(0)
    stored = search(weight, Format(4, 32, symmetric), importance)
    errors = ((stored.dequantized() - weight) ** 2 * importance).view(8, 2, 32).sum(-1)
    zero_points = [8] if symmetric else range(16)
    best = torch.tensor(
        [
            [
                obvious_search(weight[row, 32 * b : 32 * b + 32], importance[32 * b : 32 * b + 32], 15, zero_points)
                for b in (0, 1)
            ]
            for row in range(8)
        ]
    )
    assert int((errors <= 1.02 * best).sum()) >= 14  # of 16: now and then another zero point, far off, is better
    assert float(errors.sum()) <= 1.15 * float(best.sum())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [16, 32, 64, 128])
def test_search_beats_rounding_to_nearest_on_correlated_inputs(group, symmetric):
    weight, inputs = correlated()
    fmt = Format(4, group, symmetric)
    searched = output_error(weight, search(weight, fmt, inputs.square().mean(0)), inputs)
    assert searched < 0.7 * output_error(weight, rtn(weight, fmt), inputs)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([16, 32, 64]),
    symmetric=st.booleans(),
    method=st.sampled_from(["rtn", "search"]),
    size=st.floats(1e-4, 1e3),
)
def test_no_weight_is_further_off_than_its_block_is_wide(seed, bits, group, symmetric, method, size):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 128, generator=generator) * size
    stored = quantize(weight, Format(bits, group, symmetric), method)
    blocks = weight.view(5, -1, group)
    span = (blocks.amax(-1).clamp(min=0) - blocks.amin(-1).clamp(max=0)).clamp(min=1e-12)
    worst = (stored.dequantized() - weight).view(5, -1, group).abs().amax(-1)
    assert bool((worst <= span).all())
    assert int(stored.codes.max()) < 1 << bits


@pytest.mark.parametrize("method", ["rtn", "search"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_what_is_stored_exactly_is_found_again(method, symmetric):
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 16, (6, 64), generator=generator, dtype=torch.uint8)
    codes[:, ::32], codes[:, 1::32] = 0, 15  # the whole range is used
    zeros = None if symmetric else torch.randint(1, 15, (6, 2), generator=generator, dtype=torch.uint8)
    scales = torch.rand(6, 2, generator=generator) + 0.5
    weight = Blockwise(4, 32, codes, scales, zeros).dequantized()
    again = quantize(weight, Format(4, 32, symmetric), method).dequantized()
    assert torch.allclose(again, weight, atol=1e-5)


def test_zero_and_constant_blocks_come_back():
    weight = torch.zeros(3, 64)
    weight[1], weight[2] = 0.25, -3.0
    for method in ("rtn", "search"):
        for symmetric in (True, False):
            stored = quantize(weight, Format(4, 32, symmetric), method).dequantized()
            assert torch.isfinite(stored).all()
            assert torch.allclose(stored[0], weight[0])
            assert torch.allclose(stored[2], weight[2], rtol=1e-5)


def test_bf16_and_float32_of_the_same_weight_are_stored_alike():
    weight = torch.randn(9, 64, generator=torch.Generator().manual_seed(5)).to(torch.bfloat16)
    one, other = search(weight, Format()), search(weight.float(), Format())
    assert torch.equal(one.codes, other.codes)
    assert torch.equal(one.scales, other.scales)


@pytest.mark.parametrize(
    ("weight", "fmt", "message"),
    [
        (torch.zeros(2, 48), Format(4, 32), "does not divide the 48 inputs"),
        (torch.zeros(2, 64), Format(3, 32), "4 or 8 bits"),
        (torch.zeros(2, 64), Format(4, 24), "group size must be one of"),
        (torch.full((2, 64), float("nan")), Format(), "NaN or infinite"),
        (torch.full((2, 64), float("inf")), Format(), "NaN or infinite"),
        (torch.zeros(64), Format(), "two dimensions"),
    ],
)
def test_weights_that_cannot_be_stored_are_refused(weight, fmt, message):
    with pytest.raises(ValueError, match=message):
        rtn(weight, fmt)


def test_importances_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"importance must be \[64\]"):
        search(torch.zeros(2, 64), Format(), torch.ones(32))
    with pytest.raises(ValueError, match="finite"):
        search(torch.zeros(2, 64), Format(), torch.full((64,), float("nan")))


def test_kernels_are_compiled_anew_where_no_folder_can_be_written():
    """A container with a read-only disk: numba finds no place for its cache, and refuses to cache."""
    code = (
        "import torch; from olivine.kernels.blockwise import Format, rtn\n"
        "print(rtn(torch.ones(2, 32), Format()).codes.unique().tolist())"
    )
    nowhere = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "IPythonCacheLocator"}  # which has none for a file
    done = subprocess.run([sys.executable, "-c", code], env=nowhere, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[0]", done.stderr

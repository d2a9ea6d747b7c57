"""GPTQ against the column loop that it is named after, and what it promises."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olivine.kernels.blockwise import Format, rtn, search
from olivine.kernels.gptq import factor, gptq, led_back
from olivine.kernels.hessian import output_error


def correlated(n_tokens, width, seed=0):
    """Inputs as layers see them: correlated, a few channels far larger than the others."""
    chance = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n_tokens, width, generator=chance) @ torch.randn(width, width, generator=chance)
    return inputs * torch.logspace(-1, 1, width)[torch.randperm(width, generator=chance)]


def hessian(inputs):
    return inputs.T @ inputs / len(inputs)


def slow_codes(weight, matrix, fmt, order, damping=0.01):
    """Optimal brain surgeon, literally: round a column, correct the rest, take it out of the inverse; in float64."""
    start = search(weight, fmt, matrix.diagonal())
    inverse = torch.linalg.inv(matrix.double() + damping * matrix.diagonal().mean().double() * torch.eye(len(matrix)))
    left, codes = weight.double().clone(), torch.zeros_like(start.codes)
    for k in order.tolist():
        scale = start.scales[:, k // fmt.group].double()
        zero = torch.full_like(scale, fmt.middle) if fmt.symmetric else start.zero_points[:, k // fmt.group].double()
        code = (left[:, k] / scale + zero).round().clamp(0, fmt.highest)
        codes[:, k] = code.to(torch.uint8)
        error = (left[:, k] - (code - zero) * scale) / inverse[k, k]
        left -= error[:, None] * inverse[k][None, :]
        inverse -= inverse[:, k : k + 1] @ inverse[k : k + 1] / inverse[k, k]
        inverse[k, k] = 1.0  # gone: its row and column are zero now
    return codes


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("block", [128, 7])
def test_codes_are_those_of_the_slow_loop(symmetric, act_order, block):
    fmt = Format(4, 16, symmetric)
    weight, matrix = torch.randn(24, 64, generator=torch.Generator().manual_seed(1)), hessian(correlated(300, 64))
    order = torch.argsort(matrix.diagonal(), descending=True) if act_order else torch.arange(64)
    swept = gptq(weight, matrix, fmt, act_order=act_order, block=block)
    assert (swept.codes != slow_codes(weight, matrix, fmt, order)).float().mean() < 0.002  # float32 against float64


def test_scales_and_zero_points_are_those_of_the_search():
    fmt = Format(4, 16, symmetric=False)
    weight, matrix = torch.randn(8, 32), hessian(correlated(100, 32))
    swept, start = gptq(weight, matrix, fmt), search(weight, fmt, matrix.diagonal())
    assert torch.equal(swept.scales, start.scales)
    assert torch.equal(swept.zero_points, start.zero_points)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000), bits=st.sampled_from([4, 8]), group=st.sampled_from([16, 32]), symmetric=st.booleans()
)
def test_output_error_is_below_rounding(seed, bits, group, symmetric):
    fmt = Format(bits, group, symmetric)
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(seed))
    matrix = hessian(correlated(256, 64, seed))
    error = output_error(weight - gptq(weight, matrix, fmt).dequantized(), matrix)
    assert error < output_error(weight - rtn(weight, fmt).dequantized(), matrix)


def test_falling_importance_beats_the_order_of_the_columns():
    fmt, weight, matrix = Format(4, 32, symmetric=False), torch.randn(64, 128), hessian(correlated(400, 128))
    plain = output_error(weight - gptq(weight, matrix, fmt, act_order=False).dequantized(), matrix)
    assert output_error(weight - gptq(weight, matrix, fmt).dequantized(), matrix) < plain


def test_stacked_weights_share_a_factor_and_get_their_own_codes():
    fmt, matrix = Format(4, 16), hessian(correlated(200, 32))
    first, second = torch.randn(8, 32), torch.randn(4, 32)
    shared = factor(matrix)
    both = gptq(torch.cat([first, second]), shared, fmt)
    assert torch.equal(both.codes[:8], gptq(first, matrix, fmt).codes)
    assert torch.equal(both.codes[8:], gptq(second, shared, fmt).codes)


def test_many_rows_are_swept_in_tiles_that_change_nothing():
    fmt, weight, matrix = Format(4, 16), torch.randn(40, 32), hessian(correlated(200, 32))
    whole = gptq(weight, matrix, fmt)
    assert torch.equal(gptq(weight, matrix, fmt, rows_at_once=16).codes, whole.codes)


def test_factor_is_of_the_inverse():
    matrix = hessian(correlated(200, 32))
    shared = factor(matrix)
    damped = matrix + 0.01 * matrix.diagonal().mean() * torch.eye(32)
    inverse = torch.linalg.inv(damped.double())[shared.order][:, shared.order]
    assert torch.allclose(
        (shared.upper.T @ shared.upper).double(), inverse, rtol=1e-2, atol=1e-4 * float(inverse.max())
    )


@given(seed=st.integers(0, 2**16), act_order=st.booleans())
@settings(max_examples=20, deadline=None)
def test_weight_that_is_led_back_is_that_of_least_squares(seed, act_order):
    generator = torch.Generator().manual_seed(seed)
    was = torch.randn(400, 24, generator=generator, dtype=torch.float64)
    now = was + 0.3 * torch.randn(400, 24, generator=generator, dtype=torch.float64)
    weight = torch.randn(7, 24, generator=generator, dtype=torch.float64)
    best = torch.linalg.lstsq(now, was @ weight.T).solution.T
    shared = factor((now.T @ now / 400).float(), damping=1e-7, act_order=act_order)
    drift = ((was - now).T @ now / 400).float()
    whole = led_back(weight.float(), drift, shared, 1.0)
    torch.testing.assert_close(whole.double(), best, atol=1e-4, rtol=1e-3)
    half = led_back(weight.float(), drift, shared, 0.5)
    torch.testing.assert_close(half, (whole + weight.float()) / 2, atol=1e-4, rtol=1e-3)


def test_fewer_tokens_than_columns_are_no_error():
    fmt, weight = Format(4, 16), torch.randn(8, 64)
    matrix = hessian(correlated(5, 64))
    swept = gptq(weight, matrix, fmt).dequantized()
    assert torch.isfinite(swept).all()
    assert output_error(weight - swept, matrix) < output_error(weight - rtn(weight, fmt).dequantized(), matrix)


def test_input_that_is_always_zero_is_rounded_and_corrects_nothing():
    fmt, weight = Format(4, 16), torch.randn(8, 32)
    inputs = correlated(200, 32)
    inputs[:, 5] = 0
    swept = gptq(weight, hessian(inputs), fmt).dequantized()
    step = search(weight, fmt, hessian(inputs).diagonal()).scales[:, 0].abs()
    assert ((swept[:, 5] - weight[:, 5]).abs() < 9 * step).all()
    nothing = gptq(weight, torch.zeros(32, 32), fmt)
    assert torch.equal(nothing.codes, search(weight, fmt, torch.zeros(32)).codes)


def test_group_of_zeros_stays_zero():
    fmt, weight = Format(4, 16, symmetric=False), torch.randn(4, 32)
    weight[1, 16:] = 0
    assert torch.isfinite(gptq(weight, hessian(correlated(100, 32)), fmt).dequantized()).all()


def test_what_is_not_finite_or_does_not_fit_is_named():
    fmt, matrix = Format(4, 16), hessian(correlated(50, 32))
    weight = torch.randn(4, 32)
    with pytest.raises(ValueError, match="the weight has 32, H 16"):
        gptq(weight, matrix[:16, :16], fmt)
    with pytest.raises(ValueError, match="weight is not finite"):
        gptq(weight.index_fill(1, torch.tensor([3]), float("nan")), matrix, fmt)
    with pytest.raises(ValueError, match="Hessian is not finite"):
        gptq(weight, matrix * float("inf"), fmt)
    with pytest.raises(ValueError, match="not positive"):
        factor(-matrix + 2 * torch.diag(matrix.diagonal()) - 1e6 * (torch.ones(32, 32) - torch.eye(32)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; benchmarks/quantize_gpu.py does the same there")
@pytest.mark.parametrize("fmt", [Format(4, 32), Format(4, 32, symmetric=False), Format(8, 16)])
def test_gpu_gives_the_codes_of_the_processor(fmt):
    weight, matrix = torch.randn(300, 416), hessian(correlated(1000, 416))
    there = gptq(weight.cuda(), matrix.cuda(), fmt)
    here = gptq(weight, matrix, fmt)
    assert (there.codes == here.codes).float().mean() > 0.999  # sums in another order decide a tie now and then
    torch.testing.assert_close(there.scales, here.scales)

"""AWQ's scales: never worse than rounding, better where inputs differ; folds undo each other."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olivine.kernels.awq import ALPHAS, Fold, channel_scales
from olivine.kernels.blockwise import Format, rtn
from olivine.kernels.hessian import output_error


def case(seed):
    chance = torch.Generator().manual_seed(seed)
    weight = torch.randn(32, 64, generator=chance)
    return weight, torch.logspace(-4, 3, 64)[torch.randperm(64, generator=chance)]


def error(weight, scales, importance, fmt):
    return output_error(weight - rtn(weight * scales, fmt).dequantized() / scales, importance)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), symmetric=st.booleans())
def test_scales_are_the_best_of_the_grid(seed, symmetric):
    fmt = Format(4, 16, symmetric)
    weight, importance = case(seed)
    best = error(weight, channel_scales(weight, importance, fmt), importance, fmt)
    for alpha in ALPHAS:  # the slow obvious version
        scales = importance ** (alpha / 2)
        assert best <= error(weight, scales / scales.log().mean().exp(), importance, fmt) * 1.001
    assert best < output_error(weight - rtn(weight, fmt).dequantized(), importance)


def test_whole_hessian_and_its_diagonal_agree_for_independent_inputs():
    fmt = Format(4, 16)
    weight, importance = case(3)
    both = (channel_scales(weight, importance, fmt), channel_scales(weight, torch.diag(importance), fmt))
    assert torch.allclose(*both)


def test_inputs_that_nothing_reaches_and_empty_statistics_give_finite_scales():
    weight, importance = case(5)
    importance[:7] = 0
    assert torch.isfinite(channel_scales(weight, importance, Format(4, 16))).all()
    assert torch.equal(channel_scales(weight, torch.zeros(64), Format(4, 16)), torch.ones(64))


def test_channels_of_one_source_share_a_scale():
    weight, importance = case(7)
    source = torch.arange(16).repeat(4)
    scales = channel_scales(weight, importance, Format(4, 16), source=source)
    assert torch.equal(scales.view(4, 16), scales[:16].expand(4, 16))
    assert len(scales.unique()) == 16


def test_fold_into_a_norm_and_its_reader_is_no_change():
    scales, hidden, norm, weight = torch.rand(8) + 0.5, torch.randn(5, 8), torch.randn(8), torch.randn(3, 8)
    plain = (hidden * (1 + norm)) @ weight.T
    folded = (hidden * (1 + Fold(rows=scales, offset=1.0).apply(norm))) @ Fold(columns=scales).apply(weight).T
    assert torch.allclose(plain, folded, rtol=1e-4, atol=1e-5)


def test_two_folds_of_a_tensor_are_both_done():
    weight = torch.randn(3, 8)
    first, second = Fold(columns=torch.rand(8) + 1), Fold(columns=torch.rand(8) + 1, rows=torch.rand(3) + 1)
    assert torch.allclose(first.then(second).apply(weight), second.apply(first.apply(weight)))
    assert Fold(rows=torch.ones(8), offset=1.0).then(Fold(columns=None)).offset == 1.0

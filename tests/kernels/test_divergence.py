"""Divergence against torch's own, and the properties that make it one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from olivine.kernels.divergence import divergence, log_softmax

LOGITS = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(2, 9)), elements=st.floats(-30, 30, width=32))


@given(LOGITS)
@settings(max_examples=40, deadline=None)
def test_log_softmax_equals_torch(logits):
    np.testing.assert_allclose(log_softmax(logits), torch.log_softmax(torch.from_numpy(logits), -1), atol=1e-5)


@given(LOGITS, st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_divergence_equals_torch_and_is_not_negative(logits, seed):
    other = np.random.default_rng(seed).normal(size=logits.shape).astype(np.float32)
    result = divergence(log_softmax(logits), log_softmax(other), chunk=2)
    p, q = (torch.log_softmax(torch.from_numpy(values).double(), -1) for values in (logits, other))
    oracle = torch.nn.functional.kl_div(q, p, log_target=True, reduction="batchmean").item()
    assert result.mean >= 0
    assert result.mean == pytest.approx(oracle, abs=1e-4, rel=1e-4)


@given(LOGITS, st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_equal_distributions_do_not_diverge_whatever_their_offset(logits, offset):
    result = divergence(logits, logits + np.float32(offset))
    assert result.mean == pytest.approx(0, abs=1e-5)


def test_standard_error_is_that_of_the_mean():
    p = log_softmax(np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32))
    q = log_softmax(np.random.default_rng(1).normal(size=(50, 20)).astype(np.float32))
    each = np.array([divergence(p[i : i + 1], q[i : i + 1]).mean for i in range(50)])
    result = divergence(p, q)
    assert result.standard_error == pytest.approx(each.std(ddof=1) / np.sqrt(50), rel=1e-6)
    assert result.top1_agreement == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean())


def test_half_precision_storage_is_not_mistaken_for_divergence():
    p = log_softmax(np.random.default_rng(0).normal(size=(8, 5000)).astype(np.float32) * 5)
    assert divergence(p.astype(np.float16), p.astype(np.float16)).mean == 0
    assert divergence(p, p.astype(np.float16)).mean < 1e-4


def test_shapes_must_be_equal_and_not_empty():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        divergence(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="no positions"):
        divergence(np.zeros((0, 3)), np.zeros((0, 3)))

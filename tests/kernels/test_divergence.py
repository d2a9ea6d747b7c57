"""Divergence against torch's own, and the properties that make it one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from olivine.kernels.divergence import Positions, compare_logits, divergence, log_softmax, summarize

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


def obvious(reference, candidate, targets):
    """Every number of a position by the book, in float64 and one position at a time."""
    rows = []
    for r, c, target in zip(reference, candidate, targets, strict=True):
        p, q = (torch.log_softmax(torch.from_numpy(row).double(), -1).numpy() for row in (r, c))
        best, other = np.argsort(-p, kind="stable")[:5], np.argsort(-q, kind="stable")[:5]
        rows.append(
            {
                "kl": (np.exp(p) * (p - q)).sum(),
                "reference_loss": -p[target],
                "candidate_loss": -q[target],
                "margin": p[best[0]] - p[best[1]],
                "same_top": best[0] == other[0],
                "top_overlap": len(set(best) & set(other)) / len(best),
                "logit_error": np.abs(r.astype(float) - c).max(),
                "n_above_0_1": (np.abs(r - c) > np.float32(0.1)).sum(),
                "n_above_0_01": (np.abs(r - c) > np.float32(0.01)).sum(),
            }
        )
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def two_models(n_positions=40, n_vocabulary=60, noise=0.3, seed=0):
    random = np.random.default_rng(seed)
    reference = random.normal(size=(n_positions, n_vocabulary)).astype(np.float32) * 3
    candidate = reference + random.normal(size=reference.shape).astype(np.float32) * noise
    return reference, candidate, random.integers(0, n_vocabulary, n_positions).tolist()


@pytest.mark.parametrize("n_at_once", [1, 7, 1000])
def test_every_number_of_a_position_equals_the_obvious_one(n_at_once):
    reference, candidate, targets = two_models()
    positions = compare_logits(reference, candidate, targets, chunk_values=n_at_once * reference.shape[1])
    for name, expected in obvious(reference, candidate, targets).items():
        np.testing.assert_allclose(getattr(positions, name), expected, rtol=1e-4, atol=1e-5, err_msg=name)


@given(LOGITS, st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_positions_of_any_logits_keep_what_divergence_promises(logits, seed):
    other = np.random.default_rng(seed).normal(size=logits.shape).astype(np.float32)
    targets = [0] * len(logits)
    positions = compare_logits(logits, other, targets)
    assert (positions.kl >= 0).all()
    assert ((positions.top_overlap >= 0) & (positions.top_overlap <= 1)).all()
    assert (positions.margin >= 0).all()
    np.testing.assert_allclose(positions.kl, divergence_of_each(logits, other), atol=1e-4, rtol=1e-4)
    same = compare_logits(logits, logits, targets)
    assert (same.kl == 0).all()
    assert same.same_top.all()
    assert (same.top_overlap == 1).all()
    assert (same.logit_error == 0).all()


def divergence_of_each(p, q):
    return [divergence(log_softmax(p[i : i + 1]), log_softmax(q[i : i + 1])).mean for i in range(len(p))]


def test_logits_are_left_as_they_were():
    reference, candidate, targets = two_models()
    before = reference.copy(), candidate.copy()
    compare_logits(reference, candidate, targets)
    np.testing.assert_array_equal(reference, before[0])
    np.testing.assert_array_equal(candidate, before[1])


def test_tokens_that_are_excluded_add_nothing():
    reference = np.array([[0.0, 1.0, -np.inf]], np.float32)
    same = compare_logits(reference, reference, [1])
    assert same.kl.tolist() == [0.0]
    assert not same.candidate_nan.any()
    assert compare_logits(reference, np.zeros((1, 3), np.float32), [1]).kl[0] == pytest.approx(
        1 / (1 + np.e) * np.log(3 / (1 + np.e)) + np.e / (1 + np.e) * np.log(3 * np.e / (1 + np.e)), abs=1e-6
    )


def test_nan_and_flat_logits_are_told_apart_from_good_ones():
    good, targets = two_models(4, 50)[0], [0] * 4
    positions = compare_logits(good, np.full_like(good, np.nan), targets)
    assert positions.candidate_nan.all()
    assert not positions.reference_nan.any()
    assert np.isnan(summarize(positions).kl)
    assert summarize(positions).to_json()["kl"] is None
    flat = compare_logits(good, np.zeros_like(good), targets)
    assert flat.candidate_flat.all()
    assert not flat.reference_flat.any()


def test_summary_is_that_of_the_positions():
    reference, candidate, targets = two_models(200)
    parts = [
        compare_logits(reference[s : s + 30], candidate[s : s + 30], targets[s : s + 30]) for s in range(0, 200, 30)
    ]
    summary, by_hand = summarize(Positions.joined(parts)), obvious(reference, candidate, targets)
    n = len(targets)
    change = by_hand["candidate_loss"] - by_hand["reference_loss"]
    clear = by_hand["margin"] > 0.1
    ratio = np.exp(change.mean())
    share = by_hand["same_top"][clear].mean()
    expected = {
        "n_positions": n,
        "kl": by_hand["kl"].mean(),
        "kl_standard_error": by_hand["kl"].std(ddof=1) / np.sqrt(n),
        "kl_median": np.median(by_hand["kl"]),
        "kl_p90": np.percentile(by_hand["kl"], 90),
        "kl_p99": np.percentile(by_hand["kl"], 99),
        "kl_max": by_hand["kl"].max(),
        "top1_agreement": by_hand["same_top"].mean(),
        "n_clear": clear.sum(),
        "top1_agreement_clear": share,
        "top1_standard_error_clear": np.sqrt(share * (1 - share) / clear.sum()),
        "top5_overlap": by_hand["top_overlap"].mean(),
        "reference_perplexity": np.exp(by_hand["reference_loss"].mean()),
        "candidate_perplexity": np.exp(by_hand["candidate_loss"].mean()),
        "perplexity_ratio": ratio,
        "perplexity_ratio_standard_error": ratio * change.std(ddof=1) / np.sqrt(n),
        "rms_probability_change": np.sqrt(
            np.mean((np.exp(-by_hand["candidate_loss"]) - np.exp(-by_hand["reference_loss"])) ** 2)
        ),
        "max_logit_error": by_hand["logit_error"].max(),
        "n_logits_above_0_1": by_hand["n_above_0_1"].sum(),
        "n_logits_above_0_01": by_hand["n_above_0_01"].sum(),
    }
    for name, value in expected.items():
        assert getattr(summary, name) == pytest.approx(value, rel=1e-4), name


def test_one_position_has_no_error_and_no_clear_one_no_share():
    tie = np.zeros((1, 4), np.float32)
    summary = summarize(compare_logits(tie, tie, [0]))
    assert summary.kl_standard_error == 0
    assert summary.n_clear == 0
    assert summary.top1_agreement_clear is None


def test_perplexity_beyond_a_double_is_infinite_and_null_in_json():
    logits = np.array([[2000.0, 0.0]], np.float32)
    summary = summarize(compare_logits(logits, logits, [1]))
    assert summary.reference_perplexity == float("inf")
    assert summary.to_json()["reference_perplexity"] is None


def test_logits_and_targets_must_fit():
    with pytest.raises(ValueError, match="for 1 targets"):
        compare_logits(np.zeros((2, 3)), np.zeros((2, 3)), [0])
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        compare_logits(np.zeros((2, 3)), np.zeros((2, 4)), [0, 0])
    with pytest.raises(ValueError, match="no positions"):
        Positions.joined([])

"""Attention of a packed row against a mask over all of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olivine.kernels.packed_attention import Segments, UnknownAttentionError, attend

MODULE = torch.nn.Module()


def tensors(n_tokens, heads=4, kv_heads=2, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, n_heads, n_tokens, width, generator=generator, requires_grad=True)
        for n_heads in (heads, kv_heads, kv_heads)
    ]


def oracle(query, key, value, lengths, window=None):
    """Softmax over every pair of tokens that share a segment, the key not after the query nor out of its window."""
    times = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    position = torch.arange(len(segment))
    seen = (segment[:, None] == segment) & (position[:, None] >= position)
    if window is not None:
        seen &= position[:, None] - position < window
    scores = (query @ key.transpose(2, 3)) * query.shape[-1] ** -0.5
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value).transpose(1, 2)


LENGTHS = st.one_of(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.tuples(st.integers(1, 9), st.integers(1, 5)).map(lambda pair: [pair[0]] * pair[1]),
    st.lists(st.integers(8, 10), min_size=2, max_size=4),  # alike: one padded batch
)


@given(LENGTHS, st.sampled_from([None, 1, 3, 50]), st.sampled_from([1, 2, 4]))
@settings(max_examples=80, deadline=None)
def test_packed_attention_equals_masked_attention(lengths, window, kv_heads):
    query, key, value = tensors(sum(lengths), kv_heads=kv_heads)
    arguments = Segments.of(lengths).arguments()
    attended, _ = attend(MODULE, query, key, value, None, scaling=8**-0.5, sliding_window=window, **arguments)
    expected = oracle(query, key, value, lengths, window)
    torch.testing.assert_close(attended, expected, atol=1e-5, rtol=1e-4)
    slope = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    mine = torch.autograd.grad((attended * slope).sum(), (query, key, value))
    theirs = torch.autograd.grad((expected * slope).sum(), (query, key, value))
    for left, right in zip(mine, theirs, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)


def test_lengths_are_read_from_the_bounds_where_they_are_not_given():
    query, key, value = tensors(9)
    arguments = Segments.of([4, 5], n_segments=6).arguments()
    arguments["segment_lengths"] = None
    attended, _ = attend(MODULE, query, key, value, None, scaling=8**-0.5, **arguments)
    torch.testing.assert_close(attended, oracle(query, key, value, [4, 5]), atol=1e-5, rtol=1e-4)


def test_without_segments_a_row_is_one_segment():
    query, key, value = tensors(7)
    attended, _ = attend(MODULE, query, key, value, None, scaling=8**-0.5)
    torch.testing.assert_close(attended, oracle(query, key, value, [7]), atol=1e-5, rtol=1e-4)


def test_segments_are_filled_up_with_empty_ones():
    segments = Segments.of([3, 2], n_segments=4, longest=64)
    assert segments.bounds.tolist() == [0, 3, 5, 5, 5]
    assert (segments.longest, segments.lengths, segments.length) == (64, (3, 2), None)
    assert Segments.of([3, 3]).length == 3


@pytest.mark.parametrize("foreign", [{"softcap": 50.0}, {"s_aux": torch.ones(4)}, {"position_bias": torch.ones(1)}])
def test_other_kinds_of_attention_are_refused(foreign):
    with pytest.raises(UnknownAttentionError, match="more than causal attention"):
        attend(MODULE, *tensors(5), None, **foreign)


def test_keys_of_an_earlier_pass_are_refused():
    query, _, _ = tensors(3)
    _, key, value = tensors(5)
    with pytest.raises(UnknownAttentionError, match="earlier forward pass"):
        attend(MODULE, query, key, value, None)

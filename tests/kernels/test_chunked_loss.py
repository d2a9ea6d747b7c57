"""The loss in chunks against cross entropy over all logits at once, with every gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olivine.kernels.chunk_sizes import CHUNK_BYTES, chunk_rows
from olivine.kernels.chunked_loss import Logits, Workspace, chunked_loss


def small_parts():
    """The work on a chunk happens in several parts, as it does with a real vocabulary."""
    return Workspace(part_bytes=256)


def case(n_rows, n_vocabulary, seed, *, bias=False, ignored=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n_rows, 12, generator=generator, requires_grad=True)
    head = torch.nn.Linear(12, n_vocabulary, bias=bias)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    targets = torch.randint(0, n_vocabulary, (n_rows,), generator=generator)
    targets[:ignored] = -100
    return hidden, head, targets


def oracle(hidden, head, targets, logits):
    z = head(hidden) * logits.scale
    if logits.softcap is not None:
        z = logits.softcap * torch.tanh(z / logits.softcap)
    return torch.nn.functional.cross_entropy(z, targets, ignore_index=-100, reduction="sum")


def gradients(loss, hidden, head):
    leaves = [hidden, *(parameter for parameter in head.parameters() if parameter.requires_grad)]
    return torch.autograd.grad(loss * 0.37, leaves)


@given(
    st.integers(1, 40),
    st.integers(2, 50),
    st.integers(0, 2**31),
    st.sampled_from([None, 3.0, 30.0]),
    st.sampled_from([1.0, 0.25, 7.0]),
    st.booleans(),
    st.integers(1, 17),
)
@settings(max_examples=60, deadline=None)
def test_loss_and_gradients_equal_those_of_full_logits(n_rows, n_vocabulary, seed, softcap, scale, bias, chunk):
    hidden, head, targets = case(n_rows, n_vocabulary, seed, bias=bias, ignored=n_rows // 3)
    logits = Logits(scale, softcap)
    expected = oracle(hidden, head, targets, logits)
    loss = chunked_loss(hidden, head, targets, logits, chunk, workspace=small_parts())
    torch.testing.assert_close(loss, expected, atol=1e-3, rtol=1e-4)
    for mine, theirs in zip(gradients(loss, hidden, head), gradients(expected, hidden, head), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)


def test_a_later_loss_leaves_the_gradients_of_an_earlier_one():
    first, second, workspace = case(9, 30, 0), case(9, 30, 1), small_parts()
    losses = [
        chunked_loss(hidden, head, targets, Logits(), 4, workspace=workspace)
        for hidden, head, targets in (first, second)
    ]
    for loss, (hidden, head, targets) in zip(losses, (first, second), strict=True):
        expected = gradients(oracle(hidden, head, targets, Logits()), hidden, head)
        torch.testing.assert_close(gradients(loss, hidden, head), expected, atol=1e-4, rtol=1e-3)


def test_frozen_head_takes_no_gradient():
    hidden, head, targets = case(9, 30, 0)
    head.requires_grad_(False)
    chunked_loss(hidden, head, targets, Logits(), 4, workspace=small_parts()).backward()
    assert head.weight.grad is None
    assert hidden.grad.abs().sum() > 0


def test_any_other_head_is_called_chunk_by_chunk():
    class Doubled(torch.nn.Linear):
        seen = ()

        def forward(self, x):
            self.seen = (*self.seen, len(x))
            return 2 * super().forward(x)

    hidden, plain, targets = case(10, 30, 1)
    head = Doubled(12, 30, bias=False)
    head.load_state_dict(plain.state_dict())
    loss, expected = chunked_loss(hidden, head, targets, Logits(), 4), oracle(hidden, plain, targets, Logits(2.0))
    assert head.seen == (4, 4, 2)
    torch.testing.assert_close(loss, expected)
    mine, theirs = torch.autograd.grad(loss, hidden)[0], torch.autograd.grad(expected, hidden)[0]
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_no_position_gives_a_loss_of_zero_with_a_graph():
    hidden, head, targets = case(3, 8, 0)
    loss = chunked_loss(hidden[:0], head, targets[:0], Logits())
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(hidden.grad.abs().sum()) == 0


def test_half_precision_head_is_close_to_the_float32_one():
    hidden, head, targets = case(64, 300, 5)
    expected = oracle(hidden, head, targets, Logits())
    halves = hidden.detach().bfloat16().requires_grad_()
    loss = chunked_loss(halves, head.to(torch.bfloat16), targets, Logits(), 16, workspace=small_parts())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)


def test_config_says_how_logits_are_scaled():
    class Config:
        def __init__(self, **values):
            self.__dict__ |= values

    assert Logits.of(Config()) == Logits()
    assert Logits.of(Config(logit_scale=0.0625)) == Logits(0.0625)
    assert Logits.of(Config(logits_scaling=8.0)) == Logits(0.125)
    assert Logits.of(Config(final_logit_softcapping=30.0)) == Logits(1.0, 30.0)


@pytest.mark.parametrize("n_vocabulary", [2, 32_000, 262_144, 10**7])
def test_chunks_keep_to_their_bytes_but_are_never_small(n_vocabulary):
    n_rows = chunk_rows(n_vocabulary, "cpu")
    assert n_rows % 128 == 0
    assert n_rows == 128 or n_rows * n_vocabulary * 4 <= CHUNK_BYTES["cpu"]

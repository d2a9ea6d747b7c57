"""The model of the peak: against peaks measured on a GPU, and the choices that follow from it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olivine.passes.finetune._memory import Shape, choose, peak_bytes

# Phi-3-mini with LoRA of rank 16 on all linear layers, bfloat16
PHI = Shape(3072, 8192, 32, 32064, 3072, 3072, 7_642_159_104, 25_165_824, compiled=True)


@pytest.mark.parametrize(
    ("shape", "n_tokens", "measured"),
    [
        (PHI, 8192, 38.036e9),  # one NVIDIA H100, benchmarks/finetune_gpu.py
        (replace(PHI, compiled=False), 8192, 47.190e9),
        (replace(PHI, checkpointed=32), 2048, 9.005e9),
    ],
)
def test_estimate_is_within_a_tenth_of_the_measured_peak(shape, n_tokens, measured):
    assert peak_bytes(shape, n_tokens) == pytest.approx(measured, rel=0.1)


@given(st.integers(1, 20_000), st.integers(0, 31))
@settings(max_examples=50, deadline=None)
def test_peak_grows_with_tokens_and_falls_with_checkpoints(n_tokens, checkpointed):
    shape = replace(PHI, checkpointed=checkpointed)
    assert peak_bytes(shape, n_tokens + 1) > peak_bytes(shape, n_tokens)
    if checkpointed:  # the first one costs its own recomputation
        assert peak_bytes(replace(shape, checkpointed=checkpointed + 1), n_tokens) < peak_bytes(shape, n_tokens)


def test_all_that_pays_is_taken_where_it_fits():
    choice = choose(PHI, 80 * 10**9, 2048, 64 * 2048)
    assert (choice.n_tokens, choice.checkpointed, choice.fits) == (8192, 0, True)
    assert choose(PHI, 80 * 10**9, 60, 640).n_tokens == 640


def test_less_memory_means_smaller_micro_batches_before_checkpoints():
    choice = choose(PHI, 24 * 10**9, 2048, 8192)
    assert 2048 < choice.n_tokens < 8192
    assert choice.checkpointed == 0
    assert choice.peak_bytes < 24 * 10**9


def test_only_as_many_layers_are_checkpointed_as_it_takes():
    choice = choose(PHI, 14 * 10**9, 2048, 8192)
    assert 0 < choice.checkpointed < 32
    assert choice.fits
    assert peak_bytes(replace(PHI, checkpointed=choice.checkpointed - 4), 2048) > 0.92 * 14 * 10**9


def test_what_the_user_said_of_checkpoints_is_kept():
    choice = choose(replace(PHI, checkpointed=32), 80 * 10**9, 2048, 8192)
    assert (choice.n_tokens, choice.checkpointed) == (8192, 32)


def test_row_that_fits_nowhere_is_told():
    choice = choose(PHI, 6 * 10**9, 2048, 8192)
    assert not choice.fits
    assert (choice.n_tokens, choice.checkpointed) == (2048, 32)


def test_updates_that_are_written_out_are_counted():
    written = replace(PHI, compiled=False, update_bytes=4 * 3_600_000_000)
    plain = replace(PHI, compiled=False)
    assert peak_bytes(written, 64) - peak_bytes(plain, 64) > written.update_bytes
    again = replace(written, checkpointed=32)
    assert peak_bytes(again, 64) - peak_bytes(replace(plain, checkpointed=32), 64) < written.update_bytes / 4


@pytest.mark.parametrize("method", ["LoHaConfig", "LoKrConfig", "LoraConfig"])
def test_written_updates_of_a_model_are_found(method, tiny_llama):
    from training_tools import adapted

    from olivine.passes.finetune._setup import _update_bytes

    model = adapted(tiny_llama, method, target_modules=["q_proj", "down_proj"])
    expected = 0 if method == "LoraConfig" else 4 * 2 * (64 * 64 + 64 * 128)
    assert _update_bytes(model) == expected

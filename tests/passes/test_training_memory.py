"""The model of the peak: against peaks measured on a GPU, and the choices that follow from it."""

import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_tools import adapted, arguments, whole

from olivine.kernels import lora_linear
from olivine.models.inspect import read_facts
from olivine.training import acceleration, setup
from olivine.training.memory import Shape, choose, layer_bytes, may_offload, offloaded_bytes, peak_bytes
from tiny import tiny_model

# Phi-3-mini with LoRA of rank 16 on all linear layers, bfloat16
PHI = Shape(3072, 8192, 32, 32064, 3072, 3072, 7_642_159_104, 25_165_824, compiled=True)
# Qwen3-4B: a norm on the heads of queries and keys, a tied head
QWEN = Shape(2560, 9728, 36, 151936, 4096, 1024, 8_044_936_192, 33_030_144, compiled=True, head_norms=True)
FUSED_QWEN = replace(QWEN, compiled=False, fused=True)
LLAMA = Shape(4096, 14336, 32, 128256, 4096, 1024, 16_060_522_496, 41_943_040, fused=True)  # Llama-3.1-8B
QLORA = replace(PHI, weight_bytes=2_263_857_664)  # layers in 4 bits, the embedding and the head in bfloat16


@pytest.mark.parametrize(
    ("shape", "n_tokens", "measured"),
    [
        (PHI, 8192, 38.036e9),  # one NVIDIA H100, benchmarks/finetune_gpu.py
        (replace(PHI, compiled=False), 8192, 47.190e9),
        (replace(PHI, checkpointed=32), 2048, 9.005e9),
        (QLORA, 8192, 32.656e9),
        (replace(QLORA, checkpointed=32), 2048, 3.627e9),
        (QWEN, 8192, 45.520e9),  # one NVIDIA H200, benchmarks/finetune_command.py
        (
            replace(FUSED_QWEN, checkpointed=36, offloads=True),
            8192,
            9.746e9,
        ),  # the same GPU, benchmarks/finetune_gpu.py
        (LLAMA, 8192, 42.607e9),
        (replace(LLAMA, checkpointed=16, offloads=True), 32768, 69.947e9),
    ],
)
def test_estimate_is_within_a_fiftieth_of_the_measured_peak(shape, n_tokens, measured):
    assert peak_bytes(shape, n_tokens) == pytest.approx(measured, rel=0.02)


def test_norms_of_heads_are_seen_in_the_model_and_in_its_facts(tmp_path):
    folder = tiny_model(tmp_path / "qwen3", "qwen3")
    assert Shape.of_facts(read_facts(folder), 0, 2, "cpu").head_norms
    assert not Shape.of_facts(read_facts(tiny_model(tmp_path / "llama", "llama")), 0, 2, "cpu").head_norms
    assert setup._shape_of(adapted(folder), arguments(tmp_path)).head_norms


@given(st.integers(1, 20_000), st.integers(0, 31))
@settings(max_examples=50, deadline=None)
def test_peak_grows_with_tokens_and_falls_with_checkpoints(n_tokens, checkpointed):
    shape = replace(PHI, checkpointed=checkpointed)
    assert peak_bytes(shape, n_tokens + 1) > peak_bytes(shape, n_tokens)
    # the first one saves nothing: the last layer goes back before it, with all that it keeps; nor does the last
    if 0 < checkpointed < 31:
        assert peak_bytes(replace(shape, checkpointed=checkpointed + 1), n_tokens) < peak_bytes(shape, n_tokens)
    assert peak_bytes(replace(PHI, checkpointed=32), n_tokens) <= peak_bytes(replace(PHI, checkpointed=31), n_tokens)


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


def test_vocabulary_that_a_file_does_not_tell_costs_nothing():
    assert peak_bytes(replace(PHI, vocabulary=0), 64) <= peak_bytes(PHI, 64)


def test_inputs_of_checkpointed_layers_wait_in_the_machines_memory_where_half_of_it_holds_them():
    waiting = replace(LLAMA, checkpointed=32, offloads=True)
    n_bytes = offloaded_bytes(waiting, 8192)
    assert n_bytes == 32 * 8192 * 4096 * 2
    assert may_offload(LLAMA, 2 * n_bytes, 2048, 8192)
    assert not may_offload(LLAMA, 2 * n_bytes - 2, 2048, 8192)
    assert not may_offload(replace(LLAMA, fused=False), 2 * n_bytes, 2048, 8192)
    saved = peak_bytes(replace(LLAMA, checkpointed=32), 8192) - peak_bytes(waiting, 8192)
    assert saved == (31 - 3) * 8192 * 4096 * 2


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


KINDS = {
    "LoRA": {},
    "DoRA": {"use_dora": True},
    "LoHa": {"method": "LoHaConfig"},
    "LoKr": {"method": "LoKrConfig"},
    "every weight": None,
}


class Kept:
    """A tensor that a graph holds."""

    def __init__(self, tensor):
        self.tensor = tensor


def kept_bytes(model, n_tokens):
    """What autograd keeps of the decoder for the backward pass, each storage once, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    graph = weakref.WeakSet()  # what a part of the graph held that is gone already is not in it

    def keep(tensor):
        kept = Kept(tensor)
        graph.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        result = acceleration.base_of(model).model(input_ids=torch.arange(n_tokens)[None] % 300, use_cache=False)
    storages = [kept.tensor.untyped_storage() for kept in graph]
    del result
    return sum({one.data_ptr(): one.nbytes() for one in storages if one.data_ptr() not in weights}.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_layers_keep_is_what_autograd_keeps(kind, dtype, tmp_path):
    sizes = {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8, "num_key_value_heads": 8}
    folder = tiny_model(tmp_path / "model", "llama", max_position_embeddings=1024, **sizes)
    how = KINDS[kind]
    model = whole(folder, dtype=dtype) if how is None else adapted(folder, **how)
    if how is not None:  # the base alone: adapters train in float32
        for parameter in model.parameters():
            parameter.data = parameter.data if parameter.requires_grad else parameter.data.to(dtype)
        lora_linear.take_over(model)
    model.train()
    few, many = kept_bytes(model, 128), kept_bytes(model, 256)
    shape = setup._shape_of(model, arguments(tmp_path))
    per_token, fixed = (many - few) / 128 / shape.n_layers, 2 * few - many
    assert 0.95 * per_token < layer_bytes(shape) < 1.3 * per_token
    kept_updates = 0 if kind == "DoRA" else shape.update_bytes
    assert 0.8 * fixed - 2**20 < kept_updates < 1.2 * fixed + 1


@pytest.mark.parametrize("method", ["LoHaConfig", "LoKrConfig", "LoraConfig"])
def test_written_updates_of_a_model_are_found(method, tiny_llama):
    model = adapted(tiny_llama, method, target_modules=["q_proj", "down_proj"])
    expected = 0 if method == "LoraConfig" else 4 * 2 * (64 * 64 + 64 * 128)
    assert setup._update_bytes(model) == expected

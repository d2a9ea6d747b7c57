"""nf4 and fp4: the nearest of 16 values, and a layer that never keeps its weight unpacked."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olivine.kernels.linear4bit import Linear4bit, pack_layer, unpack_on_cpu
from olivine.models.nf4 import BLOCK, TABLES, Packed, Rounding, pack, rounded, unpack

ROUNDINGS = [Rounding(kind, double) for kind in ("nf4", "fp4") for double in (False, True)]


def obvious(weight, kind):
    """Every weight one by one: its block's largest magnitude times the nearest value of the table."""
    flat, nearest = weight.reshape(-1), []
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        magnitude = block.abs().max()
        for value in block:
            nearest.append(magnitude * min(TABLES[kind], key=lambda entry: abs(float(value / magnitude) - entry)))
    return torch.stack(nearest).view(weight.shape)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_each_weight_becomes_the_nearest_value(kind):
    weight = torch.randn(6, 96, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(rounded(weight, Rounding(kind, double=False)), obvious(weight, kind), atol=1e-6)


def test_double_quantization_changes_magnitudes_by_less_than_a_percent_of_their_spread():
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(1))
    plain, double = pack(weight, Rounding("nf4", double=False)), pack(weight, Rounding("nf4", double=True))
    assert torch.equal(plain.codes, double.codes)
    assert double.magnitudes.dtype == torch.int8
    again = double.magnitudes.float() * double.scales.repeat_interleave(256)[: len(double.magnitudes)] + double.offset
    spread = (plain.magnitudes - plain.magnitudes.mean()).abs().max()
    assert float((again - plain.magnitudes).abs().max()) <= float(spread) / 127
    n_bytes = sum(t.numel() * t.element_size() for t in (double.codes, double.magnitudes, double.scales))
    assert n_bytes / weight.numel() < 0.52


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), rows=st.integers(1, 9), width=st.integers(1, 130), size=st.floats(1e-3, 1e3))
def test_rounding_twice_changes_nothing_and_errors_stay_within_a_step(seed, rows, width, size):
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * size
    once = rounded(weight, Rounding("nf4", double=False))
    assert torch.allclose(rounded(once, Rounding("nf4", double=False)), once, rtol=1e-5, atol=1e-6 * size)
    assert float((once - weight).abs().max()) <= 0.16 * float(weight.abs().max())


@pytest.mark.parametrize("rounding", ROUNDINGS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_layer_equals_a_plain_one_with_the_rounded_weight(rounding, bias):
    torch.manual_seed(0)
    plain = torch.nn.Linear(96, 40, bias=bias).requires_grad_(False)
    layer = Linear4bit(plain, rounding)
    reference = torch.nn.Linear(96, 40, bias=bias).requires_grad_(False)
    reference.weight.data = rounded(plain.weight.data, rounding)
    if bias:
        reference.bias.data = plain.bias.data
    inputs = torch.randn(3, 5, 96, requires_grad=True)
    same = inputs.detach().clone().requires_grad_()
    slope = torch.randn(3, 5, 40)
    layer(inputs).backward(slope)
    reference(same).backward(slope)
    assert torch.allclose(layer(inputs), reference(same), atol=1e-6)
    assert torch.allclose(inputs.grad, same.grad, atol=1e-6)
    assert torch.equal(layer.weight, reference.weight)


def test_backward_keeps_no_unpacked_weight():
    layer = Linear4bit(torch.nn.Linear(256, 256, bias=False).requires_grad_(False), Rounding())
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        layer(torch.randn(4, 256, requires_grad=True))
    assert max(kept) <= 256 * 256 // 2


def test_a_decoder_layer_is_packed_whole(tiny_llama):
    from olivine.models import Model
    from olivine.models.loading import load_causal_lm

    model = load_causal_lm(Model("hf", tiny_llama), each_layer=lambda _, layer: pack_layer(layer, Rounding()))
    linear = [name for name, module in model.named_modules() if isinstance(module, Linear4bit)]
    assert len(linear) == 2 * 7
    assert type(model.lm_head) is torch.nn.Linear
    assert torch.isfinite(model(torch.tensor([[1, 5, 9]])).logits).all()


def test_weights_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="NaN or infinite"):
        pack(torch.tensor([1.0, float("nan")]), Rounding())


def test_shapes_that_are_no_multiple_of_a_block_come_back():
    weight = torch.randn(3, 7)
    assert unpack(pack(weight, Rounding()), (3, 7), torch.bfloat16).shape == weight.shape


TYPES = [torch.float32, torch.bfloat16, torch.float16]
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def same_bits(unpacked, expected):
    """Zeros of either sign differ."""
    assert unpacked.shape == expected.shape
    assert unpacked.dtype == expected.dtype
    kind = BITS[unpacked.dtype]
    return torch.equal(unpacked.view(kind), expected.view(kind))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 9999),
    rows=st.integers(1, 40),
    width=st.integers(1, 300),
    exponent=st.integers(-38, 30),
    rounding=st.sampled_from(ROUNDINGS),
    dtype=st.sampled_from(TYPES),
)
def test_compiled_loops_give_the_bits_of_plain_torch(seed, rows, width, exponent, rounding, dtype):
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
    packed = pack(weight, rounding)
    assert same_bits(unpack_on_cpu(packed, (rows, width), dtype), unpack(packed, (rows, width), dtype))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_block_that_is_not_a_number_stays_so(dtype):
    codes = torch.arange(BLOCK // 2, dtype=torch.uint8)
    packed = Packed(codes, torch.tensor([float("nan")]), torch.tensor(TABLES["nf4"]))
    assert unpack_on_cpu(packed, (1, BLOCK), dtype).isnan().all()


@pytest.mark.parametrize("rounding", ROUNDINGS, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_weights_for_several_threads_have_the_bits_of_plain_torch(rounding, dtype):
    weight = torch.randn(2203, 1003, generator=torch.Generator().manual_seed(2))
    packed = pack(weight, rounding)
    assert same_bits(unpack_on_cpu(packed, (2203, 1003), dtype), unpack(packed, (2203, 1003), dtype))


def test_values_between_two_of_bfloat16_go_to_the_even_one():
    # 1 + 2**-8 lies between 1 and 1 + 2**-7, 1 + 3 * 2**-8 between that and 1 + 2**-6; the last rounds up to infinity
    magnitudes = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1.0, 3.4028e38])
    codes = torch.full((4 * BLOCK // 2,), 15 | 0 << 4, dtype=torch.uint8)
    packed = Packed(codes, magnitudes, torch.tensor(TABLES["nf4"]))
    unpacked = unpack_on_cpu(packed, (4, BLOCK), torch.bfloat16)
    assert unpacked[:, 0].tolist() == [1.0, 1 + 2**-6, 1.0, float("inf")]
    assert unpacked[:, 1].tolist() == [-1.0, -1 - 2**-6, -1.0, float("-inf")]
    assert same_bits(unpacked, unpack(packed, (4, BLOCK), torch.bfloat16))

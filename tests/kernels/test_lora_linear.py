"""Our LoRA layer against peft's own: results and gradients, and what is left to peft."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import library

from olivine.kernels.lora_linear import LoraLinear, lora_linear, take_over


class Net(torch.nn.Module):
    def __init__(self, *, bias):
        super().__init__()
        self.first = torch.nn.Linear(12, 20, bias=bias)
        self.second = torch.nn.Linear(20, 6, bias=bias)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def net(*, bias=False, base=torch.float32, **settings):
    torch.manual_seed(0)
    model = Net(bias=bias).to(base)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["first", "second"]} | settings)
    model = get_peft_model(model, config, autocast_adapter_dtype=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model


def run(model, x, seed=0):
    """The result, the gradient of the input and those of the adapter."""
    torch.manual_seed(seed)
    x = x.clone().requires_grad_()
    result = model(x)
    result.float().square().sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return result, x.grad, grads


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"lora_dropout": 0.3}, {"r": 1}], ids=str)
def test_float32_layer_equals_pefts(settings, bias):
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))
    theirs, ours = net(bias=bias, **settings), net(bias=bias, **settings)
    assert take_over(ours) == 2
    for actual, expected in zip(run(ours, x), run(theirs, x), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


def test_bfloat16_layer_is_close_and_its_adapter_stays_float32():
    x = torch.randn(40, 12, generator=torch.Generator().manual_seed(1)).bfloat16()
    theirs, ours = net(base=torch.bfloat16), net(base=torch.bfloat16)
    take_over(ours)
    (result, slope, grads), (expected, right_slope, right_grads) = run(ours, x), run(theirs, x)
    assert result.dtype == torch.bfloat16
    assert {grad.dtype for grad in grads.values()} == {torch.float32}
    for actual, right in [
        (result, expected),
        (slope, right_slope),
        *((grads[name], right_grads[name]) for name in grads),
    ]:
        assert (actual - right).float().norm() < 0.03 * right.float().norm()


def test_nothing_of_the_activations_is_kept_in_float32():
    model = net(base=torch.bfloat16)
    take_over(model)
    kept = []
    x = torch.randn(64, 12).bfloat16()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        model(x)
    assert not [tensor for tensor in kept if tensor.dtype == torch.float32 and 64 in tensor.shape]


def test_names_and_files_stay_pefts():
    model = net()
    before = list(model.state_dict())
    take_over(model)
    assert list(model.state_dict()) == before
    assert all(
        type(module) is LoraLinear for name, module in model.named_modules() if name.endswith(("first", "second"))
    )


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}], ids=str)
def test_what_is_not_plain_is_left_to_peft(settings):
    assert take_over(net(bias=True, **settings)) == 0


def test_disabled_and_merged_adapters_work_as_pefts():
    x = torch.randn(3, 12)
    model, ours = net(), net()
    take_over(ours)
    with model.disable_adapter(), ours.disable_adapter():
        assert torch.equal(model(x), ours(x))
    expected = ours(x)
    ours.merge_adapter()
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-4)


def test_operators_are_what_they_say_they_are():
    generator = torch.Generator().manual_seed(0)
    x, a, b = (torch.randn(shape, generator=generator, requires_grad=True) for shape in ((3, 4, 6), (2, 6), (5, 2)))
    weight = torch.randn(5, 6, generator=generator)
    library.opcheck(torch.ops.olivine.lora_linear.default, (x, weight, None, a, b))


def test_operator_for_a_compiler_gives_what_the_function_gives():
    generator = torch.Generator().manual_seed(1)
    x, weight, bias = (torch.randn(shape, generator=generator).bfloat16() for shape in ((2, 5, 12), (6, 12), (6,)))
    a, b = torch.randn(4, 12, generator=generator), torch.randn(6, 4, generator=generator)
    used = []

    def traced(graph, _):
        used.extend(node.target for node in graph.graph.nodes)
        return graph.forward

    def result_and_gradients(layer):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, a, b)]
        result = layer(leaves[0], weight, bias, *leaves[1:], 0.7)
        return result, *torch.autograd.grad(result.float().square().sum(), leaves)

    compiled = result_and_gradients(torch.compile(lora_linear, backend=traced, fullgraph=True))
    torch.testing.assert_close(compiled, result_and_gradients(lora_linear), atol=0, rtol=0)
    assert any("olivine.lora_linear" in str(target) for target in used), used


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with torch for CUDA")
def test_triton_kernels_equal_the_products_in_the_interpreter():
    script = """
import torch
from olivine.kernels import _update
for rows, columns, rank in ((300, 520, 16), (130, 1000, 32), (513, 300, 4)):
    g, u, b, y = (torch.randn(s) for s in ((rows, columns), (rows, rank), (columns, rank), (rows, columns)))
    expected = y + u @ b.t()
    _update.add_update(y, u, b)
    du, db = _update.two_products(g, u, b)
    for actual, right in ((y, expected), (du, g @ b), (db, g.t() @ u)):
        torch.testing.assert_close(actual, right, atol=1e-3, rtol=1e-3)
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "TRITON_INTERPRET": "1"})

"""Float32 masters: the updates of a float32 training, on parameters that compute in bfloat16."""

import copy

import torch

from olivine.kernels.master_weights import MasterWeights

N_STEPS = 20
RATE = 1e-4  # a twentieth of the step between bfloat16 numbers near 0.5


def optimized(parameter, **more):
    return torch.optim.AdamW([{"params": [parameter], "weight_decay": 0.0}], lr=RATE, **more)


def slopes():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, generator=generator).bfloat16() for _ in range(N_STEPS)]


def step(optimizer, parameter, slope):
    parameter.grad = slope.to(parameter.dtype)
    optimizer.step()
    optimizer.zero_grad()


def start():
    return torch.full((4, 3), 0.5)


def test_parameters_are_the_rounded_ones_of_a_float32_training():
    plain, halved = torch.nn.Parameter(start()), torch.nn.Parameter(start().bfloat16())
    expected, masters = optimized(plain), MasterWeights(optimized(halved))
    lost = torch.nn.Parameter(start().bfloat16())
    rounded_away = optimized(lost)
    for slope in slopes():
        for optimizer, parameter in ((expected, plain), (masters, halved), (rounded_away, lost)):
            step(optimizer, parameter, slope)
    assert halved.dtype == torch.bfloat16
    assert torch.equal(halved, plain.bfloat16())
    assert torch.equal(lost, start().bfloat16())  # without masters not one update arrives


def test_training_that_goes_on_from_a_state_ends_with_the_same_bits():
    whole, cut = torch.nn.Parameter(start().bfloat16()), torch.nn.Parameter(start().bfloat16())
    one, first = MasterWeights(optimized(whole)), MasterWeights(optimized(cut))
    for slope in slopes():
        step(one, whole, slope)
    for slope in slopes()[:7]:
        step(first, cut, slope)
    state, weights = copy.deepcopy(first.state_dict()), cut.detach().clone()
    resumed = torch.nn.Parameter(weights)
    second = MasterWeights(optimized(resumed))
    second.load_state_dict(state)
    for slope in slopes()[7:]:
        step(second, resumed, slope)
    assert torch.equal(resumed, whole)
    for resumed, expected in zip(second.state_dict()["masters"], one.state_dict()["masters"], strict=True):
        assert torch.equal(resumed, expected)


def test_scheduler_sets_the_learning_rate_of_the_inner_optimizer():
    parameter = torch.nn.Parameter(start().bfloat16())
    optimizer = MasterWeights(optimized(parameter))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert optimizer.inner.param_groups[0]["lr"] == scheduler.get_last_lr()[0] == RATE / 2


def test_parameter_without_a_gradient_stays():
    used, unused = (torch.nn.Parameter(start().bfloat16()) for _ in range(2))
    optimizer = MasterWeights(torch.optim.AdamW([used, unused], lr=0.1))
    used.grad = torch.ones(4, 3).bfloat16()
    optimizer.step()
    optimizer.zero_grad()
    assert used.grad is None
    assert torch.equal(unused, start().bfloat16())
    assert not torch.equal(used, start().bfloat16())

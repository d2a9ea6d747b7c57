"""The inputs of recomputed layers on their way to the machine's memory and back."""

import pytest
import torch

from olivine.kernels.host_copies import HostCopies


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no other memory without a GPU")
def test_gradients_are_those_of_layers_that_keep_their_inputs():
    torch.manual_seed(0)
    layers, rows = [torch.nn.Linear(512, 512).cuda() for _ in range(4)], torch.randn(1024, 512).cuda()

    def gradients(run):
        states = rows
        for layer in layers:
            states = run(layer, states)
        return torch.autograd.grad(states.square().mean(), [layer.weight for layer in layers])

    expected, copies = gradients(lambda layer, states: layer(states)), HostCopies()
    for _ in range(2):  # the second time in the memory of the first
        found = gradients(copies.checkpoint)
        assert all(map(torch.equal, found, expected))

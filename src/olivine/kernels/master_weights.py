"""Float32 master weights for a model that computes in bfloat16 (Micikevicius et al. 2018, arXiv:1710.03740).

An update of a learning rate that fine-tuning takes is smaller than the step between two bfloat16 numbers and would be
rounded away: bfloat16 has 8 significant bits, so that less than 2**-9 of a weight is lost. The optimizer works on
float32 copies; the model's parameters are the copies, rounded, after each step.
"""

from typing import Any

import torch

_MASTERS = "masters"


class MasterWeights(torch.optim.Optimizer):  # type: ignore[misc] # torch is not read by the type checker
    """Another optimizer (`inner`), on float32 copies of its parameters; groups, states and rates are the inner one's.

    Invariant after each step: parameter = bfloat16(master), for every pair of them.
    """

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        # without torch's own __init__: groups and state are those of the inner optimizer, not a second pair
        self.inner, self.defaults = inner, inner.defaults
        self._pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        for group in inner.param_groups:
            group["params"] = [self._master(parameter) for parameter in group["params"]]

    def _master(self, parameter: torch.Tensor) -> torch.Tensor:
        master = parameter.detach().to(torch.float32, copy=True)
        self._pairs.append((parameter, master))
        return master

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the inner optimizer: what a scheduler changes there counts."""
        groups: list[dict[str, Any]] = self.inner.param_groups
        return groups

    @property
    def state(self) -> Any:
        """What the inner optimizer keeps of each master: moments, steps."""
        return self.inner.state

    @torch.no_grad()  # type: ignore[untyped-decorator] # as above
    def step(self, closure: None = None) -> None:
        """Update the masters with the gradients of the parameters, and the parameters with the masters.

        The gradients are gone after it: each makes room for its float32 copy.
        """
        assert closure is None  # noqa: S101 - for the type checker: Trainer computes the loss itself
        for parameter, master in self._pairs:
            master.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        self.inner.step()
        for parameter, master in self._pairs:
            master.grad = None
            parameter.copy_(master)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the parameters."""
        for parameter, _ in self._pairs:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's, and the masters: a training that goes on continues with their last bits."""
        return {**self.inner.state_dict(), _MASTERS: [master for _, master in self._pairs]}

    @torch.no_grad()  # type: ignore[untyped-decorator] # as above
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave: masters, and the inner optimizer's state."""
        rest = {key: value for key, value in state_dict.items() if key != _MASTERS}
        for (_, master), saved in zip(self._pairs, state_dict[_MASTERS], strict=True):
            master.copy_(saved)
        self.inner.load_state_dict(rest)

    def __repr__(self) -> str:
        return f"MasterWeights({self.inner!r})"

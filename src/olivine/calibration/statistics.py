"""Sums over the inputs of linear layers, gathered by hooks while a decoder layer runs."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from olivine import lazy
from olivine.calibration.decoder import is_norm
from olivine.errors import ModelError

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

Kind = Literal["diagonal", "full"]


@dataclass(frozen=True)
class Statistic:
    """What reached the linear layers `names` (weights' names), which all read one input X [n_tokens, n_inputs].

    values: X'X / n_tokens, float32 [n_inputs, n_inputs]; or its diagonal, float32 [n_inputs]. source: the weight of the
    norm that made X, None when X comes from elsewhere. drift: (X0 - X)'X / n_tokens, float32 [n_inputs, n_inputs], for
    the X0 that reaches the same layers of the model as it was; None where that was not run beside it.
    """

    names: tuple[str, ...]
    values: "torch.Tensor"
    source: str | None = None
    drift: "torch.Tensor | None" = None


@dataclass
class Total:
    """X'X of one input, or its diagonal, summed up batch by batch in float32."""

    names: tuple[str, ...]
    kind: Kind
    source: str | None = None
    sums: "torch.Tensor | None" = None
    drift: "torch.Tensor | None" = None
    n_tokens: int = 0

    def add(self, hidden: "torch.Tensor", beside: "torch.Tensor | None" = None) -> None:
        """Add the tokens of one batch, [..., n_inputs]. beside: the same of the model as it was."""
        rows = hidden.reshape(-1, hidden.shape[-1]).float()
        self.n_tokens += rows.shape[0]
        if beside is not None:
            drift = (beside.reshape(rows.shape).float() - rows).T @ rows
            self.drift = drift if self.drift is None else self.drift + drift
        if self.kind == "diagonal":
            # squared in place only where `float` made a copy: a float32 input still belongs to the model
            squares = rows.square_().sum(dim=0) if rows.data_ptr() != hidden.data_ptr() else rows.square().sum(dim=0)
            self.sums = squares if self.sums is None else self.sums + squares
        elif self.sums is None:
            self.sums = rows.T @ rows
        else:
            self.sums.addmm_(rows.T, rows)

    def statistic(self) -> Statistic:
        """The mean over all tokens; raises ModelError when there were none."""
        if self.sums is None:
            raise ModelError(f"no token reached {', '.join(self.names)}")
        drift = None if self.drift is None else self.drift / self.n_tokens
        return Statistic(self.names, self.sums / self.n_tokens, self.source, drift)


@dataclass
class Collector:
    """Hooks on the linear layers of a decoder layer; layers that read the very same tensor share one statistic.

    name: of the decoder layer, "model.layers.0". names: only of these weights; None: of all. Tensors are told apart by
    their identity, so those of a batch are kept until `begin` says that the batch is over. `beside` holds what
    reaches them in the model as it was, by a weight's name, for the batch that comes.
    """

    name: str
    module: Any
    kind: Kind
    names: Collection[str] | None = None
    totals: dict[str, Total] = field(default_factory=dict)
    beside: "Mapping[str, torch.Tensor]" = field(default_factory=dict)
    # by identity of a tensor: the first weight that read it, or the norm that made it; with the tensor itself
    _inputs: dict[int, tuple[str, Any]] = field(default_factory=dict)
    _norms: dict[int, tuple[str, Any]] = field(default_factory=dict)
    _handles: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, module in self.module.named_modules():
            weight = f"{self.name}.{name}.weight"
            if isinstance(module, torch.nn.Linear) and (self.names is None or weight in self.names):
                self._handles.append(module.register_forward_pre_hook(self._count_input(weight)))
            elif is_norm(module):
                self._handles.append(module.register_forward_hook(self._note_norm(weight)))

    def begin(self) -> None:
        """A new batch. The tensors of the last one were kept until now, so that none could take another's identity."""
        self._inputs.clear()
        self._norms.clear()

    def finish(self) -> list[Statistic]:
        """Take the hooks away; gives the statistics in the order in which the layer read their inputs."""
        self.begin()
        for handle in self._handles:
            handle.remove()
        return [total.statistic() for total in self.totals.values()]

    def _count_input(self, name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        def before(_: Any, args: tuple[Any, ...]) -> None:
            hidden = args[0]
            leader = self._inputs.setdefault(id(hidden), (name, hidden))[0]
            if leader != name:
                if name not in self.totals[leader].names:
                    self.totals[leader].names += (name,)
                return
            source = self._norms.get(id(hidden), (None, None))[0]
            self.totals.setdefault(name, Total((name,), self.kind, source)).add(hidden, self.beside.get(name))

        return before

    def _note_norm(self, name: str) -> Callable[[Any, Any, Any], None]:
        def after(_: Any, __: Any, output: Any) -> None:
            self._norms[id(output)] = (name, output)

        return after

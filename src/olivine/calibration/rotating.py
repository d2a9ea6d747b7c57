"""A decoder whose residual stream and values are turned by orthogonal matrices, the model being what it was.

With Q of the residual stream, R of each head's values, and g the weights of the norm before a reader:

    embedding E -> E Q       reads the stream (q, k, v, gate, up, head): W -> W diag(g) Q, and the norm's weights -> 1
    v: rows of a head, W -> R^T W       o: columns of a head, W -> W R       writes the stream (o, down): W -> Q^T W

It holds since an RMS norm keeps its length under Q, and R R^T = 1. A norm that subtracts a mean, and one after a block,
do not commute with Q: such models are refused.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.calibration.decoder import HEAD, decoder_layers, is_norm, norm_offset, skeleton
from olivine.errors import Unsupported
from olivine.models import Model
from olivine.models.tensors import LazyTensor, Weights

if TYPE_CHECKING:
    import torch

    from olivine.kernels.rotation import Rotation
else:
    torch = lazy.module("torch")

TILE = 8192  # rows that are turned at once
_ATTENTION, _MLP = ("q_proj", "k_proj", "v_proj", "qkv_proj"), ("gate_proj", "up_proj", "gate_up_proj")
_WRITERS = ("o_proj", "down_proj")
_BEFORE = {"input_layernorm": _ATTENTION, "post_attention_layernorm": _MLP}  # a norm -> what reads its result
_OF_HEADS = ("q_norm", "k_norm")


@dataclass(frozen=True)
class _Change:
    """What happens to a tensor.

    gain: of the norm before it, float32 [inputs]. reads, writes: whether its inputs, or its outputs, are the stream.
    head_rows: the row from which on outputs are values, turned by head. head_columns: whether its inputs are such.
    """

    gain: "Callable[[], torch.Tensor] | None" = None
    reads: bool = False
    writes: bool = False
    head_rows: int | None = None
    head_columns: bool = False


class Turned:
    """The plan of a rotation: which tensors of the model change, and how. Raises Unsupported, which names the layer."""

    def __init__(self, model: Model, source: Weights, rotation: "Rotation", of_heads: "Rotation") -> None:
        self._source, self._rotation, self._of_heads = source, rotation, of_heads
        self._module = skeleton(model)
        self._decoder, layers, self._prefix = decoder_layers(self._module)
        self._norms: dict[str, float] = {}  # by the name of its weight: what stands for a gain of 1
        self._changes: dict[str, _Change] = {}
        for index, layer in enumerate(layers):
            self._plan_layer(f"{self._prefix}.{index}", layer)
        self._plan_ends()

    @property
    def n_changed(self) -> int:
        """Tensors that are turned."""
        return len(self._changes)

    def weights(self) -> Weights:
        """The tensors of the turned model, computed when read, in the types in which they were stored."""
        tied = {} if HEAD in self._source else {HEAD: replace(self._source[self._embedding], name=HEAD)}
        return {name: self._tensor(name, tensor) for name, tensor in {**self._source, **tied}.items()}

    def _plan_layer(self, name: str, layer: Any) -> None:
        readers: dict[str, str] = {}
        for path, module in layer.named_modules():
            leaf = path.rpartition(".")[2]
            if is_norm(module) and leaf in _BEFORE:
                readers |= dict.fromkeys(_BEFORE[leaf], f"{name}.{path}")
                self._refuse_mean(f"{name}.{path}", module)
                self._norms[f"{name}.{path}.weight"] = 1.0 - norm_offset(module)
            elif (is_norm(module) and leaf not in _OF_HEADS) or not self._is_known(path, module):
                raise Unsupported(f"a model with '{name}.{path}' ({type(module).__name__}) cannot be turned")
        for path, module in layer.named_modules():
            if isinstance(module, torch.nn.Linear):
                self._plan_linear(f"{name}.{path}", module, readers, layer)

    @staticmethod
    def _is_known(path: str, module: Any) -> bool:
        """Whether a module is a linear layer that is known here, or has no weights of its own but those."""
        leaf = path.rpartition(".")[2]
        if isinstance(module, torch.nn.Linear):
            return leaf in (*_ATTENTION, *_MLP, *_WRITERS)
        return is_norm(module) or not any(True for _ in module.parameters(recurse=False))

    def _plan_linear(self, name: str, module: Any, readers: Mapping[str, str], layer: Any) -> None:
        leaf = name.rpartition(".")[2]
        head_rows = self._first_value_row(module, layer) if leaf in ("v_proj", "qkv_proj") else None
        if leaf in _WRITERS:
            change = _Change(writes=True, head_columns=leaf == "o_proj")
        elif leaf in readers:
            change = _Change(gain=self._gain(readers[leaf]), reads=True, head_rows=head_rows)
        else:
            raise Unsupported(f"a model without a norm before '{name}' cannot be turned")
        self._changes[f"{name}.weight"] = change
        if module.bias is not None and (change.writes or head_rows is not None):
            self._changes[f"{name}.bias"] = _Change(writes=change.writes, head_rows=head_rows)

    def _first_value_row(self, module: Any, layer: Any) -> int:
        """The row at which values begin: 0 in a matrix of theirs, behind queries and keys in one of all three."""
        config, head = self._module.config, self._of_heads.size
        n_heads = config.num_attention_heads
        n_pairs = getattr(config, "num_key_value_heads", None) or n_heads
        first: int = int(module.out_features) - n_pairs * head
        if first not in (0, (n_heads + n_pairs) * head):
            raise Unsupported(
                f"{type(layer).__name__} has values of {module.out_features} rows, not {n_pairs} x {head}"
            )
        return first

    def _plan_ends(self) -> None:
        final = [name for name, module in self._decoder.named_children() if is_norm(module)]
        root = self._prefix.rpartition(".")[0]
        embeddings = self._module.get_input_embeddings()
        name = next(path for path, module in self._module.named_modules() if module is embeddings)
        if len(final) != 1 or (self._module.get_output_embeddings() is None):
            raise Unsupported("a model without one norm before its head cannot be turned")
        norm = f"{root}.{final[0]}"
        self._refuse_mean(norm, getattr(self._decoder, final[0]))
        self._norms[f"{norm}.weight"] = 1.0 - norm_offset(getattr(self._decoder, final[0]))
        self._embedding = f"{name}.weight"
        self._changes[self._embedding] = _Change(reads=True)
        self._changes[HEAD] = _Change(gain=self._gain(norm), reads=True)

    @staticmethod
    def _refuse_mean(name: str, norm: Any) -> None:
        if getattr(norm, "bias", None) is not None or "RMS" not in type(norm).__name__:
            raise Unsupported(
                f"'{name}' ({type(norm).__name__}) subtracts a mean, and does not commute with a rotation"
            )

    def _gain(self, norm: str) -> "Callable[[], torch.Tensor]":
        name = f"{norm}.weight"
        return lambda: self._source[name].read().float() + (1.0 - self._norms[name])

    def _tensor(self, name: str, tensor: LazyTensor) -> LazyTensor:
        if name in self._norms:
            ones = torch.full(tensor.shape, self._norms[name])
            return LazyTensor(name, tensor.shape, tensor.dtype, lambda: ones)
        change = self._changes.get(name)
        if change is None:
            return tensor
        return LazyTensor(name, tensor.shape, tensor.dtype, lambda: self._turned(tensor, change))

    def _turned(self, tensor: LazyTensor, change: _Change) -> "torch.Tensor":
        if len(tensor.shape) == 1:  # a bias is a row of what its layer gives
            return self._outputs(tensor.read().float()[None], change)[0]
        if change.reads:
            turned = torch.cat(list(self._tiles(tensor, change)))
            return turned if change.head_rows is None else self._outputs(turned.T, change).T
        weight = tensor.read().float()
        if change.head_columns:
            from olivine.kernels.rotation import turned_heads

            weight = turned_heads(weight, self._of_heads)
        return self._outputs(weight.T, change).T

    def _tiles(self, tensor: LazyTensor, change: _Change) -> "Iterator[torch.Tensor]":
        """The rows of what reads the stream, turned in float32, a few at a time."""
        gain = change.gain() if change.gain is not None else None
        stored = torch.float32 if change.head_rows is not None else getattr(torch, tensor.dtype)
        for start in range(0, tensor.shape[0], TILE):
            rows = tensor.rows(start, min(start + TILE, tensor.shape[0])).float()
            yield self._rotation.turn(rows if gain is None else rows * gain).to(stored)

    def _outputs(self, rows: "torch.Tensor", change: _Change) -> "torch.Tensor":
        """Rows [n, outputs] of what a layer gives, turned: by head from `head_rows` on, or as the stream."""
        if change.writes:
            return self._rotation.turn(rows)
        from olivine.kernels.rotation import turned_heads

        first = change.head_rows or 0
        return torch.cat([rows[:, :first], turned_heads(rows[:, first:], self._of_heads)], dim=1)

"""A decoder layer with LoRA as two steps of autograd, around attention: layers that read one input are one product.

    first   h -> x = norm(h) -> [q, k, v] = x W' + u B' -> norms of heads, rotation
    second  (a, h) -> m = h + a Wo' + .. -> x = norm(m) -> [gate, up] -> act = f(gate) up -> m + act Wd' + ..

What is wide and cheap is computed again in the backward pass instead of being kept: both norms' results (A's gradient
is taken from the stream itself, (du r)' h w), the activation, and what the update adds to a product. Of a token are
kept: the stream twice, the projection's result, attention's result, gate and up; where heads are normed, queries and
keys once more. The adapter's matrices stay PEFT's float32 parameters; products take copies of them in the base's type,
made once for each forward pass of the decoder.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from olivine.kernels import fused_ops, packed_attention
from olivine.kernels.chunk_sizes import HIGHEST_FUSED_RANK
from olivine.kernels.frozen import Frozen, together
from olivine.kernels.fused_types import Rotation, Update
from olivine.kernels.linear4bit import Linear4bit
from olivine.kernels.linear8bit import Linear8bit
from olivine.kernels.lora_linear import LoraLinear

_FROZEN_KINDS = (torch.nn.Linear, Linear4bit, Linear8bit)


@dataclass
class Projection:
    """Linear layers that read one input, with their adapters; all have one rank and one scaling, or no adapter.

    layers: as the model has them. masters: A, B of each adapter in turn, float32. a: [all ranks, in] and b: [out, rank]
    in the base's type, which `refresh` fills; a layer without an adapter has zeros there.
    """

    layers: Sequence[Any]
    frozen: Frozen
    columns: tuple[int, ...]
    n_inputs: int
    masters: tuple[torch.Tensor, ...] = ()
    adapted: tuple[bool, ...] = ()
    scaling: float = 1.0
    a: torch.Tensor | None = None
    b: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        """Of each adapter; 0 without any."""
        return int(self.b.shape[1]) if self.b is not None else 0

    @property
    def offsets(self) -> tuple[int, ...]:
        """The first rank of each layer."""
        return tuple(part * self.rank for part in range(len(self.columns)))

    def copies(self) -> list[torch.Tensor]:
        """The parts of a and b that are copies of the masters, in their order."""
        if self.a is None or self.b is None:
            return []
        pairs = zip(self.a.split(self.rank), self.b.split(self.columns), self.adapted, strict=True)
        return [part for a, b, adapted in pairs if adapted for part in (a, b)]

    def reduced(self, x: torch.Tensor) -> torch.Tensor | None:
        """The reduced inputs u = s x A' [n, all ranks]."""
        if self.a is None:
            return None
        return torch.addmm(x.new_empty(1), x, self.a.t(), beta=0, alpha=self.scaling)

    def update(self, u: torch.Tensor | None) -> Update | None:
        """What is added to the product's result, for those reduced inputs."""
        return None if u is None or self.b is None else Update(u, self.b, self.columns, self.offsets)

    def input_update(self, du: torch.Tensor | None) -> Update | None:
        """What is added to the slope by the inputs: du A."""
        return None if du is None or self.a is None else Update(du, self.a.t(), (self.n_inputs,), (0,))

    def slopes(
        self, g: torch.Tensor, u: torch.Tensor | None, inverse: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """The slopes by the reduced inputs (times s) and by b, for the slope g [n, out]; see `fused_ops.slopes`."""
        update = self.update(u)
        return (None, None, None) if update is None else fused_ops.slopes(g, update, self.scaling, inverse)

    def norm_slope(
        self,
        dx: torch.Tensor,
        du: torch.Tensor | None,
        h: torch.Tensor,
        norm: "Norm",
        inverse: torch.Tensor,
        stream: torch.Tensor | None,
        along: torch.Tensor,
    ) -> torch.Tensor:
        """The slope by the stream before the norm whose result is projected; dx: the base's part of the norm's."""
        return fused_ops.norm_slope(dx, self.input_update(du), h, norm.weight, inverse, stream, along)

    def gradients(self, da: torch.Tensor | None, db: torch.Tensor | None) -> list[torch.Tensor]:
        """The slopes of the masters, in their order."""
        if da is None or db is None:
            return []
        kind = self.masters[0].dtype
        pairs = zip(da.to(kind).split(self.rank), db.to(kind).split(self.columns), self.adapted, strict=True)
        return [part for a, b, adapted in pairs if adapted for part in (a, b)]


@dataclass(frozen=True)
class Norm:
    """A root mean square norm. weight: float32 [width], what the normed values are multiplied by."""

    weight: torch.Tensor
    eps: float


@dataclass(frozen=True)
class Heads:
    """Attention's heads. scaling and window: what the model hands to its attention function."""

    n_queries: int
    n_keys: int
    width: int
    q_norm: Norm | None
    k_norm: Norm | None
    scaling: float | None = None
    window: int | None = None


@dataclass
class Parts:
    """A decoder layer taken apart. gelu: the gate's function, else SiLU."""

    attention: Any
    before: Norm
    qkv: Projection
    heads: Heads
    out: Projection
    after: Norm
    gate_up: Projection
    down: Projection
    gelu: bool

    @property
    def projections(self) -> tuple[Projection, ...]:
        """All four."""
        return self.qkv, self.out, self.gate_up, self.down

    def is_plain(self) -> bool:
        """Whether the adapters are on, and not merged."""
        layers = (layer for projection in self.projections for layer in projection.layers)
        return not any(layer.disable_adapters or layer.merged for layer in layers if isinstance(layer, LoraLinear))


def _slope_of_a(scaled: torch.Tensor | None, stream: torch.Tensor, norm: Norm) -> Any:
    """The slope of A behind a norm, du' x, from the stream: x = h r w, so it is (du r)' h, times w; scaled: du r."""
    return None if scaled is None else (scaled.t() @ stream) * norm.weight


class _First(torch.autograd.Function):  # type: ignore[misc] # torch is not read by the type checker
    """Norm, projection, heads' norms and rotation; h goes through, so that one kernel adds up both of its slopes."""

    @staticmethod
    def forward(
        ctx: Any, h: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, parts: Parts, *_: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        projection, heads = parts.qkv, parts.heads
        _, x, inverse, eight = fused_ops.norm(
            h, None, None, parts.before.weight, parts.before.eps, codes=projection.frozen.in_eight_bits
        )
        qkv = projection.frozen.forward(x, eight)
        u = projection.reduced(x)
        rotation = _rotation(heads, cos, sin)
        turned = fused_ops.rotate(qkv, projection.update(u), rotation)
        n_turned = (heads.n_queries + heads.n_keys) * heads.width
        ctx.parts = parts
        ctx.save_for_backward(h, inverse, u, cos, sin, qkv)  # attention keeps views of it in any case
        queries, keys = turned[:, :n_turned].split([heads.n_queries * heads.width, heads.n_keys * heads.width], dim=1)
        q, k, v = (part.unflatten(1, (-1, heads.width)).transpose(0, 1) for part in (queries, keys, qkv[:, n_turned:]))
        return q, k, v, h

    @staticmethod
    def backward(
        ctx: Any, dq: torch.Tensor, dk: torch.Tensor, dv: torch.Tensor, stream: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        h, inverse, u, cos, sin, qkv = ctx.saved_tensors
        parts, projection = ctx.parts, ctx.parts.qkv
        rotation = _rotation(parts.heads, cos, sin)
        bias = projection.frozen.bias
        dqkv, along = fused_ops.rotate_slope((dq, dk, dv), qkv, projection.update(u), bias, rotation)
        du, db, scaled = projection.slopes(dqkv, u, inverse)
        da = _slope_of_a(scaled, h, parts.before)
        dh = None
        if ctx.needs_input_grad[0]:
            dx = projection.frozen.backward(dqkv)
            dh = projection.norm_slope(dx, du, h, parts.before, inverse, stream, along)
        return dh, None, None, None, *projection.gradients(da, db)


def _rotation(heads: Heads, cos: torch.Tensor, sin: torch.Tensor) -> Rotation:
    sizes = (heads.n_queries, heads.n_keys, heads.width)
    if heads.q_norm is None or heads.k_norm is None:
        return Rotation(cos, sin, *sizes)
    return Rotation(cos, sin, *sizes, heads.q_norm.weight, heads.k_norm.weight, heads.q_norm.eps)


class _Second(torch.autograd.Function):  # type: ignore[misc] # as above
    """Attention's output projection, the stream, norm, gated MLP, and the stream again as [1, n, hidden]."""

    @staticmethod
    def forward(
        ctx: Any, a: torch.Tensor, h: torch.Tensor, parts: Parts, wants_result: bool, *_: torch.Tensor
    ) -> torch.Tensor:
        out, gate_up, down = parts.out, parts.gate_up, parts.down
        uo = out.reduced(a)
        middle, x, inverse, eight = fused_ops.norm(
            h,
            out.frozen.forward(a),
            out.update(uo),
            parts.after.weight,
            parts.after.eps,
            codes=gate_up.frozen.in_eight_bits,
        )
        gu = gate_up.frozen.forward(x, eight)
        ug = gate_up.reduced(x)
        act = fused_ops.gate(gu, gate_up.update(ug), gelu=parts.gelu)
        ud = down.reduced(act)
        result = fused_ops.add(down.frozen.forward(act), down.update(ud), middle) if wants_result else _unread(middle)
        ctx.parts = parts
        ctx.save_for_backward(a, uo, middle, inverse, gu, ug, ud)
        return result[None]

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        a, uo, middle, inverse, gu, ug, ud = ctx.saved_tensors
        parts, out, gate_up, down = ctx.parts, ctx.parts.out, ctx.parts.gate_up, ctx.parts.down
        g = g.squeeze(0).contiguous()
        dud, dbd, _ = down.slopes(g, ud)
        dgu, along, dad = fused_ops.gate_slope(
            gu,
            gate_up.update(ug),
            down.frozen.backward(g),
            down.input_update(dud),
            gate_up.frozen.bias,
            gelu=parts.gelu,
        )
        dug, dbg, scaled = gate_up.slopes(dgu, ug, inverse)
        dag = _slope_of_a(scaled, middle, parts.after)
        dx = gate_up.frozen.backward(dgu)
        del dgu
        dh = gate_up.norm_slope(dx, dug, middle, parts.after, inverse, g, along)
        duo, dbo, _ = out.slopes(dh, uo)
        dao = None if duo is None else duo.t() @ a
        attended = fused_ops.add(out.frozen.backward(dh), out.input_update(duo))
        gradients = (*out.gradients(dao, dbo), *gate_up.gradients(dag, dbg), *down.gradients(dad, dbd))
        return attended, dh, None, None, *gradients


def _unread(like: torch.Tensor) -> torch.Tensor:
    """Zeros of that shape, in the memory of one."""
    return like.new_zeros(1, 1).expand_as(like)


def run(
    parts: Parts,
    hidden: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    wants_result: bool = True,
    **segments: Any,
) -> torch.Tensor:
    """The layer's output [1, n, hidden] for a packed row; cos, sin: [1, n, rotated]; segments: see packed_attention.

    wants_result: whether somebody reads the output, or only what is kept for the backward pass is computed again.
    """
    heads, attention = parts.heads, parts.attention
    queries, keys, values, h = _First.apply(
        hidden.squeeze(0).contiguous(), _half(cos), _half(sin), parts, *parts.qkv.masters
    )
    dropout = getattr(attention, "attention_dropout", 0.0) if attention.training else 0.0
    attended, _ = packed_attention.attend(
        attention,
        queries[None],
        keys[None],
        values[None],
        None,
        dropout=dropout,
        scaling=heads.scaling,
        sliding_window=heads.window,
        **segments,
    )
    masters = (*parts.out.masters, *parts.gate_up.masters, *parts.down.masters)
    result: torch.Tensor = _Second.apply(attended.squeeze(0).flatten(1).contiguous(), h, parts, wants_result, *masters)
    return result


def _half(angles: torch.Tensor) -> torch.Tensor:
    """Cosines or sines [1, n, rotated] of the first half of the features; the second half turns with it."""
    return angles.squeeze(0)[:, : angles.shape[-1] // 2].contiguous()


_SEGMENTS = ("cu_seq_lens_q", "max_length_q", "segment_lengths", "segment_length")


def _forward_of(layer_class: type) -> Callable[..., Any]:
    def forward(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the layer gives; anything but a packed row without a cache goes to its own."""
        fused: FusedLayers = self.fused_layers
        if fused.replays(self, hidden_states, kwargs):
            return fused.replay(hidden_states, kwargs) if self is fused.layers[0] else hidden_states
        if args or not _is_packed_row(hidden_states, kwargs) or not self.fused_parts.is_plain():
            return layer_class.forward(self, hidden_states, *args, **kwargs)  # type: ignore[attr-defined] # a layer's
        cos, sin = kwargs["position_embeddings"]
        segments = {name: kwargs[name] for name in _SEGMENTS if name in kwargs}
        return run(self.fused_parts, hidden_states, cos, sin, wants_result=not _computes_again(self), **segments)

    return forward


def _is_packed_row(hidden: torch.Tensor, more: dict[str, Any]) -> bool:
    foreign = any(more.get(name) is not None for name in ("attention_mask", "past_key_values"))
    return hidden.shape[0] == 1 and more.get("position_embeddings") is not None and not foreign


def _computes_again(layer: Any) -> bool:
    """Whether this forward pass is a checkpointed layer's second one, inside of the backward pass.

    Each layer is checkpointed by itself: nobody reads the second result, and its last product is a tenth of a step.
    """
    within_backward = torch._C._current_graph_task_id() != -1  # noqa: SLF001 - torch has no public name for it
    return bool(layer.gradient_checkpointing and within_backward)


_CLASSES: dict[type, type] = {}


def _fused_class(layer_class: type) -> type:
    """The layer's class with our forward; transformers' own hooks (recomputing, devices) stay those of the layer."""
    if layer_class not in _CLASSES:
        body = {"forward": _forward_of(layer_class), "__module__": __name__, "fuses": layer_class}
        _CLASSES[layer_class] = type(f"Fused{layer_class.__name__}", (layer_class,), body)
    return _CLASSES[layer_class]


@dataclass(frozen=True)
class Recorded:
    """All layers as one CUDA graph in each direction. n_tokens, n_bounds, longest: of the rows that it takes.

    length: of each segment, where all of them have one; None for any lengths.
    """

    call: Callable[..., torch.Tensor]
    n_tokens: int
    n_bounds: int
    longest: int
    length: int | None

    def takes(self, layer: Any, hidden: torch.Tensor, more: dict[str, Any]) -> bool:
        """Whether a forward pass has the recorded form, and a backward pass after it."""
        bounds = more.get("cu_seq_lens_q")
        if bounds is None or not layer.training or not torch.is_grad_enabled():
            return False
        is_alike = (*hidden.shape[:2], len(bounds)) == (1, self.n_tokens, self.n_bounds)
        if self.length is not None and more.get("segment_length") != self.length:
            return False
        return bool(is_alike and more["max_length_q"] <= self.longest)


@dataclass
class FusedLayers:
    """The decoder layers of a model that were put together, and the copies of their adapters.

    recorded: a CUDA graph of them, for rows that are bound by launches. Its first layer runs all of it, and the others
    hand on what they are given.
    """

    layers: list[Any]
    masters: list[torch.Tensor] = field(default_factory=list)
    copies: list[torch.Tensor] = field(default_factory=list)
    recorded: Recorded | None = None
    _replaying: bool = False

    @torch.no_grad()  # type: ignore[untyped-decorator] # as above
    def refresh(self, *_: Any) -> None:
        """Copy the adapters' matrices, in the base's type."""
        if self.masters:
            torch._foreach_copy_(self.copies, self.masters)

    def give_up(self) -> None:
        """Let the layers run as they are written; their frozen weights stay where they are."""
        for layer in self.layers:
            layer.__class__ = type(layer).fuses
            del layer.fused_parts, layer.fused_layers

    def record(
        self,
        hidden: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        bounds: torch.Tensor,
        longest: int,
        length: int | None = None,
    ) -> None:
        """Record a CUDA graph of both directions for rows such as these; the gradients lie in the graph's memory.

        A step must have one micro-batch then: the next replay writes over its gradients. length: see Recorded.
        """

        def whole(hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, bounds: torch.Tensor, *_: Any) -> Any:
            for layer in self.layers:
                segments = {"cu_seq_lens_q": bounds, "max_length_q": longest, "segment_length": length}
                hidden = run(layer.fused_parts, hidden, cos, sin, **segments)
            return hidden

        self.refresh()
        call = torch.cuda.make_graphed_callables(whole, (hidden, *angles, bounds, *self.masters))
        self.recorded = Recorded(call, hidden.shape[1], len(bounds), longest, length)

    def replays(self, layer: Any, hidden: torch.Tensor, more: dict[str, Any]) -> bool:
        """Whether this forward pass is a replay; the first layer decides for all."""
        if layer is self.layers[0]:
            self._replaying = self.recorded is not None and self.recorded.takes(layer, hidden, more)
        return self._replaying

    def replay(self, hidden: torch.Tensor, more: dict[str, Any]) -> torch.Tensor:
        """The output of the last layer."""
        assert self.recorded is not None  # noqa: S101 - `replays` has seen to it
        cos, sin = more["position_embeddings"]
        return self.recorded.call(hidden, cos, sin, more["cu_seq_lens_q"], *self.masters)


def take_over(
    model: Any, layers: Sequence[Any], attention: dict[Any, tuple[float | None, int | None]]
) -> FusedLayers | None:
    """Let the decoder's layers compute as `run` does, in place; None when one of them is of another kind.

    layers: all of them, adapted, with LoraLinear in the place of PEFT's layers. attention: the scaling and the window
    of each attention module. model: the decoder, before whose forward pass the adapters are copied. A layer that lies
    in parts on several devices (FSDP2) gathers its weights as before, in hooks of its own.
    """
    taken = []
    for layer in layers:
        with _gathered(layer):
            taken.append(_taken_apart(layer, attention))
    if not taken or any(description is None for description in taken):
        return None
    fused = FusedLayers(list(layers))
    for layer, description in zip(layers, taken, strict=True):
        assert description is not None  # noqa: S101 - for the type checker
        parts = description.joined()
        layer.__class__ = _fused_class(type(layer))
        layer.fused_parts, layer.fused_layers = parts, fused
        for projection in parts.projections:
            fused.masters += projection.masters
            fused.copies += projection.copies()
    model.register_forward_pre_hook(fused.refresh)
    return fused


@contextmanager
def _gathered(layer: Any) -> Iterator[None]:
    """Let a layer that lies in parts have its weights for a moment; all ranks look at their layers in one order."""
    if not hasattr(layer, "unshard"):
        yield
        return
    layer.unshard()
    try:
        yield
    finally:
        layer.reshard()


@dataclass(frozen=True)
class _Description:
    """A layer that can be put together; nothing is changed before `joined`."""

    layer: Any
    attention: Any
    groups: tuple[tuple[Any, ...], ...]
    heads: Heads
    before: Norm
    after: Norm
    gelu: bool

    def joined(self) -> Parts:
        gathered = hasattr(self.layer, "unshard")
        qkv, out, gate_up, down = (_projection(group, gathered=gathered) for group in self.groups)
        return Parts(self.attention, self.before, qkv, self.heads, out, self.after, gate_up, down, self.gelu)


def _taken_apart(layer: Any, seen: dict[Any, tuple[float | None, int | None]]) -> _Description | None:
    """The layer's parts, when they are those of Llama's decoder: two norms, attention with rotation, a gated MLP."""
    attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    groups = [
        _members(attention, ("q_proj", "k_proj", "v_proj"), "qkv_proj"),
        _members(attention, ("o_proj",)),
        _members(mlp, ("gate_proj", "up_proj"), "gate_up_proj"),
        _members(mlp, ("down_proj",)),
    ]
    gelu = _is_gelu(getattr(mlp, "act_fn", None) or getattr(mlp, "activation_fn", None))
    if attention not in seen or gelu is None or not all(groups) or not all(map(_go_together, groups)):
        return None
    norms = [getattr(layer, "input_layernorm", None), getattr(layer, "post_attention_layernorm", None)]
    head_norms = [getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)]
    known = {id(module) for group in groups for module in group} | {id(norm) for norm in [*norms, *head_norms]}
    heads = _heads(attention, groups[0], head_norms, seen[attention])
    before, after = (_norm(norm, groups[0][0].in_features) for norm in norms)
    if heads is None or before is None or after is None or _has_more(layer, known):
        return None
    return _Description(layer, attention, tuple(groups), heads, before, after, gelu)


def _members(owner: Any, names: tuple[str, ...], whole: str = "") -> tuple[Any, ...]:
    """The linear layers of those names, or the one that is already put together."""
    if whole and hasattr(owner, whole):
        return (getattr(owner, whole),)
    found = tuple(getattr(owner, name, None) for name in names)
    return () if any(module is None for module in found) else found


def _base(layer: Any) -> Any:
    return layer.base_layer if isinstance(layer, LoraLinear) else layer


def _go_together(layers: Sequence[Any]) -> bool:
    """Whether the layers are frozen, of one kind, and their adapters plain, of one rank and scaling."""
    bases = [_base(layer) for layer in layers]
    if len({type(base) for base in bases}) != 1 or type(bases[0]) not in _FROZEN_KINDS:
        return False
    if any(parameter.requires_grad for base in bases for parameter in base.parameters()):
        return False
    adapted = [layer for layer in layers if isinstance(layer, LoraLinear)]
    if not all(map(_has_plain_adapter, adapted)):
        return False
    return len({(_matrices(layer)[0].shape[0], _scaling(layer)) for layer in adapted}) <= 1


def _has_plain_adapter(layer: LoraLinear) -> bool:
    """Whether one adapter is on, without dropout, of a rank that the kernels take."""
    active = layer.active_adapters
    if len(active) != 1 or active[0] not in layer.lora_A or layer.disable_adapters or layer.merged:
        return False
    drops = not isinstance(layer.lora_dropout[active[0]], torch.nn.Identity)
    return not drops and layer.lora_A[active[0]].weight.shape[0] <= HIGHEST_FUSED_RANK


def _matrices(layer: LoraLinear) -> tuple[torch.Tensor, torch.Tensor]:
    name = layer.active_adapters[0]
    return layer.lora_A[name].weight, layer.lora_B[name].weight


def _scaling(layer: LoraLinear) -> float:
    return float(layer.scaling[layer.active_adapters[0]])


def _projection(layers: Sequence[Any], *, gathered: bool) -> Projection:
    bases = [_base(layer) for layer in layers]
    frozen = together(bases, gathered=gathered)
    assert frozen is not None  # noqa: S101 - `_go_together` has seen to it
    columns, n_inputs = tuple(base.out_features for base in bases), bases[0].in_features
    adapted = tuple(isinstance(layer, LoraLinear) for layer in layers)
    if not any(adapted):
        return Projection(layers, frozen, columns, n_inputs, adapted=adapted)
    pairs = [_matrices(layer) for layer in layers if isinstance(layer, LoraLinear)]
    rank, dtype = pairs[0][0].shape[0], bases[0].weight.dtype
    return Projection(
        layers,
        frozen,
        columns,
        n_inputs,
        masters=tuple(matrix for pair in pairs for matrix in pair),
        adapted=adapted,
        scaling=next(_scaling(layer) for layer in layers if isinstance(layer, LoraLinear)),
        a=pairs[0][0].new_zeros(len(layers) * rank, n_inputs, dtype=dtype).detach(),
        b=pairs[0][0].new_zeros(sum(columns), rank, dtype=dtype).detach(),
    )


@torch.no_grad()  # type: ignore[untyped-decorator] # as above
def _norm(module: Any, width: int) -> Norm | None:
    """A norm as numbers: what it makes of ones is its weight, whether that is stored as w or as w - 1."""
    weight, eps = getattr(module, "weight", None), _eps(module)
    if weight is None or eps is None or weight.shape != (width,) or weight.requires_grad:
        return None
    ones = torch.ones(1, width, dtype=torch.float32, device=weight.device)
    return Norm((module(ones)[0].float() * math.sqrt(1 + eps)).contiguous(), eps)


def _eps(module: Any) -> float | None:
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return float(eps) if isinstance(eps, float) else None


def _heads(
    attention: Any, projections: Sequence[Any], norms: Sequence[Any], seen: tuple[float | None, int | None]
) -> Heads | None:
    """The heads' numbers, when the projection's features are theirs and both or none of their norms are there."""
    width, config = getattr(attention, "head_dim", None), getattr(attention, "config", None)
    n_queries = getattr(config, "num_attention_heads", 0)
    n_keys = getattr(config, "num_key_value_heads", None) or n_queries
    if not isinstance(width, int) or not n_queries:
        return None
    if sum(_base(layer).out_features for layer in projections) != (n_queries + 2 * n_keys) * width:
        return None
    if norms[0] is None and norms[1] is None:
        return Heads(n_queries, n_keys, width, None, None, *seen)
    q_norm, k_norm = (_norm(norm, width) for norm in norms)
    if q_norm is None or k_norm is None or q_norm.eps != k_norm.eps:
        return None
    return Heads(n_queries, n_keys, width, q_norm, k_norm, *seen)


def _is_gelu(activation: Any) -> bool | None:
    """Whether the gate's function is GELU (tanh); False for SiLU, None for another. It is asked, not read."""
    if not callable(activation):
        return None
    points = torch.linspace(-4, 4, 33)
    for gelu, function in ((False, torch.nn.functional.silu), (True, _gelu_tanh)):
        if torch.allclose(activation(points), function(points), atol=1e-6):
            return gelu
    return None


def _gelu_tanh(z: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(z, approximate="tanh")


def _has_more(layer: Any, known: Iterable[int]) -> bool:
    """Whether the layer holds parameters, or dropout, beside the parts that we know."""
    known = set(known)
    waiting = [layer]
    while waiting:
        module = waiting.pop()
        if id(module) in known:
            continue
        if module._parameters or getattr(module, "p", 0):  # noqa: SLF001 - its own, not those of what is inside
            return True
        waiting += module.children()
    return False

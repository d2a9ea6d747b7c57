"""A PEFT adapter: checked against its base by names and shapes, and merged into it tensor by tensor (see _deltas)."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from olivine import lazy
from olivine.errors import ModelError, OlivineError
from olivine.models._deltas import FILE, HEAD, Delta, deltas, embedding_of, read_config, source_of
from olivine.models._model import Model
from olivine.models._updates import LowRank, Sum
from olivine.models.nf4 import Rounding, rounded_weights
from olivine.models.weights import LazyTensor, Weights, file_weights, weights

__all__ = [
    "BASE_FILE",
    "ROUNDING",
    "START_FILE",
    "deltas",
    "has_fused_layers",
    "merged_weights",
    "read_config",
    "refuse_if_nothing_changes",
    "rounding_of",
    "trained_base",
    "unties",
]

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

# attribute of an adapter's record: how training kept the base (see nf4.Rounding)
ROUNDING = "base_rounding"
# Beside an adapter that was trained on a 4-bit base: the same record as JSON, for those who have the folder alone.
BASE_FILE = "trained_base.json"
# Beside an adapter that did not start at zero on a 4-bit base (LoftQ). By module: start_a, start_b are its factors
# before the first step, shift_a, shift_b (where they are) what was taken from the weight before it went into 4 bits.
START_FILE = "adapter_start.safetensors"


def refuse_if_nothing_changes(adapter: Model, base: Weights) -> None:
    """Raise ModelError unless at least one tensor of the base becomes another in its own type.

    Reads the adapter, and of the base the tensors that the adapter replaces and then one after the other until the
    first that changes: a good adapter changes the first of them.
    """
    changes = deltas(adapter, base)
    for name, tensor in file_weights(adapter.path / FILE).items():
        if not torch.isfinite(tensor.read()).all():
            raise ModelError(f"the adapter {adapter.path} holds values that are no numbers (NaN or infinite): '{name}'")
    if not any(_changes(delta, source_of(delta.target, base)) for delta in changes.values()):
        raise ModelError(f"the adapter {adapter.path} changes nothing: every one of its {len(changes)} updates is zero")
    if rounding_of(adapter) is not None:  # the base that it goes into is another one already
        return
    sources = ((delta, source_of(delta.target, base)) for delta in changes.values())
    if not any(_differs(delta, source) for delta, source in sources):
        kind = source_of(next(iter(changes)), base).dtype
        raise OlivineError(
            f"the merge changes no weight in its type: the updates of {adapter.path} are too small for {kind}; train "
            "longer or with a higher learning rate (and look at warmup_steps)"
        )


def _differs(delta: Delta, source: LazyTensor) -> bool:
    before = source.read()
    return not torch.equal(apply(delta, replace(source, read=lambda: before, read_rows=None)), before)


def _changes(delta: Delta, source: LazyTensor) -> bool:
    if delta.parts:
        return any(_changes(part, _stretch(source, start, stop)) for start, stop, part in delta.parts)
    if delta.update is not None and not delta.update.is_zero():
        return True
    if delta.replacement is None:
        return False
    before = source.read() if delta.rows is None else source.read()[list(delta.rows)]
    return not torch.equal(delta.replacement.read().float(), before.float())


def _stretch(tensor: LazyTensor, start: int, stop: int) -> LazyTensor:
    """Some of the rows of a tensor."""
    shape = (stop - start, *tensor.shape[1:])
    return replace(tensor, shape=shape, read=lambda: tensor.rows(start, stop), read_rows=None, blockwise=None)


def rounding_of(adapter: Model) -> Rounding | None:
    """How the base was stored while the adapter was trained; None when it was as it lies on disk."""
    record = adapter.attributes.get(ROUNDING)
    path = adapter.path / BASE_FILE
    if record is None and path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
    return Rounding.from_json(record) if record else None


def trained_base(adapter: Model) -> Weights:
    """The tensors that the adapter was trained on: its base's, through 4 bits where training kept them so (QLoRA)."""
    if adapter.base is None:
        raise ModelError(f"the adapter {adapter.path} has no base model")
    base = weights(adapter.base)
    rounding = rounding_of(adapter)
    return rounded_weights(base, rounding, _kept(adapter, "shift")) if rounding else base


def _kept(adapter: Model, which: str) -> dict[str, LowRank]:
    """Products that training left beside the adapter, by the base's tensor names; which: "start" or "shift"."""
    path = adapter.path / START_FILE
    tensors = file_weights(path) if path.is_file() else {}
    end = f".{which}_a"
    modules = [name.removesuffix(end) for name in tensors if name.endswith(end)]
    return {f"{m}.weight": LowRank(tensors[f"{m}.{which}_a"], tensors[f"{m}.{which}_b"]) for m in modules}


def has_fused_layers(adapter: Model) -> bool:
    """Whether the base has layers fused that the adapter has by themselves: then PEFT cannot put it on."""
    return adapter.base is not None and any(delta.parts for delta in deltas(adapter, weights(adapter.base)).values())


def merged_weights(adapter: Model, *, into_trained_base: bool = True) -> Weights:
    """The base's tensors with the adapter's updates, computed in float32 and stored in the base's type.

    into_trained_base: false merges into the base as it is on disk even when training saw it in 4 bits.

    A head that shares its embedding in the base, and no longer does once one of them was trained, is among them.
    """
    if adapter.base is None:
        raise ModelError(f"the adapter {adapter.path} has no base model to merge into")
    base = trained_base(adapter) if into_trained_base else weights(adapter.base)
    changes = deltas(adapter, base)
    if not into_trained_base:
        changes |= _since_the_start(adapter, changes)
    merged = {name: _merged(tensor, changes.get(name), name) for name, tensor in base.items()}
    embedding = embedding_of(base)
    if embedding and HEAD not in base and _parts_head(changes, embedding):
        merged[HEAD] = _merged(base[embedding], changes.get(HEAD), HEAD)
    return merged


def unties(adapter: Model, base: Weights, *, tied: bool) -> bool:
    """Whether the merged model's head is no longer its embedding: one of the two was trained, or both apart.

    PEFT trains the one and leaves the other as it was; only with `ensure_weight_tying` do both stay the same.
    """
    if not tied or read_config(adapter.path).get("ensure_weight_tying"):
        return False
    return _parts_head(deltas(adapter, base), embedding_of(base))


def _parts_head(changes: Mapping[str, Delta], embedding: str | None) -> bool:
    """Whether a head and its embedding differ after the changes; PEFT trains single tokens of both at once."""
    return any(changes[name].rows is None for name in (HEAD, embedding) if name is not None and name in changes)


def _since_the_start(adapter: Model, changes: Mapping[str, Delta]) -> dict[str, Delta]:
    """The changes without what the adapter held before its first step: that made up for the 4 bits of its base."""
    return {
        name: replace(changes[name], update=Sum([update, replace(start, scale=-start.scale)]))
        for name, start in _kept(adapter, "start").items()
        if name in changes and (update := changes[name].update) is not None
    }


def _merged(tensor: LazyTensor, delta: Delta | None, name: str) -> LazyTensor:
    if delta is None:
        return replace(tensor, name=name)
    return LazyTensor(name, tensor.shape, tensor.dtype, lambda: apply(delta, tensor))


def apply(delta: Delta, tensor: LazyTensor) -> "torch.Tensor":
    """The updated tensor, in the type of the base; OlivineError, with its name, when it is no longer all numbers."""
    if delta.parts:
        weight = tensor.read().clone()
        for start, stop, part in delta.parts:
            weight[start:stop] = _applied(part, _stretch(tensor, start, stop))
    else:
        weight = _applied(delta, tensor)
    if not torch.isfinite(weight).all():
        raise OlivineError(
            f"merged, '{delta.target}' holds values that are infinite or no numbers in {tensor.dtype}: the update is "
            "too large for that type; lower lora_alpha or the learning rate, or start from the base in bfloat16"
        )
    return weight


def _applied(delta: Delta, tensor: LazyTensor) -> "torch.Tensor":
    dtype = getattr(torch, tensor.dtype)
    if delta.rows is not None and delta.replacement is not None:
        weight = tensor.read().clone()
        weight[list(delta.rows)] = delta.replacement.read().to(dtype)
        return weight
    if delta.replacement is not None and delta.update is None:
        return delta.replacement.read().to(dtype)
    weight = (delta.replacement or tensor).read().to(torch.float32, copy=True)
    if delta.update is not None:
        update = delta.update.read()
        weight += update.T if delta.is_embedding or delta.is_transposed else update
    if delta.magnitude is not None:
        # DoRA: the direction of W + sBA, each output scaled to its trained magnitude
        dim = 0 if delta.is_transposed or delta.is_embedding else 1
        norm = weight.norm(p=2, dim=dim, keepdim=True)
        weight *= delta.magnitude.read().float().reshape(norm.shape) / norm
    return weight.to(dtype)

"""A PEFT adapter: checked against its base by names and shapes, and merged into it tensor by tensor (see _deltas)."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from olivine import lazy
from olivine.errors import ModelError, OlivineError
from olivine.models._deltas import CONFIG, FILE, HEAD, Delta, deltas, embedding_of, n_tokens, read_config, source_of
from olivine.models._model import Model
from olivine.models._updates import LowRank, Sum
from olivine.models.adapter_files import BASE_FILE, ROUNDING, START_FILE
from olivine.models.json_files import is_file, read_object
from olivine.models.nf4 import Rounding, rounded_weights
from olivine.models.tensors import LazyTensor, Weights, file_weights

__all__ = [
    "check",
    "deltas",
    "has_fused_layers",
    "merged_weights",
    "n_tokens_of",
    "name_base",
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


def check(adapter: Model, base: Weights | None) -> None:
    """Raise ModelError or Unsupported for an adapter that does not fit its base, from the headers of both alone.

    base: the base's tensors; None where they are not known, then only the adapter's config is checked.
    """
    read_config(adapter.path)
    if base is None:
        return
    n_rows = n_tokens_of(adapter, base)
    n_known = _tokenizer_size(adapter.path)
    if n_rows is not None and n_known > n_rows:
        raise ModelError(
            f"the tokenizer beside the adapter {adapter.path} has {n_known} tokens, but the model {n_rows} and the "
            "adapter brings no embedding for the others: save it with PEFT's save_embedding_layers=True"
        )


def _tokenizer_size(folder: Path) -> int:
    """One more than the largest number of a token in the folder's tokenizer.json; 0 when it has none."""
    path = folder / "tokenizer.json"
    if not is_file(path):
        return 0
    tokenizer = read_object(path)
    try:
        model = tokenizer.get("model") or {}
        vocabulary = model.get("vocab") or {}
        numbers = vocabulary.values() if isinstance(vocabulary, dict) else (len(vocabulary) - 1,)
        added = [token["id"] for token in tokenizer.get("added_tokens") or ()]
        return 1 + max((*numbers, *added), default=-1)
    except (AttributeError, KeyError, TypeError):
        raise ModelError(f"{path} is damaged: it does not describe a tokenizer") from None


def name_base(folder: Path, base: str, revision: str | None) -> None:
    """Let adapter_config.json name its base, a repository of the hub or a folder, for PEFT's Auto classes."""
    path = folder / CONFIG
    config = read_object(path) | {"base_model_name_or_path": base, "revision": revision}
    path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


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
    before = delta.copy or source
    if before.shape != source.shape:  # tokens were added
        return True
    values = delta.replacement or delta.copy
    if values is None:
        return False
    rows = slice(None) if delta.rows is None else list(delta.rows)
    return not torch.equal(values.read().float(), (source if delta.rows is None else before).read()[rows].float())


def _stretch(tensor: LazyTensor, start: int, stop: int) -> LazyTensor:
    """Some of the rows of a tensor."""
    shape = (stop - start, *tensor.shape[1:])
    return replace(tensor, shape=shape, read=lambda: tensor.rows(start, stop), read_rows=None, blockwise=None)


def rounding_of(adapter: Model) -> Rounding | None:
    """How the base was stored while the adapter was trained; None when it was as it lies on disk."""
    record = adapter.attributes.get(ROUNDING)
    path = adapter.path / BASE_FILE
    if record is None and path.is_file():
        record = read_object(path)
    return Rounding.from_json(record) if record else None


def trained_base(adapter: Model, base: Weights) -> Weights:
    """The tensors that the adapter was trained on: its base's, through 4 bits where training kept them so (QLoRA)."""
    rounding = rounding_of(adapter)
    return rounded_weights(base, rounding, _kept(adapter, "shift")) if rounding else base


def _kept(adapter: Model, which: str) -> dict[str, LowRank]:
    """Products that training left beside the adapter, by the base's tensor names; which: "start" or "shift"."""
    path = adapter.path / START_FILE
    tensors = file_weights(path) if path.is_file() else {}
    end = f".{which}_a"
    modules = [name.removesuffix(end) for name in tensors if name.endswith(end)]
    return {f"{m}.weight": LowRank(tensors[f"{m}.{which}_a"], tensors[f"{m}.{which}_b"]) for m in modules}


def has_fused_layers(adapter: Model, base: Weights) -> bool:
    """Whether the base has layers fused that the adapter has by themselves: then PEFT cannot put it on."""
    return any(delta.parts for delta in deltas(adapter, base).values())


def merged_weights(adapter: Model, base: Weights, *, into_trained_base: bool = True) -> Weights:
    """The base's tensors with the adapter's updates, computed in float32 and stored in the base's type.

    base: as it lies on disk. into_trained_base: false merges into that even when training saw it in 4 bits.

    A head that shares its embedding in the base, and no longer does once one of them was trained, is among them. The
    embedding and the head have as many rows as the adapter's own.
    """
    base = trained_base(adapter, base) if into_trained_base else base
    changes = deltas(adapter, base)
    if not into_trained_base:
        changes |= _since_the_start(adapter, changes)
    embedding = embedding_of(base)
    shared = _shared(changes, base, embedding) if embedding and HEAD not in base else None
    sources = {**base, embedding: shared} if embedding and shared else base
    merged = {name: _merged(tensor, changes.get(name), name) for name, tensor in sources.items()}
    if shared and _parts_head(changes, embedding):
        merged[HEAD] = _merged(shared, changes.get(HEAD), HEAD)
    return merged


def n_tokens_of(adapter: Model, base: Weights) -> int | None:
    """Rows of the embedding with the adapter on; None when the base names its embedding in another way."""
    return n_tokens(deltas(adapter, base), base)


def _shared(changes: Mapping[str, Delta], base: Weights, embedding: str) -> LazyTensor:
    """What embedding and head of a tied base are before the change: the adapter's copy, which may have more tokens."""
    source = base[embedding]
    copies = (changes[name].copy for name in (embedding, HEAD) if name in changes)
    copy = next((copy for copy in copies if copy is not None), None)
    if copy is None or copy.shape == source.shape:
        return source
    dtype = getattr(torch, source.dtype)
    return LazyTensor(embedding, copy.shape, source.dtype, lambda: copy.read().to(dtype))


def unties(adapter: Model, base: Weights, *, tied: bool) -> bool:
    """Whether the merged model's head is no longer its embedding: one of the two was trained, or both apart.

    PEFT trains the one and leaves the other as it was; only with `ensure_weight_tying` do both stay the same.
    """
    if not tied or read_config(adapter.path).get("ensure_weight_tying"):
        return False
    return _parts_head(deltas(adapter, base), embedding_of(base))


def _parts_head(changes: Mapping[str, Delta], embedding: str | None) -> bool:
    """Whether a head and its embedding differ after the changes; PEFT trains single tokens of both at once."""
    both = [changes[name] for name in (HEAD, embedding) if name is not None and name in changes]
    return any(delta.rows is None and not delta.is_shared for delta in both)


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
    shape = tensor.shape if delta.whole is None else delta.whole.shape
    return LazyTensor(name, shape, tensor.dtype, lambda: apply(delta, tensor))


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
    source = delta.copy or tensor
    if delta.rows is not None and delta.replacement is not None:
        weight = source.read().to(dtype, copy=True)
        weight[list(delta.rows)] = delta.replacement.read().to(dtype)
        return weight
    if delta.update is None:
        return (delta.replacement or source).read().to(dtype)
    weight = source.read().to(torch.float32, copy=True)
    if delta.update is not None:
        update = delta.update.read()
        weight += update.T if delta.is_embedding or delta.is_transposed else update
    if delta.magnitude is not None:
        # DoRA: the direction of W + sBA, each output scaled to its trained magnitude
        dim = 0 if delta.is_transposed or delta.is_embedding else 1
        norm = weight.norm(p=2, dim=dim, keepdim=True)
        weight *= delta.magnitude.read().float().reshape(norm.shape) / norm
    return weight.to(dtype)

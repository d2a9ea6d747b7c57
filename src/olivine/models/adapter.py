"""A PEFT LoRA adapter: checked against its base by names and shapes, and merged into it tensor by tensor.

W' = W + s B A with s = alpha / r (or alpha / sqrt(r) for rank-stabilised LoRA, Kalajdzievski 2023, arXiv:2312.03732);
LoRA: Hu et al. 2021, arXiv:2106.09685; DoRA: Liu et al. 2024, arXiv:2402.09353.
"""

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError, Unsupported
from olivine.models._model import Model
from olivine.models.weights import LazyTensor, Weights, file_weights, weights

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Delta:
    """What the adapter does to one weight of the base.

    a: [r, inputs], b: [outputs, r] (for an embedding a: [r, vocabulary], b: [hidden, r]). scale: s of the equation
    above. magnitude: of DoRA, [outputs]. replacement: a whole new tensor (modules_to_save), then everything else is
    None.
    """

    target: str
    a: LazyTensor | None = None
    b: LazyTensor | None = None
    scale: float = 1.0
    magnitude: LazyTensor | None = None
    replacement: LazyTensor | None = None
    is_embedding: bool = False
    is_transposed: bool = False

    @property
    def factors(self) -> tuple[LazyTensor, LazyTensor]:
        """The matrices a and b of an update that is no replacement."""
        if self.a is None or self.b is None:
            raise ValueError(f"'{self.target}' is replaced, not updated")
        return self.a, self.b


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json; raises ModelError when the folder is no adapter, Unsupported for other methods than LoRA."""
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(f"{folder} is not an adapter: it has no {CONFIG}")
    if not (folder / FILE).is_file():
        pickled = " (adapter_model.bin is pickled and is not read)" if (folder / "adapter_model.bin").is_file() else ""
        raise ModelError(f"{folder} has no {FILE}{pickled}")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        raise Unsupported(f"{path}: peft_type '{config.get('peft_type')}' cannot be merged; LORA can")
    return config


def deltas(adapter: Model, base: Weights) -> dict[str, Delta]:
    """What the adapter does, by the base's tensor names, checked before any weight is loaded.

    Raises ModelError with the names: an empty adapter, tensors without their twin, names or shapes of another base.
    """
    config = read_config(adapter.path)
    tensors = file_weights(adapter.path / FILE)
    if not tensors:
        raise ModelError(f"the adapter {adapter.path} is empty")
    found = {delta.target: delta for delta in _read(config, tensors, base)}
    for delta in found.values():
        _check_shape(delta, base)
    return found


def _read(config: Mapping[str, Any], tensors: Weights, base: Weights) -> Iterator[Delta]:
    parts: dict[str, dict[str, LazyTensor]] = {}
    for name, tensor in tensors.items():
        module, part = _split(name)
        parts.setdefault(module, {})[part] = tensor
    for module, found in sorted(parts.items()):
        yield _delta(config, module, found, base)


def _split(name: str) -> tuple[str, str]:
    """Module and part of a name: "base_model.model.x.q_proj.lora_A.weight" -> ("x.q_proj", "a")."""
    plain = name.removeprefix(_PREFIX)
    for pattern, part in (
        (r"\.lora_A(\.default)?\.weight$", "a"),
        (r"\.lora_B(\.default)?\.weight$", "b"),
        (r"\.lora_embedding_A(\.default)?$", "embedding_a"),
        (r"\.lora_embedding_B(\.default)?$", "embedding_b"),
        (r"\.lora_magnitude_vector(\.default)?(\.weight)?$", "magnitude"),
    ):
        module, n_found = re.subn(pattern, "", plain)
        if n_found:
            return module, part
    return re.sub(r"\.modules_to_save(\.default)?\.", ".", plain), "replacement"


def _delta(config: Mapping[str, Any], module: str, parts: Mapping[str, LazyTensor], base: Weights) -> Delta:
    if "replacement" in parts:
        return Delta(target=_known(module, base), replacement=parts["replacement"])
    embedding = "embedding_" if "embedding_a" in parts or "embedding_b" in parts else ""
    a, b = parts.get(f"{embedding}a"), parts.get(f"{embedding}b")
    if a is None or b is None:
        raise ModelError(f"the adapter lacks {'lora_A' if a is None else 'lora_B'} of '{module}'")
    rank = a.shape[0]
    alpha = _by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    if config.get("use_dora") and "magnitude" not in parts:
        raise ModelError(f"the adapter lacks lora_magnitude_vector of '{module}'")
    return Delta(
        target=_known(f"{module}.weight", base),
        a=a,
        b=b,
        scale=scale,
        magnitude=parts.get("magnitude"),
        is_embedding=bool(embedding),
        is_transposed=bool(config.get("fan_in_fan_out")),
    )


def _by_pattern(patterns: Mapping[str, float] | None, module: str, default: float) -> float:
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _known(target: str, base: Weights) -> str:
    """The base's name of a tensor; tied heads are not in every checkpoint and may still be trained."""
    if target in base or target == "lm_head.weight":
        return target
    nearest = difflib.get_close_matches(target, base, n=3)
    raise ModelError(
        f"the adapter belongs to another base: the base has no '{target}'; nearest: {', '.join(nearest) or 'nothing'}"
    )


def _check_shape(delta: Delta, base: Weights) -> None:
    shape = _shape_of(delta.target, base)
    if delta.replacement is not None:
        changed = delta.replacement.shape
    else:
        a, b = delta.factors
        changed = (b.shape[0], a.shape[1])
        if a.shape[0] != b.shape[1]:
            raise ModelError(f"the adapter's ranks of '{delta.target}' differ: {a.shape} and {b.shape}")
        if delta.is_embedding or delta.is_transposed:
            changed = (changed[1], changed[0])
    if tuple(changed) != tuple(shape):
        raise ModelError(
            f"the adapter belongs to another base: '{delta.target}' is {list(shape)} there, "
            f"but the adapter changes {list(changed)}"
        )


def _shape_of(target: str, base: Weights) -> tuple[int, ...]:
    return base[target if target in base else "model.embed_tokens.weight"].shape


def refuse_if_nothing_changes(adapter: Model, base: Weights) -> None:
    """Raise ModelError unless at least one tensor of the base becomes another; reads the adapter, not the base."""
    changes = deltas(adapter, base)
    if not any(_changes(delta, base) for delta in changes.values()):
        raise ModelError(f"the adapter {adapter.path} changes nothing: every one of its {len(changes)} updates is zero")


def _changes(delta: Delta, base: Weights) -> bool:
    if delta.replacement is not None:
        return delta.target not in base or not torch.equal(
            delta.replacement.read().float(), base[delta.target].read().float()
        )
    a, b = delta.factors
    return bool(b.read().any()) and bool(a.read().any())


def merged_weights(adapter: Model) -> Weights:
    """The base's tensors with the adapter's updates, computed in float32 and stored in the base's type."""
    if adapter.base is None:
        raise ModelError(f"the adapter {adapter.path} has no base model to merge into")
    base = weights(adapter.base)
    changes = deltas(adapter, base)
    merged = {name: _merged(tensor, changes.get(name)) for name, tensor in base.items()}
    head = changes.get("lm_head.weight")
    if head is not None and "lm_head.weight" not in base:  # a tied head that was trained stands on its own from now on
        merged["lm_head.weight"] = _merged(base["model.embed_tokens.weight"], head, "lm_head.weight")
    return merged


def unties(adapter: Model, base: Weights, *, tied: bool) -> bool:
    """Whether the merged model's head is no longer its embedding: one of the two was trained without the other."""
    changed = deltas(adapter, base)
    return tied and ("lm_head.weight" in changed)


def _merged(tensor: LazyTensor, delta: Delta | None, name: str | None = None) -> LazyTensor:
    if delta is None:
        return tensor
    return LazyTensor(name or tensor.name, tensor.shape, tensor.dtype, lambda: apply(delta, tensor))


def apply(delta: Delta, tensor: LazyTensor) -> "torch.Tensor":
    """The updated tensor, in the type of the base."""
    dtype = getattr(torch, tensor.dtype)
    if delta.replacement is not None:
        return delta.replacement.read().to(dtype)
    a, b = delta.factors
    weight = tensor.read().to(torch.float32)
    update = delta.scale * (b.read().float() @ a.read().float())
    if delta.is_embedding or delta.is_transposed:
        update = update.T
    weight += update
    if delta.magnitude is not None:
        # DoRA: the direction of W + sBA, each output scaled to its trained magnitude
        dim = 0 if delta.is_transposed or delta.is_embedding else 1
        norm = weight.norm(p=2, dim=dim, keepdim=True)
        weight *= delta.magnitude.read().float().reshape(norm.shape) / norm
    return weight.to(dtype)

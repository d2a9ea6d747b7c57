"""A PEFT LoRA adapter: checked against its base by names and shapes, and merged into it tensor by tensor.

W' = W + s B A with s = alpha / r (or alpha / sqrt(r) for rank-stabilised LoRA, Kalajdzievski 2023, arXiv:2312.03732);
LoRA: Hu et al. 2021, arXiv:2106.09685; DoRA: Liu et al. 2024, arXiv:2402.09353.
"""

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError, Unsupported
from olivine.models._model import Model
from olivine.models.nf4 import Rounding, rounded_weights
from olivine.models.weights import LazyTensor, Weights, file_weights, weights

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# attribute of an adapter's record: how training kept the base (see nf4.Rounding)
ROUNDING = "base_rounding"
# Fields of PEFT's LoraConfig that give the adapter another equation than W + s B A.
_NOT_MERGED = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
# Values of init_lora_weights that subtract something from the base's weights before training.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# The input embedding, whose weights a tied head shares, in the order of how common the name is.
_EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight", "gpt_neox.embed_in.weight")
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Delta:
    """What the adapter does to one weight of the base.

    a: [r, inputs], b: [outputs, r] (for an embedding a: [r, vocabulary], b: [hidden, r]). scale: s of the equation
    above. magnitude: of DoRA, [outputs]. replacement: a whole new tensor: of modules_to_save, then a and b are None;
    or, beside a and b, the copy of the base's weight that PEFT saves with a trained embedding or head.
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
        """The matrices a and b of an update that is not only a replacement."""
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
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from None
    if config.get("peft_type") != "LORA":
        raise Unsupported(f"{path}: peft_type '{config.get('peft_type')}' cannot be merged; LORA can")
    _refuse_other_equations(path, config)
    return config


def _refuse_other_equations(path: Path, config: Mapping[str, Any]) -> None:
    """Raise Unsupported for what makes the trained model another one than W + s B A of the base as it lies on disk."""
    for key in _NOT_MERGED:
        if config.get(key):
            raise Unsupported(f"{path}: an adapter with '{key}' cannot be merged")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_CHANGES_BASE):
        raise Unsupported(
            f"{path}: init_lora_weights '{init}' changed the base before training, so the adapter does not fit "
            "the base on disk; save it with peft's path_initial_model_for_weight_conversion and merge that"
        )
    if not isinstance(config.get("lora_alpha"), int | float):
        raise ModelError(f"{path} has no number 'lora_alpha'")


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
    if plain.endswith(".base_layer.weight"):  # saved with a trained embedding or head
        return plain.removesuffix(".base_layer.weight"), "base_layer"
    plain = plain.replace(".base_layer.", ".")  # a bias of a layer that has an adapter
    return re.sub(r"\.modules_to_save(\.default)?\.", ".", plain), "replacement"


def _delta(config: Mapping[str, Any], module: str, parts: Mapping[str, LazyTensor], base: Weights) -> Delta:
    if "replacement" in parts:
        return Delta(target=_known(module, base), replacement=parts["replacement"])
    if set(parts) == {"base_layer"}:
        return Delta(target=_known(f"{module}.weight", base), replacement=parts["base_layer"])
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
        replacement=parts.get("base_layer"),
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
    if target in base or (target == HEAD and embedding_of(base)):
        return target
    nearest = difflib.get_close_matches(target, base, n=3)
    raise ModelError(
        f"the adapter belongs to another base: the base has no '{target}'; nearest: {', '.join(nearest) or 'nothing'}"
    )


def embedding_of(base: Weights) -> str | None:
    """The name of the input embedding, which a tied head shares; None when the base names it in another way."""
    return next((name for name in _EMBEDDINGS if name in base), None)


def _source(target: str, base: Weights) -> LazyTensor:
    """The base's tensor that an update changes: for a tied head, which no file holds, the embedding."""
    return base[target if target in base else embedding_of(base) or target]


def _check_shape(delta: Delta, base: Weights) -> None:
    shape = _source(delta.target, base).shape
    for changed in _shapes(delta):
        if tuple(changed) != tuple(shape):
            raise ModelError(
                f"the adapter belongs to another base: '{delta.target}' is {list(shape)} there, "
                f"but the adapter changes {list(changed)}"
            )


def _shapes(delta: Delta) -> Iterator[tuple[int, ...]]:
    """The shapes that the parts of an update ask of its target."""
    if delta.replacement is not None:
        yield delta.replacement.shape
    if delta.a is None and delta.b is None:
        return
    a, b = delta.factors
    if a.shape[0] != b.shape[1]:
        raise ModelError(f"the adapter's ranks of '{delta.target}' differ: {a.shape} and {b.shape}")
    rows, columns = b.shape[0], a.shape[1]
    yield (columns, rows) if delta.is_embedding or delta.is_transposed else (rows, columns)


def refuse_if_nothing_changes(adapter: Model, base: Weights) -> None:
    """Raise ModelError unless at least one tensor of the base becomes another, and all of them stay numbers.

    Reads the adapter, and of the base only the tensors that the adapter replaces.
    """
    changes = deltas(adapter, base)
    for name, tensor in file_weights(adapter.path / FILE).items():
        if not torch.isfinite(tensor.read()).all():
            raise ModelError(f"the adapter {adapter.path} holds values that are no numbers (NaN or infinite): '{name}'")
    if not any(_changes(delta, base) for delta in changes.values()):
        raise ModelError(f"the adapter {adapter.path} changes nothing: every one of its {len(changes)} updates is zero")


def _changes(delta: Delta, base: Weights) -> bool:
    if delta.a is not None and delta.b is not None and delta.a.read().any() and delta.b.read().any():
        return True
    return delta.replacement is not None and not torch.equal(
        delta.replacement.read().float(), _source(delta.target, base).read().float()
    )


def trained_base(adapter: Model) -> Weights:
    """The tensors that the adapter was trained on: its base's, through 4 bits where training kept them so (QLoRA)."""
    if adapter.base is None:
        raise ModelError(f"the adapter {adapter.path} has no base model")
    base = weights(adapter.base)
    rounding = adapter.attributes.get(ROUNDING)
    return rounded_weights(base, Rounding.from_json(rounding)) if rounding else base


def merged_weights(adapter: Model, *, into_trained_base: bool = True) -> Weights:
    """The base's tensors with the adapter's updates, computed in float32 and stored in the base's type.

    into_trained_base: false merges into the base as it is on disk even when training saw it in 4 bits.

    A head that shares its embedding in the base, and no longer does once one of them was trained, is among them.
    """
    if adapter.base is None:
        raise ModelError(f"the adapter {adapter.path} has no base model to merge into")
    base = trained_base(adapter) if into_trained_base else weights(adapter.base)
    changes = deltas(adapter, base)
    merged = {name: _merged(tensor, changes.get(name), name) for name, tensor in base.items()}
    embedding = embedding_of(base)
    if embedding and HEAD not in base and (HEAD in changes or embedding in changes):
        merged[HEAD] = _merged(base[embedding], changes.get(HEAD), HEAD)
    return merged


def unties(adapter: Model, base: Weights, *, tied: bool) -> bool:
    """Whether the merged model's head is no longer its embedding: one of the two was trained, or both apart.

    PEFT trains the one and leaves the other as it was; only with `ensure_weight_tying` do both stay the same.
    """
    if not tied or read_config(adapter.path).get("ensure_weight_tying"):
        return False
    changed = deltas(adapter, base)
    return HEAD in changed or embedding_of(base) in changed


def _merged(tensor: LazyTensor, delta: Delta | None, name: str) -> LazyTensor:
    if delta is None:
        return replace(tensor, name=name)
    return LazyTensor(name, tensor.shape, tensor.dtype, lambda: apply(delta, tensor))


def apply(delta: Delta, tensor: LazyTensor) -> "torch.Tensor":
    """The updated tensor, in the type of the base."""
    dtype = getattr(torch, tensor.dtype)
    if delta.replacement is not None and delta.a is None:
        return delta.replacement.read().to(dtype)
    a, b = delta.factors
    weight = (delta.replacement or tensor).read().to(torch.float32, copy=True)
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

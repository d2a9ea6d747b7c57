"""What a PEFT adapter does to each weight of its base: read from its files, checked by names and shapes alone.

The update is that of LoRA (s B A with s = alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA, Kalajdzievski 2023,
arXiv:2312.03732), LoHa or LoKr, see _updates; DoRA: Liu et al. 2024, arXiv:2402.09353.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from olivine.errors import ModelError, Unsupported
from olivine.models._model import Model
from olivine.models._updates import Hadamard, Kronecker, LowRank, Update
from olivine.models.json_files import is_file, read_object
from olivine.models.tensors import LazyTensor, Weights, file_weights
from olivine.patterns import compiles

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_METHODS = ("LORA", "LOHA", "LOKR")
# Fields of PEFT's LoraConfig that give the adapter another equation than W + s B A.
_NOT_MERGED = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
# Values of init_lora_weights that subtract something from the base's weights before training.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# The input embedding, whose weights a tied head shares, in the order of how common the name is.
_EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight", "gpt_neox.embed_in.weight")
HEAD = "lm_head.weight"
_FACTOR = re.compile(r"(embedding_)?[ab]|(hada|lokr)_w.*")
# One layer of some bases holds the rows of several of others, in this order.
_QKV = 3
_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


@dataclass(frozen=True)
class Delta:
    """What the adapter does to one weight of the base.

    update: what is added. magnitude: of DoRA, [outputs]. replacement: a whole new tensor (of modules_to_save), without
    an update. copy: the base's weight as it was before training, which PEFT saves with a trained embedding or head; it
    has more rows than the base where tokens were added. rows: tokens whose rows of the embedding are replaced, by the
    replacement's rows. is_shared: head and embedding are one tensor after it as before. parts: of an adapter whose
    layers the base has fused, stretches of rows (first, last + 1) with what is done to them.
    """

    target: str
    update: Update | None = None
    magnitude: LazyTensor | None = None
    replacement: LazyTensor | None = None
    copy: LazyTensor | None = None
    rows: Sequence[int] | None = None
    is_shared: bool = False
    is_embedding: bool = False
    is_transposed: bool = False
    parts: Sequence[tuple[int, int, "Delta"]] = ()

    @property
    def whole(self) -> LazyTensor | None:
        """A tensor of its own for the whole of the target, which may have another number of tokens than the base."""
        return self.copy or (self.replacement if self.rows is None else None)

    @property
    def is_trained(self) -> bool:
        """Whether it is more than a copy of what the base has."""
        return self.update is not None or self.replacement is not None or bool(self.parts)


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json; ModelError when the folder is no adapter, Unsupported for a method that is not read."""
    path = folder / CONFIG
    if not is_file(path):
        raise ModelError(f"{folder} is not an adapter: it has no {CONFIG}")
    if not is_file(folder / FILE):
        pickled = " (adapter_model.bin is pickled and is not read)" if is_file(folder / "adapter_model.bin") else ""
        raise ModelError(f"{folder} has no {FILE}{pickled}")
    config = read_object(path)
    if config.get("peft_type") not in _METHODS:
        known = ", ".join(_METHODS)
        raise Unsupported(f"{path}: peft_type '{config.get('peft_type')}' cannot be merged; {known} can")
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
    _check_types(path, config)


def _check_types(path: Path, config: Mapping[str, Any]) -> None:
    """Raise ModelError for a field that is used and holds what it cannot."""
    for key in ("lora_alpha",) if config["peft_type"] == "LORA" else ("alpha", "r"):
        if not _is_number(config.get(key)):
            raise ModelError(f"{path} has no number '{key}'")
    if config["peft_type"] != "LORA" and config["r"] == 0:
        raise ModelError(f"{path} has the rank 0")
    for key in ("alpha_pattern", "rank_pattern"):
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict) or not all(map(_is_number, patterns.values())):
            raise ModelError(f"{path}: {key} must give numbers by the names of layers")
        if key == "rank_pattern" and 0 in patterns.values():
            raise ModelError(f"{path}: {key} has the rank 0")
        if broken := next((pattern for pattern in patterns if not compiles(pattern)), None):
            raise ModelError(f"{path}: {key} has '{broken}', which is no regular expression")
    saved = config.get("modules_to_save")
    if saved is not None and not (isinstance(saved, list) and all(isinstance(name, str) for name in saved)):
        raise ModelError(f"{path}: modules_to_save must be names of modules")
    tokens = config.get("trainable_token_indices")
    lists = tokens.values() if isinstance(tokens, dict) else () if tokens is None else (tokens,)
    if not all(isinstance(rows, list) and all(type(row) is int and row >= 0 for row in rows) for rows in lists):
        raise ModelError(f"{path}: trainable_token_indices must be numbers of tokens")


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def deltas(adapter: Model, base: Weights) -> dict[str, Delta]:
    """What the adapter does, by the base's tensor names, checked before any weight is loaded.

    Raises ModelError with the names: an empty adapter, tensors without their twin, names or shapes of another base.
    """
    config = read_config(adapter.path)
    tensors = file_weights(adapter.path / FILE)
    if not tensors:
        raise ModelError(f"the adapter {adapter.path} is empty")
    changes = _as_one({delta.target: delta for delta in _read(config, tensors, base)}, base)
    for delta in changes.values():
        _check_shape(delta, base)
    _check_tokens(changes, base)
    return changes


def _as_one(changes: Mapping[str, Delta], base: Weights) -> dict[str, Delta]:
    """The changes without the second copy that PEFT saves of a head which shares its embedding and was not trained."""
    embedding = embedding_of(base)
    if embedding is None or HEAD in base:
        return dict(changes)
    both = [changes[name] for name in (embedding, HEAD) if name in changes]
    if not both or any(delta.copy is None or delta.is_trained for delta in both):
        return dict(changes)
    shared = replace(both[0], target=embedding, is_shared=True)
    return {name: delta for name, delta in changes.items() if name != HEAD} | {embedding: shared}


def n_tokens(changes: Mapping[str, Delta], base: Weights) -> int | None:
    """Rows of the embedding after the changes; None when the base names its embedding in another way."""
    embedding = embedding_of(base)
    if embedding is None:
        return None
    shared = HEAD not in base
    wholes = (changes[name].whole for name in ((embedding, HEAD) if shared else (embedding,)) if name in changes)
    return next((whole.shape[0] for whole in wholes if whole is not None), base[embedding].shape[0])


def _check_tokens(changes: Mapping[str, Delta], base: Weights) -> None:
    """Raise ModelError when embedding and head would know different numbers of tokens."""
    embedding = embedding_of(base)
    if embedding is None or HEAD not in base:  # one tensor, or the adapter's copy of it
        return
    after = {}
    for name in (embedding, HEAD):
        whole = changes[name].whole if name in changes else None
        after[name] = base[name].shape[0] if whole is None else whole.shape[0]
    n_before = base[embedding].shape[0]
    if after[embedding] != after[HEAD]:
        lost, other = (HEAD, embedding) if after[HEAD] == n_before else (embedding, HEAD)
        n_after = after[other]
        raise ModelError(
            f"the adapter has {n_after} tokens, the base {n_before}, and the adapter brings no rows for '{lost}': save "
            "it with PEFT's save_embedding_layers=True"
        )


def _read(config: Mapping[str, Any], tensors: Weights, base: Weights) -> Iterator[Delta]:
    parts: dict[str, dict[str, LazyTensor]] = {}
    for name, tensor in tensors.items():
        module, part = _split(name)
        if _FACTOR.fullmatch(part) and (len(tensor.shape) != 2 or 0 in tensor.shape):
            raise ModelError(f"the adapter's '{name}' is {list(tensor.shape)}, but factors of an update are matrices")
        parts.setdefault(module, {})[part] = tensor
    pieces_of: dict[str, dict[str, Delta]] = {}
    for module, tensors_of_module in sorted(parts.items()):
        if set(tensors_of_module) == {"original"}:  # of a layer of which modules_to_save has the trained copy
            continue
        delta = _delta(config, module, tensors_of_module)
        if whole := _fused(delta.target, base):
            pieces_of.setdefault(whole, {})[_leaf(delta.target)] = delta
        else:
            yield replace(delta, target=_known(delta.target, base))
    for whole, pieces in pieces_of.items():
        yield _joined(whole, pieces, base)


def _split(name: str) -> tuple[str, str]:
    """Module and part of a name: "base_model.model.x.q_proj.lora_A.weight" -> ("x.q_proj", "a")."""
    plain = name.removeprefix(_PREFIX)
    for pattern, part in (
        (r"\.lora_A(\.default)?\.weight$", "a"),
        (r"\.lora_B(\.default)?\.weight$", "b"),
        (r"\.lora_embedding_A(\.default)?$", "embedding_a"),
        (r"\.lora_embedding_B(\.default)?$", "embedding_b"),
        (r"\.lora_magnitude_vector(\.default)?(\.weight)?$", "magnitude"),
        (r"\.token_adapter\.trainable_tokens_delta(\.default)?$", "tokens"),
        (r"(\.token_adapter)?\.base_layer\.weight$", "copy"),  # saved with a trained embedding or head
    ):
        module, n_replaced = re.subn(pattern, "", plain)
        if n_replaced:
            return module, part
    if factor := re.fullmatch(r"(.+)\.((?:hada|lokr)_[wt]\d(?:_[ab])?)(?:\.default)?", plain):
        return factor[1], factor[2]
    plain = plain.replace(".base_layer.", ".")  # a bias of a layer that has an adapter
    saved, n_replaced = re.subn(r"\.modules_to_save(\.default)?\.", ".", plain)
    if n_replaced:
        return saved, "replacement"
    original, n_replaced = re.subn(r"\.original_module\.", ".", plain)
    return (original, "original") if n_replaced else (plain, "plain")


def _delta(config: Mapping[str, Any], module: str, parts: Mapping[str, LazyTensor]) -> Delta:
    """What the tensors of one module do, to a weight of the name that it has in the adapter."""
    if trained := parts.get("replacement", parts.get("plain")):
        return _replaced(config, module, trained)
    target, copy = f"{module}.weight", parts.get("copy")
    if set(parts) == {"copy"}:
        return Delta(target, copy=copy)
    if "tokens" in parts:
        rows = _token_rows(config, module, parts["tokens"])
        return Delta(target, replacement=parts["tokens"], copy=copy, rows=rows)
    if config["peft_type"] != "LORA":
        return Delta(target, _lycoris(config, module, parts))
    embedding = "embedding_" if "embedding_a" in parts or "embedding_b" in parts else ""
    if config.get("use_dora") and "magnitude" not in parts:
        raise ModelError(f"the adapter lacks lora_magnitude_vector of '{module}'")
    return Delta(
        target,
        _low_rank(config, module, parts.get(f"{embedding}a"), parts.get(f"{embedding}b")),
        magnitude=parts.get("magnitude"),
        copy=copy,
        is_embedding=bool(embedding),
        is_transposed=bool(config.get("fan_in_fan_out")),
    )


def _replaced(config: Mapping[str, Any], name: str, tensor: LazyTensor) -> Delta:
    """A whole tensor: trained (modules_to_save, a bias), or the embedding or head of a model that got more tokens."""
    saved = config.get("modules_to_save") or ()
    is_trained = any(f".{name}".endswith(f".{module}.weight") for module in saved)
    if name in (*_EMBEDDINGS, HEAD) and not is_trained:
        return Delta(name, copy=tensor)
    return Delta(name, replacement=tensor)


def _low_rank(config: Mapping[str, Any], module: str, a: LazyTensor | None, b: LazyTensor | None) -> LowRank:
    if a is None or b is None:
        raise ModelError(f"the adapter lacks {'lora_A' if a is None else 'lora_B'} of '{module}'")
    rank = a.shape[0]
    alpha = _by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    return LowRank(a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _lycoris(config: Mapping[str, Any], module: str, parts: Mapping[str, LazyTensor]) -> Update:
    """LoHa or LoKr of a linear layer."""
    if kernels := [part for part in parts if "_t" in part]:
        raise Unsupported(f"the adapter changes '{module}' as a convolution ('{kernels[0]}'), which cannot be merged")
    rank = _by_pattern(config.get("rank_pattern"), module, config["r"])
    scale = _by_pattern(config.get("alpha_pattern"), module, config["alpha"]) / rank

    def part(name: str) -> LazyTensor:
        if name not in parts:
            raise ModelError(f"the adapter lacks {name} of '{module}'")
        return parts[name]

    if config["peft_type"] == "LOHA":
        first, second = (LowRank(part(f"hada_w{n}_b"), part(f"hada_w{n}_a")) for n in (1, 2))
        return Hadamard(first, second, scale)
    left, right = (
        [parts[f"lokr_w{n}"]] if f"lokr_w{n}" in parts else [part(f"lokr_w{n}_a"), part(f"lokr_w{n}_b")] for n in (1, 2)
    )
    return Kronecker(left, right, scale)


def _token_rows(config: Mapping[str, Any], module: str, values: LazyTensor) -> list[int]:
    """The tokens of an embedding whose rows are trained."""
    given = config.get("trainable_token_indices")
    if isinstance(given, Mapping):
        given = next((rows for name, rows in given.items() if f".{module}".endswith(f".{name}")), None)
    if not isinstance(given, list) or len(given) != values.shape[0]:
        raise ModelError(f"the adapter trains {values.shape[0]} tokens of '{module}', but its config names others")
    return [int(token) for token in given]


def _leaf(target: str) -> str:
    """The layer's own name: "x.self_attn.q_proj.weight" -> "q_proj"."""
    return target.rpartition(".")[0].rpartition(".")[2]


def _fused(target: str, base: Weights) -> str | None:
    """The base's tensor that holds the rows of a layer which the base has not by itself."""
    if target in base:
        return None
    module, _, kind = target.rpartition(".")
    owner, _, leaf = module.rpartition(".")
    names = [f"{owner}.{whole}.{kind}" for whole, parts in _FUSED.items() if leaf in parts]
    return next((name for name in names if name in base), None)


def _joined(whole: str, pieces: Mapping[str, Delta], base: Weights) -> Delta:
    """Updates of split layers as one of the rows that they have in the fused one."""
    stretches = _stretches(whole, base)
    for leaf, piece in pieces.items():
        start, stop = stretches[leaf]
        shape = (stop - start, *base[whole].shape[1:])
        for changed in _shapes(piece):
            if tuple(changed) != shape:
                raise ModelError(
                    f"the adapter belongs to another base: '{leaf}' is {list(shape)} in its '{whole}', "
                    f"but the adapter changes {list(changed)}"
                )
        if piece.is_transposed:
            raise Unsupported(f"the adapter changes '{piece.target}' transposed, which its base has fused")
    return Delta(whole, parts=[(*stretches[leaf], piece) for leaf, piece in pieces.items()])


def _stretches(whole: str, base: Weights) -> dict[str, tuple[int, int]]:
    """The rows of each layer in a fused one: queries as many as the attention's output takes, the others alike."""
    n_rows, leaves = base[whole].shape[0], _FUSED[_leaf(whole)]
    output = f"{whole.rpartition('.')[0].rpartition('.')[0]}.o_proj.weight"
    first = n_rows // len(leaves)
    if len(leaves) == _QKV:  # grouped heads have fewer keys than queries
        if output not in base:
            raise Unsupported(f"the adapter changes '{leaves[0]}' of a base that has '{whole}' and no '{output}'")
        first = base[output].shape[1]
    rest = (n_rows - first) // (len(leaves) - 1)
    ends = [0, *accumulate([first] + [rest] * (len(leaves) - 1))]
    return dict(zip(leaves, pairwise(ends), strict=True))


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


def source_of(target: str, base: Weights) -> LazyTensor:
    """The base's tensor that an update changes: for a tied head, which no file holds, the embedding."""
    return base[target if target in base else embedding_of(base) or target]


def _check_shape(delta: Delta, base: Weights) -> None:
    shape = source_of(delta.target, base).shape
    whole = delta.whole
    if whole is not None and whole.shape != shape:
        of_tokens = delta.target in (embedding_of(base), HEAD) and whole.shape[1:] == shape[1:]
        if not of_tokens:
            raise ModelError(_of_another_base(delta.target, shape, whole.shape))
        shape = whole.shape
    if delta.rows is not None and delta.replacement is not None:
        known = max(delta.rows, default=0) < shape[0] and delta.replacement.shape[1:] == shape[1:]
        if not known:
            raise ModelError(f"the adapter belongs to another base: it trains tokens that '{delta.target}' has not")
    for changed in _shapes(delta):
        if tuple(changed) != tuple(shape):
            raise ModelError(_of_another_base(delta.target, shape, changed))


def _of_another_base(target: str, shape: Sequence[int], changed: Sequence[int]) -> str:
    told = f"'{target}' is {list(shape)} there, but the adapter changes {list(changed)}"
    return f"the adapter belongs to another base: {told}"


def _shapes(delta: Delta) -> Iterator[tuple[int, ...]]:
    """The shapes that the parts of an update ask of its target."""
    if delta.replacement is not None and delta.rows is None:
        yield delta.replacement.shape
    if delta.update is None:
        return
    if any(left != right for left, right in delta.update.ranks()):
        raise ModelError(f"the adapter's ranks of '{delta.target}' differ: {delta.update.ranks()}")
    shape = delta.update.shape
    yield shape[::-1] if delta.is_embedding or delta.is_transposed else shape

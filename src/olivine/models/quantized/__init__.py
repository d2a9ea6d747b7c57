"""Checkpoints whose weights are already quantized: read by name like any other, and their codes taken over as they are.

`formats/` holds one file for each `quant_method` of config.json; `gguf.py` does the same for the blocks of GGUF files;
`write.py` writes the form that our own quantizing passes give. Nothing here rounds.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olivine.errors import ModelError, Unsupported
from olivine.models.config import without_code
from olivine.models.quantized._base import CheckpointFormat
from olivine.models.tensors import LazyTensor, Weights
from olivine.registry import Registry

known: Registry[CheckpointFormat] = Registry(
    "olivine.models.quantized.formats", CheckpointFormat, "olivine.checkpoint_formats"
)
# where config.json says how the weights are packed; the second is the older name of compressed-tensors
KEYS = ("quantization_config", "compression_config")
# a packed weight's tensor, by which a checkpoint shows that it is one even when its config does not say so
_PACKED = (".qweight", ".weight_packed")


def quantization_config(folder: Path) -> dict[str, Any] | None:
    """What config.json says about packed weights, None when they are plain; ModelError when it is damaged."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        section = next((config[key] for key in KEYS if config.get(key)), None)
    except (ValueError, TypeError, AttributeError):
        raise ModelError(f"{path} is damaged: it must hold an object") from None
    if section is not None and not isinstance(section, dict):
        raise ModelError(f"{path} is damaged: its 'quantization_config' must be an object")
    return section


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the same model with plain weights, which names no code that transformers would fetch."""
    return without_code({key: value for key, value in config.items() if key not in KEYS})


def checkpoint_format(folder: Path) -> CheckpointFormat | None:
    """How the weights of a folder are packed, None when they are plain.

    Raises Unsupported, with the method's name, for what is not taken over.
    """
    config = quantization_config(folder)
    if config is None:
        return None
    method = str(config.get("quant_method", "unknown"))
    format_class = known.find(method)
    if format_class is None:
        raise Unsupported(
            f"{folder} holds weights that are already quantized ('{method}'), which are read of "
            f"{', '.join(sorted(kind.method for kind in known.classes.values()))} only; "
            "start from the model in 16 or 32 bits"
        )
    packing = format_class(folder, config)
    packing.refuse()
    return packing


def unpacked(folder: Path, kind: CheckpointFormat | None, tensors: Weights) -> Weights:
    """The tensors of a checkpoint by the names of the plain model: what is packed becomes one tensor that dequantizes.

    Nothing is read. Raises ModelError for parts that are missing or have another shape than the config says.
    """
    if kind is None:
        _refuse_unannounced(folder, tensors)
        return tensors
    modules: dict[str, dict[str, LazyTensor]] = {
        name.removesuffix(kind.key): {} for name in tensors if name.endswith(kind.key)
    }
    plain: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        module, leaf = _split(name, kind)
        if module in modules and leaf is not None:
            modules[module][leaf] = tensor
        else:
            plain[name] = tensor
    for module, parts in modules.items():
        packed = kind.packed(module, parts)
        plain[packed.name] = packed.lazy()
    return plain


def _split(name: str, kind: CheckpointFormat) -> tuple[str, str | None]:
    """Module and part: "model.layers.0.mlp.up_proj.qweight" -> ("model.layers.0.mlp.up_proj", ".qweight")."""
    leaf = next((leaf for leaf in kind.leaves if name.endswith(leaf)), None)
    return (name.removesuffix(leaf), leaf) if leaf else (name, None)


def _refuse_unannounced(folder: Path, tensors: Weights) -> None:
    name = next((name for name in tensors if name.endswith(_PACKED)), None)
    if name is not None:
        raise ModelError(
            f"{folder} holds packed weights ('{name}'), but its config.json has no quantization_config that says how"
        )

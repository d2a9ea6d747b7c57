"""transformers' config of a model folder, without what would let the folder choose the code that runs."""

from pathlib import Path
from typing import Any

from olivine.errors import ModelError

# Names of code: transformers takes "owner/repository" there for a kernel on the hub, and imports it.
CODE_KEYS = (
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
)


def load_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The config of the model with plain weights, whose attention is what transformers takes by default.

    Which attention runs is olivine's choice, never the folder's. Raises ModelError for a config that does not hold.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ModelError(f"{folder}: transformers cannot read its config: {' '.join(str(error).split())}") from error
    forget_code(config)
    if getattr(config, "quantization_config", None) is not None:  # weights() dequantizes: the module is the plain one
        del config.quantization_config
    return config


def forget_code(config: Any) -> None:
    """Take the names of kernels out of a config and of those that lie in it."""
    config._attn_implementation = None  # noqa: SLF001 - transformers has no other name for it
    if hasattr(config, "_experts_implementation"):
        config._experts_implementation = None  # noqa: SLF001
    for value in vars(config).values():
        if hasattr(value, "_attn_implementation") and value is not config:
            forget_code(value)


def without_code(config: dict[str, Any]) -> dict[str, Any]:
    """The same for the object of a config.json."""
    return {
        key: without_code(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in CODE_KEYS
    }

"""The optimizers of transformers.TrainingArguments by name, and the package that each of them needs.

The table is tested against the installed release.
"""

from collections.abc import Iterator

from olivine import lazy
from olivine.errors import Problem

_BITSANDBYTES = "bitsandbytes"
_GALORE, _APOLLO, _LOMO, _FREE = "galore_torch", "apollo_torch", "lomo_optim", "schedulefree"
# installed under another name than it is imported
_DISTRIBUTIONS = {
    "galore_torch": "galore-torch",
    "apollo_torch": "apollo-torch",
    "lomo_optim": "lomo-optim",
    "optimi": "torch-optimi",
    "torch_xla": "torch-xla",
    "torch_npu": "torch-npu",
}

# optimizer -> the module that it needs beside torch
OPTIMIZERS: dict[str, str | None] = {
    "adamw_torch": None,
    "adamw_torch_fused": None,
    "adafactor": None,
    "sgd": None,
    "adagrad": None,
    "rmsprop": None,
    "adamw_torch_xla": "torch_xla",
    "adamw_torch_npu_fused": "torch_npu",
    "adamw_anyprecision": "torchdistx",
    "adamw_torch_4bit": "torchao",
    "adamw_torch_8bit": "torchao",
    "ademamix": _BITSANDBYTES,
    "adamw_bnb_8bit": _BITSANDBYTES,
    "adamw_8bit": _BITSANDBYTES,
    "ademamix_8bit": _BITSANDBYTES,
    "lion_8bit": _BITSANDBYTES,
    "lion_32bit": _BITSANDBYTES,
    "paged_adamw_32bit": _BITSANDBYTES,
    "paged_adamw_8bit": _BITSANDBYTES,
    "paged_ademamix_32bit": _BITSANDBYTES,
    "paged_ademamix_8bit": _BITSANDBYTES,
    "paged_lion_32bit": _BITSANDBYTES,
    "paged_lion_8bit": _BITSANDBYTES,
    "rmsprop_bnb": _BITSANDBYTES,
    "rmsprop_bnb_8bit": _BITSANDBYTES,
    "rmsprop_bnb_32bit": _BITSANDBYTES,
    "galore_adamw": _GALORE,
    "galore_adamw_8bit": _GALORE,
    "galore_adafactor": _GALORE,
    "galore_adamw_layerwise": _GALORE,
    "galore_adamw_8bit_layerwise": _GALORE,
    "galore_adafactor_layerwise": _GALORE,
    "lomo": _LOMO,
    "adalomo": _LOMO,
    "grokadamw": "grokadamw",
    "schedule_free_radam": _FREE,
    "schedule_free_adamw": _FREE,
    "schedule_free_sgd": _FREE,
    "apollo_adamw": _APOLLO,
    "apollo_adamw_layerwise": _APOLLO,
    "stable_adamw": "optimi",
}

# those that divide the parameters among themselves, each with a state or a step of its own
OWN_GROUPS = frozenset(name for name, module in OPTIMIZERS.items() if module in (_GALORE, _APOLLO, _LOMO))
# those that write into the weights between their steps
SCHEDULE_FREE = frozenset(name for name, module in OPTIMIZERS.items() if module == _FREE)


def check_package(optimizer: object, where: str) -> Iterator[Problem]:
    """A problem when the package of a known optimizer is not installed."""
    module = OPTIMIZERS.get(optimizer) if isinstance(optimizer, str) else None
    if module is not None and not lazy.installed(module):
        package = _DISTRIBUTIONS.get(module, module)
        yield Problem(
            "missing-extra",
            where,
            f"training_args.optim '{optimizer}' needs the package {package}.",
            f"Run: pip install {package}, or use adamw_torch.",
            ("training_args", "optim"),
        )

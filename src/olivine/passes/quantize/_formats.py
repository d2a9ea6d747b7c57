"""Which weight of a model gets which format, by the params and the names of modules."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from olivine.calibration import eight_bits
from olivine.errors import RequestError, Unsupported
from olivine.models import Model
from olivine.models.blockwise import GROUPS, WHOLE_ROW
from olivine.passes.quantize._params import Override, QuantizerParams

if TYPE_CHECKING:
    from olivine.kernels.blockwise import Format

WIDEST_DEFAULT = 128


def formats(model: Model, params: QuantizerParams) -> "dict[str, Format]":
    """The format of every weight that is to be quantized, by its name.

    Raises RequestError for a name that matches nothing, Unsupported for a group that divides no layer's width.
    """
    from olivine.calibration.decoder import linear_weights
    from olivine.kernels.blockwise import Format

    widths = linear_weights(model, head=params.lm_head)
    _refuse_unmatched([*(params.modules_to_not_convert or ()), *params.overrides], widths)
    kept = {name: width for name, width in widths.items() if not _excluded(name, params.modules_to_not_convert or ())}
    usual = params.group_size or _widest_group(kept.values())
    by_name: dict[str, Format] = {}
    picked = eight_bits.in_8_bits(params.mixed_precision, list(widths)) if params.mixed_precision else set()
    for name, width in kept.items():
        other = next((rule for key, rule in params.overrides.items() if _is(name, key)), Override())
        group = other.group_size or usual
        if group != WHOLE_ROW and width % group:
            raise Unsupported(
                f"group_size {group} does not divide the {width} inputs of '{name}'; leave group_size out"
            )
        symmetric = params.sym if other.symmetric is None else other.symmetric
        bits = other.bits or (8 if name in picked else params.bits)
        by_name[name] = Format(bits, group, symmetric).fitted(width)
    return by_name


def _widest_group(widths: Iterable[int]) -> int:
    every = list(widths)
    fitting = [size for size in GROUPS if size <= WIDEST_DEFAULT and all(width % size == 0 for width in every)]
    if not fitting:
        raise Unsupported(f"no group size divides the widths {', '.join(map(str, sorted(set(every))))} of all layers")
    return max(fitting)


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _is(name: str, key: str) -> bool:
    """Whether the weight is of the module `key`; "re:" and a pattern must match all of the module's name."""
    return bool(re.fullmatch(key[3:], _module(name))) if key.startswith("re:") else _module(name) == key


def _excluded(name: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern leaves the weight as it is; a plain one may be any part of the module's name."""
    return any(_is(name, key) if key.startswith("re:") else key in _module(name) for key in patterns)


def _refuse_unmatched(keys: Iterable[str], names: Mapping[str, int]) -> None:
    for key in keys:
        if not any(_excluded(name, [key]) for name in names):
            example = _module(next(iter(names)))
            raise RequestError(f"no module that is quantized is named '{key}'; names look like '{example}'")

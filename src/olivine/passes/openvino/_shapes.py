"""Shapes of inputs as configs of all years write them, and what they make of a signature."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from olivine.errors import ModelError
from olivine.models.signature import Signature, TensorSpec

Shapes = Mapping[str, list[int]]
"""Sizes by the name of an input, or by its number as a text; -1 is an open size."""

_ONE = re.compile(r"\s*([^\[\](),\s]*)\s*[\[(]([^\[\]()]*)[\])]\s*,?")


def plain_shapes(value: Any) -> dict[str, list[int]] | str | None:
    """The shapes by name or number: of a list of shapes, of one shape, of pairs of a name and a shape, or of a text.

    Another text is the name of a function, and stays one. Raises ValueError for anything else.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        return _of_text(value) if re.search(r"[\[(,]", value) else value
    if isinstance(value, Mapping):
        return {str(name): _sizes(sizes) for name, sizes in value.items()}
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("must be a list of shapes, one for each input")
    if all(isinstance(size, int) and not isinstance(size, bool) for size in value):
        return {"0": _sizes(value)}
    return dict(_entry(number, one) for number, one in enumerate(value))


def _entry(number: int, one: Any) -> tuple[str, list[int]]:
    """A shape, or a pair of a name and a shape."""
    if isinstance(one, list | tuple) and len(one) == 2 and isinstance(one[0], str) and isinstance(one[1], list | tuple):
        return one[0], _sizes(one[1])
    return str(number), _sizes(one)


def _of_text(text: str) -> dict[str, list[int]]:
    """E.g. "[1,128],[1,128]" or "input_ids[1,128], attention_mask[1,128]"."""
    if "".join(_ONE.split(text)[::3]).strip():
        raise ValueError(f"must be shapes such as [1,3,224,224], but is {text!r:.60}")
    pairs = _ONE.findall(text)
    sizes = [[size.strip() for size in inner.split(",") if size.strip()] for _, inner in pairs]
    return {
        name or str(number): _sizes([-1 if size == "?" else int(size) for size in one])
        for number, ((name, _), one) in enumerate(zip(pairs, sizes, strict=True))
    }


def _sizes(value: Any) -> list[int]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"a shape is a list of sizes, but {value!r:.40} is none")  # noqa: TRY004 - pydantic tells it
    for size in value:
        if isinstance(size, bool) or not isinstance(size, int) or size < -1 or size == 0:
            raise ValueError(f"a size is a number above 0, or -1 where it is open, but {size!r:.40} is none")
    return list(value)


def named_shapes(signature: Signature, shapes: Shapes) -> dict[str, list[int]]:
    """The shapes by the names of inputs. ModelError for inputs that there are not, and other numbers of dimensions."""
    specs = {spec.name: spec for spec in signature.inputs}
    numbered = {str(number): spec.name for number, spec in enumerate(signature.inputs)}
    by_name = {}
    for key, sizes in shapes.items():
        name = key if key in specs else numbered.get(key)
        if name is None:
            told = f"names the input '{key}'" if not key.isdecimal() else f"gives a shape number {int(key) + 1}"
            raise ModelError(f"input_shapes {told}, and the model takes {', '.join(specs)}")
        given = specs[name].shape
        if given is not None and len(given) != len(sizes):
            raise ModelError(f"input_shapes gives '{name}' the shape {sizes}, and the model takes {specs[name]}")
        fixed = [(a, b) for a, b in zip(given or (), sizes, strict=False) if isinstance(a, int) and b not in (a, -1)]
        if fixed:
            raise ModelError(f"input_shapes gives '{name}' the shape {sizes}, and the model takes {specs[name]}")
        by_name[name] = sizes
    return by_name


def fixed(signature: Signature, shapes: Mapping[str, list[int]]) -> Signature:
    """The signature with these sizes; an open one keeps its name."""
    return replace(signature, inputs=tuple(_fixed(spec, shapes.get(spec.name)) for spec in signature.inputs))


def _fixed(spec: TensorSpec, sizes: list[int] | None) -> TensorSpec:
    if sizes is None:
        return spec
    before = spec.shape or (None,) * len(sizes)
    return replace(spec, shape=tuple(old if size == -1 else size for old, size in zip(before, sizes, strict=True)))


def is_static(signature: Signature) -> bool:
    """Whether no size of an input is open."""
    return all(isinstance(size, int) for spec in signature.inputs for size in spec.shape or (None,))

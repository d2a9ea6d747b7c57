"""`--set passes.lora.r=8`: values from the command line, written into the config before it is translated."""

from collections.abc import Iterable, Iterator
from typing import Any

from olivine.config.explain import nearest
from olivine.config.json_text import SyntaxFault, parse_json
from olivine.config.nodes import Array, Object, Place
from olivine.config.schema import Workflow
from olivine.errors import Problem, sentence

# Their keys are names that the user gave: a new one there is a slip, never a wish.
_NAMED = ("passes", "systems", "data_configs", "evaluators")


def override(root: Object, overrides: Iterable[str]) -> Iterator[Problem]:
    """Set each KEY=VALUE in the config; a value that is not JSON is a text.

    A key is a path with dots: names of passes, systems and evaluators, names or positions of data configs. Mappings
    that are missing on the way are made, but not a new pass, system or data config: that is a problem.
    """
    for text in overrides:
        key, equals, value = text.partition("=")
        place = Place(f"--set {key}", 0, 0)
        if not equals or not all(key.split(".")):
            yield Problem("invalid-value", f"--set {text}", "this is not KEY=VALUE, as in passes.lora.r=8.")
        else:
            yield from _set(root, key.split("."), _value(value, place), place)


def _value(text: str, place: Place) -> Any:
    try:
        return parse_json(text, place.source, first_line=0)
    except SyntaxFault:
        return text


def _set(root: Object, keys: list[str], value: Any, place: Place) -> Iterator[Problem]:
    message = _slip(root, keys)
    node: Any = root
    for depth, key in enumerate(keys[:-1]):
        if message is not None:
            break
        inner = _step(node, key)
        if inner is None and isinstance(node, Object) and key not in node:
            inner = Object(place)
            node.put(key, inner, place)
        if not isinstance(inner, Object | Array):
            message = f"'{'.'.join(keys[: depth + 1])}' is not a mapping in the config"
        node = inner
    if message is None:
        message = _put(node, keys, value, place)
    if message is not None:
        unknown = tuple(keys[:1]) if message.startswith("unknown key") else ()
        yield Problem("invalid-value", str(place), sentence(message), key=unknown)


def _put(node: Any, keys: list[str], value: Any, place: Place) -> str | None:
    last = keys[-1]
    if isinstance(node, Object):
        node.put(last, value, place)
        return None
    if last.isdigit() and int(last) < len(node):
        node[int(last)], node.places[int(last)] = value, place
        return None
    return f"'{'.'.join(keys[:-1])}' is a list without an element '{last}'"


def _step(node: Any, key: str) -> Any:
    """One step down: a key of a mapping, a position in a list, or the element of that name."""
    if isinstance(node, Object):
        return node.get(key)
    if isinstance(node, Array):
        if key.isdigit():
            return node[int(key)] if int(key) < len(node) else None
        return next((item for item in node if isinstance(item, Object) and item.get("name") == key), None)
    return None


def _slip(root: Object, keys: list[str]) -> str | None:
    """What is wrong with the path's first keys; None when they name something that is there or known."""
    known = [*root, *Workflow.model_fields]
    if keys[0] not in known:
        near = nearest(keys[0], known)
        return f"unknown key '{keys[0]}'" + (f"; did you mean '{near}'?" if near else "")
    section = root.get(keys[0])
    if keys[0] in _NAMED and len(keys) > 1 and _step(section, keys[1]) is None:
        names = list(_names(section))
        near = nearest(keys[1], names)
        hint = f"did you mean '{near}'?" if near else f"there is {', '.join(names) or 'none'}"
        return f"the config has no '{keys[1]}' in '{keys[0]}'; {hint}"
    return None


def _names(section: Any) -> Iterator[str]:
    if isinstance(section, Object):
        yield from section
    for item in section if isinstance(section, Array) else []:
        if isinstance(item, Object) and isinstance(item.get("name"), str):
            yield item["name"]

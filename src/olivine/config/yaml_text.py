"""YAML read as JSON values: the safe tags only, and the line of every key and value.

The tree is built from the parser's events here, because PyYAML's own composer recurses without a limit (a hostile file
overflows the stack of its C extension), and drops duplicate keys in silence.
"""

import math
from typing import Any

import yaml

from olivine.config.json_text import MAX_DEPTH, NUMBER, SyntaxFault, stands_twice
from olivine.config.nodes import Array, Object, Place, copy

MAX_NODES = 500_000
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_STANDARD = {f"{_TAG}map", f"{_TAG}seq", f"{_TAG}str", "!"}


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML document, its mappings as `Object` and its lists as `Array`.

    Dates stay texts, and plain numbers such as 1e-4 are numbers, as in JSON. Raises SyntaxFault for wrong syntax,
    duplicate keys, tags that would make Python objects, more than one document, and aliases that grow without bound.
    """
    try:
        return _Composer(yaml.parse(text, Loader=_LOADER), source).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = " ".join(part for part in (error.problem, error.context) if part)
        raise SyntaxFault(message, mark.line + 1 if mark else 1, mark.column + 1 if mark else 1) from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        position = getattr(error, "position", 0) or 0
        line = text.count("\n", 0, position) + 1
        raise SyntaxFault(
            f"a character that YAML does not allow ({getattr(error, 'reason', error)})", line, 1
        ) from None


class _Composer:
    def __init__(self, events: Any, source: str) -> None:
        self._events, self._source = events, source
        self._scalars = yaml.SafeLoader("")
        self._resolve: Any = self._scalars.resolve  # its stub has no types
        self._anchors: dict[str, Any] = {}
        self._n_nodes = 0

    def document(self) -> Any:
        """The one document of the stream; None when there is none."""
        self._next()  # the stream's start
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        value = self._value(self._next(), 0)
        self._next()  # the document's end
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise self._fault(event, "a second document; a config is one document")
        return value

    def _next(self) -> Any:
        return next(self._events)

    def _value(self, event: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise self._fault(event, f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        self._count(event, 1)
        anchor = event.anchor
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(event, depth)
        else:
            value = self._mapping(event, depth)
        if anchor is not None:
            self._anchors[anchor] = value
        return value

    def _alias(self, event: Any, depth: int) -> Any:
        if event.anchor not in self._anchors:  # not known, or inside itself
            raise self._fault(event, f"the alias '*{event.anchor}' stands for nothing that was finished before it")
        value = self._anchors[event.anchor]
        n_nodes, value_depth = _extent(value)
        self._count(event, n_nodes)
        if depth + value_depth > MAX_DEPTH:
            raise self._fault(event, f"nested more than {MAX_DEPTH} levels deep once aliases are followed")
        return copy(value)

    def _count(self, event: Any, n_nodes: int) -> None:
        self._n_nodes += n_nodes
        if self._n_nodes > MAX_NODES:
            raise self._fault(event, f"more than {MAX_NODES:,} values once aliases are followed")

    def _sequence(self, start: Any, depth: int) -> Array:
        self._check_tag(start)
        result = Array(self._place(start, start))
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            result.add(self._value(event, depth + 1), self._place(event, event))
        return result

    def _mapping(self, start: Any, depth: int) -> Object:
        self._check_tag(start)
        result, merged = Object(self._place(start, start)), []
        while not isinstance(key_event := self._next(), yaml.MappingEndEvent):
            if not isinstance(key_event, yaml.ScalarEvent):
                raise self._fault(key_event, "a key must be a text")
            value_event = self._next()
            place = self._place(key_event, value_event)
            if self._tag(key_event) == _MERGE:
                merged.append((value_event, self._value(value_event, depth + 1)))
                continue
            key = key_event.value
            if key in result:
                raise self._fault(key_event, stands_twice(key, result), in_language=True)
            result.put(key, self._value(value_event, depth + 1), place)
        for event, value in merged:
            self._merge(event, result, value)
        return result

    def _merge(self, event: Any, result: Object, value: Any) -> None:
        """YAML's '<<': keys of other mappings, unless they stand here."""
        for source in value if isinstance(value, Array) else [value]:
            if not isinstance(source, Object):
                raise self._fault(event, "'<<' wants a mapping or a list of mappings")
            for key in source:
                if key not in result:
                    result.put(key, copy(source[key]), source.places[key])

    def _scalar(self, event: Any) -> Any:
        tag = self._tag(event)
        if tag == f"{_TAG}str" and not event.style and NUMBER.fullmatch(event.value):
            return self._finite(event, float(event.value))  # YAML 1.1 takes 1e-4 for a text
        if tag in (f"{_TAG}str", f"{_TAG}timestamp", "!"):
            return event.value
        if tag not in (f"{_TAG}int", f"{_TAG}float", f"{_TAG}bool", f"{_TAG}null"):
            raise self._fault(event, f"the tag '{tag}' is not one of JSON's types")
        try:
            value = self._scalars.construct_object(yaml.ScalarNode(tag, event.value, event.start_mark))
        except (ValueError, KeyError):
            raise self._fault(event, f"{event.value[:40]!r} is not of the type {tag.removeprefix(_TAG)}") from None
        return self._finite(event, value) if isinstance(value, float) else value

    def _finite(self, event: Any, value: float) -> float:
        if not math.isfinite(value):
            raise self._fault(event, f"the number {event.value} is not finite")
        return value

    def _tag(self, event: Any) -> str:
        if event.tag is not None and event.tag != "!":
            return str(event.tag)
        return str(self._resolve(yaml.ScalarNode, event.value, event.implicit))

    def _check_tag(self, event: Any) -> None:
        if event.tag is not None and event.tag not in _STANDARD:
            raise self._fault(event, f"the tag '{event.tag}' is not one of JSON's types")

    def _place(self, key: Any, value: Any) -> Place:
        return Place(self._source, key.start_mark.line + 1, value.start_mark.line + 1)

    @staticmethod
    def _fault(event: Any, message: str, *, in_language: bool = False) -> SyntaxFault:
        mark = event.start_mark
        return SyntaxFault(message, mark.line + 1, mark.column + 1, in_language=in_language)


def _extent(value: Any) -> tuple[int, int]:
    """How many values there are in a value, itself included, and how deep it goes."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    extents = [_extent(item) for item in items]
    return 1 + sum(n for n, _ in extents), 1 + max((depth for _, depth in extents), default=0)

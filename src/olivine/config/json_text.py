"""A strict JSON reader that knows the line of every key and value, and says in a sentence what is wrong and where."""

import math
import re
from bisect import bisect_right
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]  # public in CPython since 2.6, missing from typeshed
from typing import Any

from olivine.config.nodes import Array, Object, Place

MAX_DEPTH = 100
_SPACE = re.compile(r"[ \t\n\r]*")
NUMBER = re.compile(r"(-?(?:0|[1-9]\d*))(\.\d+)?([eE][-+]?\d+)?")
_WORD = re.compile(r"[A-Za-z_]\w*")
_WORDS = {"true": True, "false": False, "null": None}
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


class SyntaxFault(Exception):  # noqa: N818 - not for users: the reader turns it into a ConfigError
    """What is wrong with the text, and where: line and column from 1.

    in_language: the text is what its language allows, and still no config: a key stands twice.
    """

    def __init__(self, message: str, line: int, column: int, *, in_language: bool = False) -> None:
        super().__init__(message)
        self.message, self.line, self.column, self.in_language = message, line, column, in_language


def stands_twice(key: str, mapping: Object) -> str:
    """What to say of a key that the mapping has already."""
    return f"the key '{key}' stands twice (first on line {mapping.places[key].line}); remove one of them"


def parse_json(text: str, source: str, *, first_line: int = 1) -> Any:
    """The value of a JSON document, its mappings as `Object` and its lists as `Array`.

    source: how places name the file. first_line: 0 for a value from the command line, which has no lines.
    Raises SyntaxFault for anything RFC 8259 does not allow, for duplicate keys, and for numbers and characters that
    could not be written back.
    """
    return _Parser(text, source, first_line).document()


class _Parser:
    def __init__(self, text: str, source: str, first_line: int) -> None:
        self._text, self._source, self._first_line = text, source, first_line
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def document(self) -> Any:
        start = self._skip(0)
        value, end = self._value(start, 0)
        end = self._skip(end)
        if end < len(self._text):
            raise self._fault(end, f"{self._shown(end)} after the end of the document")
        return value

    def _value(self, at: int, depth: int) -> tuple[Any, int]:
        character = self._text[at : at + 1]
        if depth > MAX_DEPTH:
            raise self._fault(at, f"nested more than {MAX_DEPTH} levels deep")
        if character == "{":
            return self._object(at, depth)
        if character == "[":
            return self._array(at, depth)
        if character == '"':
            return self._string(at)
        return self._scalar(at)

    def _object(self, start: int, depth: int) -> tuple[Object, int]:
        result = Object(self._place(start, start))
        at = self._skip(start + 1)
        if self._text[at : at + 1] == "}":
            return result, at + 1
        while True:
            if self._text[at : at + 1] != '"':
                raise self._fault(at, f"expected a key in double quotes, found {self._shown(at)}")
            key_at = at
            key, at = self._string(at)
            if key in result:
                raise self._fault(key_at, stands_twice(key, result), in_language=True)
            at = self._skip(at)
            if self._text[at : at + 1] != ":":
                raise self._fault(at, f"expected ':' after the key '{key}', found {self._shown(at)}")
            value_at = self._skip(at + 1)
            value, at = self._value(value_at, depth + 1)
            result.put(key, value, self._place(key_at, value_at))
            at, done = self._separator(at, "}", start)
            if done:
                return result, at

    def _array(self, start: int, depth: int) -> tuple[Array, int]:
        result = Array(self._place(start, start))
        at = self._skip(start + 1)
        if self._text[at : at + 1] == "]":
            return result, at + 1
        while True:
            value_at = at
            value, at = self._value(at, depth + 1)
            result.add(value, self._place(value_at, value_at))
            at, done = self._separator(at, "]", start)
            if done:
                return result, at

    def _separator(self, at: int, closing: str, opened: int) -> tuple[int, bool]:
        """Past a ',' (and whether the container ends instead); a ',' just before the closing bracket is refused."""
        at = self._skip(at)
        character = self._text[at : at + 1]
        if character == closing:
            return at + 1, True
        if not character:
            line = self._position(opened)[0]
            raise self._fault(at, f"the file ends, but the '{self._text[opened]}' of line {line} is not closed")
        if character != ",":
            raise self._fault(at, f"expected ',' or '{closing}', found {self._shown(at)}")
        following = self._skip(at + 1)
        if self._text[following : following + 1] == closing:
            raise self._fault(at, f"trailing comma before '{closing}'; remove it")
        return following, False

    def _string(self, at: int) -> tuple[str, int]:
        try:
            value, end = scanstring(self._text, at + 1, True)
        except JSONDecodeError as error:
            message = error.msg[0].lower() + error.msg[1:].removesuffix(" starting at")
            raise self._fault(error.pos, f"{message} in a text") from None
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise self._fault(at, "the text holds half of a surrogate pair (\\ud800 to \\udfff)")
        return value, end

    def _scalar(self, at: int) -> tuple[Any, int]:
        number = NUMBER.match(self._text, at)
        if number:
            return self._number(number), number.end()
        word = _WORD.match(self._text, at)
        if word and word[0] in _WORDS:
            return _WORDS[word[0]], word.end()
        if word and word[0] in _PYTHON_WORDS:
            raise self._fault(at, f"'{word[0]}' is Python; JSON writes {_PYTHON_WORDS[word[0]]}")
        raise self._fault(at, f"expected a value, found {self._shown(at)}")

    def _number(self, match: re.Match[str]) -> int | float:
        whole, fraction, exponent = match.groups()
        if fraction is None and exponent is None:
            if len(whole) > 4000:  # beyond this Python refuses to convert
                raise self._fault(match.start(), f"a number of {len(whole)} digits")
            return int(whole)
        value = float(match[0])
        if not math.isfinite(value):
            raise self._fault(match.start(), f"the number {match[0]} is too large")
        return value

    def _skip(self, at: int) -> int:
        """Past white space; a comment is refused with what to do."""
        match = _SPACE.match(self._text, at)
        at = match.end() if match else at
        if self._text[at : at + 1] == "#" or self._text[at : at + 2] in ("//", "/*"):
            raise self._fault(at, "a comment; JSON has none: remove it, or save the config as .yaml")
        return at

    def _shown(self, at: int) -> str:
        if at >= len(self._text):
            return "the end of the file"
        if self._text[at] == "'":
            return "a single quote (JSON wants double quotes)"
        word = _WORD.match(self._text, at)
        return f"'{word[0][:40]}'" if word else repr(self._text[at])

    def _position(self, at: int) -> tuple[int, int]:
        line = bisect_right(self._line_starts, at)
        return line, at - self._line_starts[line - 1] + 1

    def _place(self, key_at: int, value_at: int) -> Place:
        if not self._first_line:
            return Place(self._source, 0, 0)
        return Place(self._source, self._position(key_at)[0], self._position(value_at)[0])

    def _fault(self, at: int, message: str, *, in_language: bool = False) -> SyntaxFault:
        line, column = self._position(at)
        return SyntaxFault(message, line, column, in_language=in_language)

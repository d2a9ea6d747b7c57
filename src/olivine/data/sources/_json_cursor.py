"""A place in a JSON document of any size, of which a piece is in memory. Standard library alone."""

import codecs
import json
import re
from pathlib import Path
from typing import IO, Any

from olivine.data.json_text import DECODER, StandsTwiceError
from olivine.data.sources._lines import not_utf_8
from olivine.errors import DataError

_CHUNK = 2**18  # bytes read at once; a value that is longer doubles what is read
_SPACE = re.compile(r"[ \t\r\n]*")
_LONGEST_WORD = 16  # characters: what ends nearer to the end of the piece may be a cut word (-Infinity, 1.5e+9)
_CUT_TEXT = "Unterminated string"  # its fault stands at the beginning of the text, however long that is


class Fault(Exception):  # noqa: N818 - never seen by a user: the reader gives `error` in place of a row
    """What is wrong with the document at a line."""

    def __init__(self, line: int, error: DataError) -> None:
        super().__init__(line, error)
        self.line, self.error = line, error


class Cursor:
    """Goes through a UTF-8 document value by value. Raises Fault where it is no JSON. path: where the file lies."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._is_whole = "", 0, False
        self._line, self._counted = 1, 0  # the line of the place up to which lines were counted
        self._before = 0  # characters of the line in which the piece begins that were there before it

    def peek(self) -> str:
        """The next character that is no white space, on which the cursor then stands; empty at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def step(self) -> None:
        """Go past the character that `peek` gave."""
        self._at += 1

    def value(self) -> Any:
        """The value that begins here; the cursor then stands behind it."""
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not (self._may_be_cut(error) and self._read()):
                    raise self.fault(error.msg, error.pos) from None
            except StandsTwiceError as error:
                raise Fault(self.line(), DataError(str(error))) from None
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of nested lists
                raise Fault(self.line(), DataError(f"not JSON that can be read: {error}")) from None
            else:
                if end <= len(self._text) - _LONGEST_WORD or not self._read():  # a number near the end may go on
                    self._at = end
                    return value

    def line(self) -> int:
        """The line of the cursor, from 1."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def fault(self, message: str, at: int | None = None) -> Fault:
        """A fault at the cursor, or at a place of the piece behind it."""
        at = self._at if at is None else at
        line = self.line() + self._text.count("\n", self._at, at)
        last = self._text.rfind("\n", 0, at)
        column = at - last if last >= 0 else self._before + at + 1
        return Fault(line, DataError(f"not JSON: {message} at column {column}"))

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        return error.msg.startswith(_CUT_TEXT) or error.pos > len(self._text) - _LONGEST_WORD

    def _read(self) -> bool:
        """Read on, and forget what lies before the cursor. At the end of the file False, and nothing has moved."""
        raw = b"" if self._is_whole else self._file.read(max(_CHUNK, len(self._text) - self._at))
        self._is_whole = not raw
        try:
            more = self._decoder.decode(raw, final=self._is_whole)
        except UnicodeDecodeError as error:
            line = self.line() + self._text.count("\n", self._at) + error.object.count(b"\n", 0, error.start)
            raise Fault(line, not_utf_8(error, self._path)) from None
        if raw:
            self._forget()
            self._text += more
        return bool(raw)

    def _forget(self) -> None:
        self.line()
        last = self._text.rfind("\n", 0, self._at)
        self._before = self._at - last - 1 if last >= 0 else self._before + self._at
        self._text, self._at, self._counted = self._text[self._at :], 0, 0

"""Files as UTF-8, whatever encoding they are in, and what a file is that no reader takes. Standard library alone."""

import codecs
import difflib
import errno
import io
import re
from encodings.aliases import aliases
from pathlib import Path
from typing import IO, NamedTuple, cast

_CHUNK = 2**18  # bytes read at once
_LOOKED_AT = 2**16  # bytes by which an encoding is guessed
_DENSE = 0.25  # share of bytes above 127: with more, the text is hardly of a Western European language
_HOLLOW = 0.2  # share of zeros: no text of one byte a letter has any
_KANA = re.compile("[\u3041-\u30ff]")  # stands in nearly every Japanese sentence
_USUAL = ("utf-8", "utf-16", "cp1252", "cp932", "latin-1")
_BY_SUFFIX = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".xlsb", ".ods"), "a spreadsheet; export it as CSV or Parquet"),
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".tar"), "compressed; unpack it first"),
    **dict.fromkeys((".docx", ".doc", ".pdf", ".odt"), "a document; write its rows to a JSON, CSV or Parquet file"),
    **dict.fromkeys((".pkl", ".pickle"), "a pickle, which is never read; write its rows to a Parquet file"),
    **dict.fromkeys((".arrow", ".feather"), "an Arrow file; write its rows to a Parquet file"),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), "a database; export its rows as CSV or Parquet"),
}
_BY_BEGIN = (
    (b"PK\x03\x04", _BY_SUFFIX[".xlsx"].replace("a spreadsheet", "a spreadsheet or an archive")),
    (b"\xd0\xcf\x11\xe0", _BY_SUFFIX[".xls"]),
    (b"\x1f\x8b", _BY_SUFFIX[".gz"]),
    (b"%PDF", _BY_SUFFIX[".pdf"]),
    (b"ARROW1", _BY_SUFFIX[".arrow"]),
    (b"SQLite format 3", _BY_SUFFIX[".db"]),
    (b"PAR1", "Parquet; write data_name: parquet"),
)


_OTHER_TEXT = {  # files that begin neither as JSON nor as Parquet, by their suffix
    **dict.fromkeys((".csv", ".tsv"), "CSV; write data_name: csv"),
    ".txt": "text; write data_name: text, or csv for a table",
}
_NO_TEXT = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, *(mark for mark, _ in _BY_BEGIN))


class Options(NamedTuple):
    """How files are read. separator: between the cells of a CSV file. encoding: of text, None is UTF-8.

    folder: that which the config names, where the files are all that lie in it.
    """

    separator: str | None = None
    encoding: str | None = None
    folder: Path | None = None


PLAIN = Options()


def is_separator(separator: str) -> bool:
    """Whether the cells of a CSV file can be told apart by it."""
    return len(separator) == 1 and separator not in '"\r\n'


def is_encoding(name: str) -> bool:
    """Whether Python decodes text by that name, and a piece at a time."""
    try:
        return isinstance(codecs.getincrementaldecoder(name)().decode(b""), str)
    except (LookupError, ValueError, TypeError):
        return False


def near_encoding(name: str) -> str | None:
    """The encoding whose name is nearest, of the usual ones if it can be; None where none is near."""
    every = sorted({name.replace("_", "-") for name in (*aliases.values(), *aliases) if is_encoding(name)})
    for known in (_USUAL, every):
        if near := difflib.get_close_matches(name.lower().replace("_", "-"), known, n=1, cutoff=0.7):
            return near[0]
    return None


def foreign(path: Path, kind: str) -> str | None:
    """What a file is that no reader takes, and what to do; None for any other. OSError when it cannot be looked at."""
    with path.open("rb") as file:
        begin = file.read(16)
    known = _BY_SUFFIX.get(path.suffix.lower())
    text = begin.removeprefix(codecs.BOM_UTF8).lstrip()
    if kind in ("csv", "parquet") and text.startswith((b'{"', b"[{")):
        return "the file is JSON; write data_name: json"
    if kind in ("json", "parquet") and text and not text.startswith((b"{", b"[", *_NO_TEXT)):
        known = known or _OTHER_TEXT.get(path.suffix.lower())
    found = known or next((what for mark, what in _BY_BEGIN if begin.startswith(mark)), None)
    return None if found is None or (kind == "parquet" and begin.startswith(b"PAR1")) else f"the file is {found}"


def opened(path: Path, encoding: str | None = None) -> IO[bytes]:
    """The file's text in UTF-8. Reading raises OSError where the bytes are not of that encoding."""
    if encoding is None:
        return path.open("rb")
    return cast("IO[bytes]", io.BufferedReader(_Recoded(path, encoding), _CHUNK))


def guessed(path: Path) -> str | None:
    """The encoding that a file which is not UTF-8 seems to be in: of those that Excel and Windows write."""
    with path.open("rb") as file:
        sample = file.read(_LOOKED_AT)
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if sample.count(0) > _HOLLOW * len(sample):  # half of UTF-16 is zeros, where letters are Latin
        return "utf-16-le" if sample[1::2].count(0) > sample[::2].count(0) else "utf-16-be"
    if _KANA.search(_decoded(sample, "cp932")):
        return "cp932"
    is_dense = sum(byte > 127 for byte in sample) > _DENSE * len(sample)
    return "cp1252" if not is_dense and _decoded(sample, "cp1252") else None


def other_encoding(path: Path) -> str | None:
    """The encoding of a file that is not UTF-8, by its begin; None where it is, or nothing is guessed."""
    with path.open("rb") as file:
        sample = file.read(_LOOKED_AT)
    is_utf_8 = bool(_decoded(sample, "utf-8")) or not sample
    return None if is_utf_8 and b"\0" not in sample else guessed(path)


def _decoded(sample: bytes, encoding: str) -> str:
    """The text of bytes that may end within a character; empty when they are not of that encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return ""


class _Recoded(io.RawIOBase):
    """A file read as UTF-8, a piece at a time."""

    def __init__(self, path: Path, encoding: str) -> None:
        self._file = path.open("rb")
        self._encoding, self._decoder = encoding, codecs.getincrementaldecoder(encoding)()
        self._left, self._is_whole = b"", False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # always called with one
        """Fill the buffer; 0 at the end."""
        while not self._left and not self._is_whole:
            self._left = self._next()
        n_bytes = min(len(buffer), len(self._left))
        buffer[:n_bytes], self._left = self._left[:n_bytes], self._left[n_bytes:]
        return n_bytes

    def _next(self) -> bytes:
        raw = self._file.read(_CHUNK)
        self._is_whole = not raw
        try:
            return self._decoder.decode(raw, final=not raw).encode("utf-8", "surrogatepass")
        except UnicodeError as error:
            raise OSError(errno.EILSEQ, f"it is not {self._encoding}: {error}") from None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        super().close()

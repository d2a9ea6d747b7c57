"""Templates are compiled once, as modules are: what came of it lies in a folder beside them.

To compile them takes longer than all else that a run does whose results are in the cache. Jinja's own cache of files
pickles, and fails where nothing can be written.
"""

import marshal
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import CodeType

import jinja2
from jinja2.bccache import Bucket


class Compiled(jinja2.BytecodeCache):
    """The code of templates in a folder, by the text of the template, by what compiled it and its options.

    As with modules, what cannot be written, or read, is compiled again; with `sys.dont_write_bytecode` nothing is
    written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load_bytecode(self, bucket: Bucket) -> None:
        """Take the code of the template, where there is some of just this text."""
        with suppress(OSError, EOFError, ValueError, TypeError):
            told, _, text = self._file(bucket).read_bytes().partition(b"\n")
            if told == bucket.checksum.encode():
                code = marshal.loads(text)  # noqa: S302 - lies beside our modules, whose code is read likewise
                bucket.code = code if isinstance(code, CodeType) else None

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep the code; whole, as two processes may do it at once."""
        if sys.dont_write_bytecode or bucket.code is None:
            return
        file = self._file(bucket)
        part = file.with_name(f"{file.name}.{os.getpid()}")
        with suppress(OSError):
            file.parent.mkdir(exist_ok=True)
            part.write_bytes(bucket.checksum.encode() + b"\n" + marshal.dumps(bucket.code))
            part.replace(file)

    def _file(self, bucket: Bucket) -> Path:
        by = bucket.environment
        options = "".join(str(int(bool(option))) for option in (by.autoescape, by.trim_blocks, by.lstrip_blocks))
        versions = f"{sys.implementation.cache_tag}.jinja-{jinja2.__version__}"
        return self._folder / f"template-{bucket.key}.{versions}.{options}"

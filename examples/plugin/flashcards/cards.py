"""Cards: a line is `front :: back`; blank lines and those that begin with # are none."""

from collections.abc import Iterator
from pathlib import Path

from olivine.data.sources import PLAIN, FileSource, Item, Options
from olivine.errors import DataError


class Cards(FileSource):
    """Flashcards, one a line, as questions and answers."""

    suffixes = (".cards",)

    def read(self, path: Path, options: Options = PLAIN) -> Iterator[Item]:
        """The cards with their lines; a line without the two colons is told, and the rest is read."""
        lines = path.read_text(encoding=options.encoding or "utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            front, colons, back = (part.strip() for part in line.partition("::"))
            yield number, {"question": front, "answer": back} if colons else DataError("there is no '::' in the line")

"""README in other languages, from docs/locale/*/README.po: `python docs/_ext/readme.py` checks, `--write` makes them.

Exit code 1 with a line for each text of README.md that lacks its translation, for each translation whose text is
gone, and for each file that is not what README.md and the translations make.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import polib
from mdpo.md2po import markdown_to_pofile
from mdpo.po2md import pofile_to_markdown

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
HAS_WORDS = re.compile(r"[^\W\d_]{3}")  # a number with its unit is the same everywhere


def faults(catalog: Path) -> Iterator[str]:
    """What is missing or stale in the translations of one language."""
    texts = {entry.msgid for entry in markdown_to_pofile(str(README), location=False)}
    told = {entry.msgid: entry for entry in polib.pofile(str(catalog))}
    where = catalog.relative_to(ROOT)
    for text in sorted(texts):
        if HAS_WORDS.search(text) and (text not in told or not told[text].msgstr or told[text].fuzzy):
            yield f"{where}: not translated: {text}"
    yield from (f"{where}: stale: {text}" for text in sorted(told.keys() - texts))


def translated(catalog: Path) -> str:
    """README.md in the language of the catalog."""
    return str(pofile_to_markdown(str(README), str(catalog), wrapwidth=0)).rstrip("\n") + "\n"


def main() -> int:
    """Check, or write, the README of every language there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    is_written = parser.parse_args().write
    said = []
    for catalog in sorted((ROOT / "docs" / "locale").glob("*/README.po")):
        said += faults(catalog)
        page = ROOT / f"README.{catalog.parent.name}.md"
        if is_written:
            page.write_text(translated(catalog), encoding="utf-8")
        elif not page.is_file() or page.read_text(encoding="utf-8") != translated(catalog):
            said.append(f"{page.name}: stale; `python docs/_ext/readme.py --write` makes it anew")
    sys.stdout.write("".join(f"{line}\n" for line in said))
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())

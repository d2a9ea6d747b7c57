"""Whether translations say what the pages say: `python docs/_ext/translations.py TEMPLATES`, after Sphinx's gettext.

A page is translated whole or not at all. Exit code 1 with a line for each text that lacks its translation, and for each
translation whose text is gone.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from sphinx_intl.catalog import load_po

LOCALE = Path(__file__).parent.parent / "locale"


def faults(templates: Path) -> Iterator[str]:
    """What is missing or stale in every page that has a translation."""
    for path in sorted(LOCALE.glob("*/LC_MESSAGES/**/*.po")):
        page = path.relative_to(LOCALE).relative_to(Path(*path.relative_to(LOCALE).parts[:2])).with_suffix(".pot")
        texts = {message.id for message in load_po(str(templates / page)) if message.id}
        told = {message.id: message for message in load_po(str(path)) if message.id}
        where = path.relative_to(LOCALE)
        yield from (f"{where}: not translated: {text}" for text in sorted(texts - told.keys()))
        yield from (f"{where}: stale: {text}" for text in sorted(told.keys() - texts))
        empty = (text for text, message in told.items() if text in texts and (not message.string or message.fuzzy))
        yield from (f"{where}: not translated: {text}" for text in sorted(empty))


if __name__ == "__main__":
    found = list(faults(Path(sys.argv[1])))
    sys.exit("\n".join(found) if found else 0)

"""Variables that look like secrets by their names: no config holds their values, as it is kept and shared."""

import re
from collections.abc import Iterable

# not TOKENIZERS_PARALLELISM, not MAX_TOKENS
_IS_SECRET = re.compile(r"TOKEN(?!IZ|S$)|SECRET|PASSWORD|PASSWD|(_|^)(API|ACCESS|ACCOUNT|PRIVATE)?_?KEY$")


def refuse_secrets(names: Iterable[str], fix: str) -> None:
    """ValueError for the first name that looks like a secret's. fix: how its process gets it instead."""
    for name in names:
        if _IS_SECRET.search(name.upper()):
            raise ValueError(f"'{name}' does not belong into a config: {fix}")

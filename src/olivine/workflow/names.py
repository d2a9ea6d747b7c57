"""Names of passes: the user's, in lists where the program has words of its own."""

import re
import threading

RESERVED = {
    "base": "the table of scores calls the input model so",
    "input": "passes that compare call the input model so",
    "data": "the look at all rows before the first step is called so",
    "prove": "the proof before the first step is called so",
}
OF_THE_PROGRAM = (
    "score:",
    "fetch:",
    "materialize:",
    "rows:",
    "time:",
    "prepare:",
)  # its own steps, beside those of the user
_OF_WINDOWS = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
_LONGEST = 100  # characters of a file name


def name_problem(name: str) -> str | None:
    """Why a pass cannot have that name, as a sentence; None when it can."""
    if not name.strip():
        return "a pass needs a name."
    if name in RESERVED:
        return f"a pass cannot be named '{name}': {RESERVED[name]}."
    own = next((word for word in OF_THE_PROGRAM if name.startswith(word)), None)
    return f"a pass cannot be named '{name}': the program's own steps begin with '{own}'." if own else None


class FileNames:
    """Spells names as plain file names: those of one folder, never two alike, wherever letter case does not count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_name: dict[str, str] = {}
        self._taken = set(_OF_WINDOWS)

    def of(self, name: str) -> str:
        """The file name, without a suffix, that stands for the name; the same one every time."""
        with self._lock:
            if name not in self._by_name:
                plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:_LONGEST] or "-"
                spellings = (plain, *(f"{plain}-{n}" for n in range(2, len(self._taken) + 3)))
                self._by_name[name] = next(one for one in spellings if one.casefold() not in self._taken)
                self._taken.add(self._by_name[name].casefold())
            return self._by_name[name]

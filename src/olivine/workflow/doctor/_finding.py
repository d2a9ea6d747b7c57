"""What the doctor tells."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    area: "machine", "packages", "runtime", "plugins" or "hub". fix: what to do when it is not ok.
    """

    area: str
    name: str
    ok: bool
    message: str
    fix: str = ""

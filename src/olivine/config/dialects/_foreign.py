"""Forms of a config that another package knows: `dialect` names the one that a config is written in."""

from olivine import registry
from olivine.config.dialects._edit import Findings
from olivine.config.nodes import Object, Place
from olivine.errors import Problem

KEY = "dialect"
_GROUP = "olivine.dialects"


def translate(config: Object) -> Findings:
    """Let the dialect that the config names make one of our forms of it."""
    if KEY not in config:
        return
    name, place = config.take(KEY)
    entry = registry.offer(_GROUP, name) if isinstance(name, str) else None
    if entry is None:
        there = ", ".join(registry.offered(_GROUP)) or "none is installed"
        message = f"there is no dialect {name!r} (of other packages: {there})."
        yield Problem("invalid-value", str(place), message, f"Leave '{KEY}' out for Olive's configs of any year.")
        return
    try:
        yield from registry.loaded(entry)(config)
    except registry.PluginError as fault:
        yield Problem(
            "missing-extra", str(place), f"the dialect {fault}.", "Install a version of its package that fits."
        )
    except Exception as error:  # noqa: BLE001 - the code of a third party, whatever it raises
        yield _failed(place, entry.name, error)


def _failed(place: Place, name: str, error: Exception) -> Problem:
    message = f"the dialect '{name}' cannot read this config ({type(error).__name__}: {error})."
    return Problem("invalid-value", str(place), message, "Ask who maintains it.")

"""Systems written in place, as `host: {type: ...}`, and their settings under `config`; today named and flat."""

from olivine.config.dialects._edit import Findings, Note, lift, named, section_of
from olivine.config.nodes import Object, Place


def translate(config: Object) -> Findings:
    """Name every system in `systems`, with its settings beside its type."""
    for role in ("host", "target"):
        yield from _name(config, config, role, f"{role}_system")
    for name, step in list(named(config, "passes")):
        yield from _name(config, step, "host", f"{name}_system")
    nested = [name for name, system in named(config, "systems") if isinstance(system.get("config"), Object)]
    if nested:
        names = ", ".join(f"'{name}'" for name in nested)
        message = f"The keys of 'config' stand beside 'type' today, in the system {names}."
        where = (config.mapping("systems") or config).where(nested[0])
        yield Note(where, "systems.*.config", "systems.*", message)
    for _, system in named(config, "systems"):
        yield from lift(system, "config")


def _name(config: Object, section: Object, role: str, name: str) -> Findings:
    system = section.mapping(role)
    if system is None:
        return
    place: Place = section.places[role]
    section_of(config, "systems", place).put(name, system, place)
    section.put(role, name, place)
    yield Note(str(place), role, name, f"The system written under '{role}' is named '{name}' in 'systems'.")

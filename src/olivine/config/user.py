"""What stands once for all workflows of a user: systems, and the workspace of a cloud.

    {"systems": {"cluster": {"type": "AzureML", ...}}, "azureml_client": {...}}

in $OLIVINE_CONFIG, else olivine/config.json (or .yaml) below $XDG_CONFIG_HOME or ~/.config. A config may name these
systems as its own; one that it defines itself counts there.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from olivine.config.nodes import Object
from olivine.config.read import read
from olivine.errors import Problem
from olivine.paths import of_user

KEYS = ("systems", "azureml_client")
_NAMES = ("config.json", "config.yaml", "config.yml")


def user_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The user's file, if there is one."""
    named = environment.get("OLIVINE_CONFIG")
    if named is not None:
        return of_user(named) if named else None
    folder = of_user(environment.get("XDG_CONFIG_HOME", "~/.config")) / "olivine"
    return next((folder / name for name in _NAMES if (folder / name).is_file()), None)


def complete(root: Object, file: Path) -> Iterator[Problem]:
    """Put what the config names and does not define into it, each with its place in the user's file.

    Raises ConfigError when that file cannot be read.
    """
    own = read(file).copy().root
    for key in own:
        if key not in KEYS:
            known = " and ".join(f"'{name}'" for name in KEYS)
            yield Problem(
                "unknown-key", own.where(key), f"unknown key '{key}' in the user's own file.", f"It has {known}."
            )
    systems, named = own.mapping("systems"), set(_named(root))
    used = [name for name in systems or () if name in named and name not in (root.get("systems") or {})]
    if systems is not None and used:
        if root.mapping("systems") is None and root.get("systems") is None:
            root.put("systems", Object(own.places["systems"]), own.places["systems"])
        if (section := root.mapping("systems")) is not None:
            for name in used:
                section.put(name, systems[name], systems.places[name])
    if "azureml_client" in own and "azureml_client" not in root and _is_of_azure(root):
        root.put("azureml_client", own["azureml_client"], own.places["azureml_client"])


def _named(root: Object) -> Iterator[str]:
    """Names of systems in the roles of a config, whatever its form."""
    engine = root.mapping("engine") or Object(root.place)
    passes = root.mapping("passes") or Object(root.place)
    for section in (root, engine, *passes.values()):
        for role in ("host", "target"):
            if isinstance(section, Object) and isinstance(name := section.get(role), str):
                yield name


def _is_of_azure(root: Object) -> bool:
    """Whether something of the config needs a workspace."""
    return "azureml" in repr(dict(root)).lower()

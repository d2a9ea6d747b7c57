"""A config in a program: read from a file or given as a mapping, checked, and changed without being written."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from olivine.config import Loaded, document_of, load_document, read
from olivine.config import Workflow as Sections
from olivine.config.nodes import plain
from olivine.errors import ConfigError


@dataclass(frozen=True)
class Workflow:
    """A config that holds, as far as the config alone tells; what machine, model and rows tell is said by `plan`.

    loaded: what was read; it knows the line of every key.
    """

    loaded: Loaded

    @property
    def config(self) -> Sections:
        """The config in typed form: `workflow.config.passes["lora"].params`."""
        if self.loaded.workflow is None:
            raise ConfigError(self.loaded.problems)
        return self.loaded.workflow

    @property
    def notes(self) -> tuple[str, ...]:
        """What was translated from an older form, a sentence each."""
        return tuple(map(str, self.loaded.notes))

    def changed(self, overrides: Mapping[str, Any]) -> "Workflow":
        """The same with other values, as {"passes.lora.r": 8}; ConfigError where a key or value is wrong."""
        return _checked(overridden(self.loaded, overrides))

    def to_dict(self) -> dict[str, Any]:
        """The config as it would be written today."""
        written: dict[str, Any] = plain(self.loaded.document.root)
        return written

    def save(self, path: str | Path) -> Path:
        """Write it as JSON; relative data files then start from the folder of that file."""
        target = Path(path)
        target.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return target

    def __repr__(self) -> str:
        return f"Workflow({self.loaded.document.path.name}: {' -> '.join(self.config.passes)})"


def load_config(
    config: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None, *, folder: Path | None = None
) -> Workflow:
    """Read a config, in any form since 2023, from a JSON or YAML file or a mapping.

    overrides: values that are set before, as {"passes.lora.r": 8}. folder: where relative data files of a mapping
    start; else the current one. Raises ConfigError with every problem, each with file and line, or the key of a
    mapping.
    """
    document = document_of(config, folder) if isinstance(config, Mapping) else read(Path(config))
    return _checked(load_document(document, settings(overrides)))


def overridden(loaded: Loaded, overrides: Mapping[str, Any] | None) -> Loaded:
    """The config with other values; what was translated before stays told."""
    if not overrides:
        return loaded
    again = load_document(loaded.document, settings(overrides))
    return replace(again, notes=tuple(dict.fromkeys((*loaded.notes, *again.notes))))


def settings(overrides: Mapping[str, Any] | None) -> Sequence[str]:
    """Overrides as the command line writes them."""
    return [f"{key}={json.dumps(value, default=str)}" for key, value in (overrides or {}).items()]


def _checked(loaded: Loaded) -> Workflow:
    if loaded.problems:
        raise ConfigError(loaded.problems)
    return Workflow(loaded)

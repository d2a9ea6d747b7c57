"""Plugins: the file name is the name, `__init__` lists nothing, third parties join by entry point.

A registry looks into a package and its sub-packages for modules whose name has no leading underscore; each holds
exactly one class derived from the registry's base. Names are matched in any case, and a class may list aliases.
"""

import difflib
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Iterator
from functools import cached_property
from typing import Generic, TypeVar

Plugin = TypeVar("Plugin")


class Registry(Generic[Plugin]):
    """The plugins of one kind.

    package: dotted name of the package that holds our own. base: the class they derive from; a class may carry
    `aliases`, other names it answers to. group: the entry point group of third parties.
    """

    def __init__(self, package: str, base: type[Plugin], group: str) -> None:
        self._package, self._base, self._group = package, base, group

    @cached_property
    def classes(self) -> dict[str, type[Plugin]]:
        """Every plugin by its plain name, sorted; importing one must not import a heavy library."""
        found = dict(self._own())
        for entry in importlib.metadata.entry_points(group=self._group):
            found.setdefault(entry.name, entry.load())
        for name, plugin in found.items():
            plugin.name = name  # type: ignore[attr-defined]
        return dict(sorted(found.items()))

    @cached_property
    def _by_any_name(self) -> dict[str, type[Plugin]]:
        names: dict[str, type[Plugin]] = {}
        for name, plugin in self.classes.items():
            for spelling in (name, *getattr(plugin, "aliases", ())):
                names[spelling.lower()] = plugin
        return names

    def find(self, name: str) -> type[Plugin] | None:
        """The plugin of that name or alias, in any case; None when there is none."""
        return self._by_any_name.get(name.lower())

    def nearest(self, name: str) -> str | None:
        """The known name or alias most like `name`, for "did you mean"."""
        spellings = {
            spelling.lower(): spelling
            for known, plugin in self.classes.items()
            for spelling in (known, *getattr(plugin, "aliases", ()))
        }
        close = difflib.get_close_matches(name.lower(), spellings, n=1)
        return spellings[close[0]] if close else None

    def _own(self) -> Iterator[tuple[str, type[Plugin]]]:
        root = importlib.import_module(self._package)
        for info in pkgutil.walk_packages(root.__path__, self._package + "."):
            name = info.name.rpartition(".")[2]
            if info.ispkg or name.startswith("_"):
                continue
            yield name, self._class_of(info.name)

    def _class_of(self, module_name: str) -> type[Plugin]:
        found = [
            value
            for value in vars(importlib.import_module(module_name)).values()
            if isinstance(value, type) and issubclass(value, self._base) and value.__module__ == module_name
        ]
        if len(found) != 1:
            raise TypeError(f"{module_name} must hold exactly one {self._base.__name__}, found {len(found)}")
        return found[0]

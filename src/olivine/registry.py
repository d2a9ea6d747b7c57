"""Plugins: the file name is the name, `__init__` lists nothing, third parties join by entry point.

A registry looks into a package and its sub-packages for modules whose name has no leading underscore; each holds
exactly one class derived from the registry's base. Names are matched in any case, and a class may list aliases.

Names and aliases of our own win. A third party's plugin that does not load is missing with a reason, and harms only who
asks for it.
"""

import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from functools import cache, cached_property
from typing import Any, ClassVar, Generic, TypeVar, get_origin

Plugin = TypeVar("Plugin")


def plugin_names(package: str, group: str) -> list[str]:
    """Names of the plugins that a package holds and third parties offer, found without importing one.

    What only a class tells is missing: aliases, and whether it loads.
    """
    root = importlib.util.find_spec(package)
    places = root.submodule_search_locations if root is not None else None
    own = [info.name for info in pkgutil.walk_packages(places or [], f"{package}.") if not info.ispkg]
    names = [name.rpartition(".")[2] for name in own]
    theirs = [entry.name for entry in _entry_points(tuple(sys.path)).select(group=group)]
    return [*(name for name in names if not name.startswith("_")), *theirs]


class Registry(Generic[Plugin]):
    """The plugins of one kind.

    package: dotted name of the package that holds our own. base: the class they derive from; a class may carry
    `aliases`, other names it answers to. group: the entry point group of third parties.
    """

    def __init__(self, package: str, base: type[Plugin], group: str) -> None:
        self._package, self._base, self._group = package, base, group

    @cached_property
    def own(self) -> dict[str, type[Plugin]]:
        """Our own plugins by their plain names; nothing of third parties is looked at."""
        classes = dict(self._own())
        for name, plugin in classes.items():
            plugin.name = name  # type: ignore[attr-defined]
        return classes

    @cached_property
    def classes(self) -> dict[str, type[Plugin]]:
        """Every plugin by its plain name, sorted; importing one must not import a heavy library."""
        return dict(sorted(self._load[0].items()))

    @cached_property
    def broken(self) -> dict[str, str]:
        """Third parties' plugins that are not served, by name: why, in a sentence."""
        return self._load[1]

    @cached_property
    def _load(self) -> tuple[dict[str, type[Plugin]], dict[str, str]]:
        classes, broken = dict(self.own), {}
        taken = {spelling.lower() for name, plugin in classes.items() for spelling in _spellings(name, plugin)}
        for entry in _entry_points(tuple(sys.path)).select(group=self._group):
            try:
                if entry.name.lower() in taken:
                    raise ValueError("another plugin has that name")  # noqa: TRY301 - told as the other reasons are
                plugin = self._checked(entry.load())
                plugin.name = entry.name  # type: ignore[attr-defined]
                classes[entry.name] = plugin
                taken.add(entry.name.lower())
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the code of a third party: whatever it raises, it is not here
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                broken[entry.name] = f"'{entry.name}' of {_origin(entry)} does not load ({reason})"
        return classes, broken

    def _checked(self, plugin: object) -> type[Plugin]:
        """The plugin; TypeError when it is none."""
        if not isinstance(plugin, type) or not issubclass(plugin, self._base):
            raise TypeError(f"{plugin!r} is no {self._base.__name__}")
        annotations = inspect.get_annotations(self._base)
        declared = [name for name, kind in annotations.items() if name != "name" and _is_class_variable(kind)]
        lacking = [name for name in declared if not hasattr(plugin, name)]
        if lacking or inspect.isabstract(plugin):
            raise TypeError(f"{plugin.__name__} lacks {', '.join(lacking) or 'a method'}")
        aliases = getattr(plugin, "aliases", ())
        if not isinstance(aliases, tuple) or not all(isinstance(alias, str) for alias in aliases):
            raise TypeError(f"{plugin.__name__}.aliases is no tuple of names")
        return plugin

    @cached_property
    def _by_any_name(self) -> dict[str, type[Plugin]]:
        names = {name.lower(): plugin for name, plugin in self.classes.items()}  # a name goes before an alias
        for name, plugin in self._load[0].items():  # our own come first
            for spelling in _spellings(name, plugin):
                names.setdefault(spelling.lower(), plugin)
        return names

    def find(self, name: str) -> type[Plugin] | None:
        """The plugin of that name or alias, in any case; None when there is none."""
        own = next((plugin for known, plugin in self.own.items() if name.lower() == known.lower()), None)
        return own or self._by_any_name.get(name.lower())

    def why_missing(self, name: str) -> str | None:
        """Why the plugin of that name is not here, when a third party offers it."""
        return next((why for known, why in self.broken.items() if known.lower() == name.lower()), None)

    def missing(self, name: str, kind: str) -> str:
        """What to say of a name that no plugin of that kind ("data form") has: why, or which one is meant."""
        if (why := self.why_missing(name)) is not None:
            return f"the {kind} {why}"
        near = self.nearest(name)
        hint = f"did you mean '{near}'?" if near else f"there is: {', '.join(self.classes)}"
        return f"there is no {kind} '{name}'; {hint}"

    def forget(self) -> None:
        """Look for plugins anew: what is installed has changed."""
        for known in ("own", "classes", "broken", "_load", "_by_any_name"):
            self.__dict__.pop(known, None)
        _entry_points.cache_clear()

    def nearest(self, name: str) -> str | None:
        """The known name or alias most like `name`, for "did you mean"."""
        spellings = {
            spelling.lower(): spelling
            for known, plugin in self.classes.items()
            for spelling in _spellings(known, plugin)
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
        classes = [
            value
            for value in vars(importlib.import_module(module_name)).values()
            if isinstance(value, type) and issubclass(value, self._base) and value.__module__ == module_name
        ]
        if len(classes) != 1:
            raise TypeError(f"{module_name} must hold exactly one {self._base.__name__}, found {len(classes)}")
        return classes[0]


def _is_class_variable(annotation: Any) -> bool:
    """Whether an annotation says that the class itself has the value."""
    return get_origin(annotation) is ClassVar


@cache
def _entry_points(path: tuple[str, ...]) -> Any:  # noqa: ARG001 - another path has others
    """Those of every installed distribution, which has `select`: read once for all kinds of plugins."""
    return importlib.metadata.entry_points()


def _spellings(name: str, plugin: type) -> tuple[str, ...]:
    """The name and the aliases of a plugin."""
    return (name, *getattr(plugin, "aliases", ()))


def _origin(entry: importlib.metadata.EntryPoint) -> str:
    return f"the package '{entry.dist.name}'" if entry.dist is not None else entry.value

"""Plugins: the file name is the name, `__init__` lists nothing, third parties join by entry point.

A registry looks into a package and its sub-packages for modules whose name has no leading underscore; each holds
exactly one class derived from the registry's base. Names are matched in any case, and a class may list aliases.

Names and aliases of our own win. A third party's plugin is imported when it is named, or when all are listed; one that
does not load is missing with a reason, and harms only who asks for it.
"""

import contextlib
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
        self._tried: dict[str, type[Plugin] | str] = {}  # of third parties, by name: the plugin, or why it is none

    @cached_property
    def own(self) -> dict[str, type[Plugin]]:
        """Our own plugins by their plain names; nothing of third parties is looked at."""
        classes = dict(self._own())
        for name, plugin in classes.items():
            plugin.name = name  # type: ignore[attr-defined]
        return classes

    @cached_property
    def classes(self) -> dict[str, type[Plugin]]:
        """Every plugin by its plain name, sorted; importing one must not import a heavy library.

        It imports what third parties offer: who knows the name asks `find`, who needs no class `names`.
        """
        offered = {name: plugin for name in self._offers if not isinstance(plugin := self._try(name), str)}
        return dict(sorted({**self.own, **offered}.items()))

    @property
    def names(self) -> list[str]:
        """Every plugin's plain name, sorted, those of third parties as they offer them."""
        return sorted({*self.own, *self._offers})

    @cached_property
    def broken(self) -> dict[str, str]:
        """Third parties' plugins that are not served, by name: why, in a sentence."""
        tried = {name: why for name in self._offers if isinstance(why := self._try(name), str)}
        return {**tried, **self._refused}

    @cached_property
    def _own_spellings(self) -> dict[str, type[Plugin]]:
        """Our own by every name that they answer to, in lower case; a name goes before an alias."""
        names = {name.lower(): plugin for name, plugin in self.own.items()}
        for name, plugin in self.own.items():
            for spelling in _spellings(name, plugin):
                names.setdefault(spelling.lower(), plugin)
        return names

    @cached_property
    def _entries(self) -> tuple[dict[str, importlib.metadata.EntryPoint], dict[str, str]]:
        """What third parties offer by name, and why some of it is not taken; nothing is imported."""
        offers: dict[str, importlib.metadata.EntryPoint] = {}
        refused: dict[str, str] = {}
        for entry in _entry_points(tuple(sys.path)).select(group=self._group):
            taken = {*self._own_spellings, *(name.lower() for name in offers)}
            if entry.name.lower() in taken and not (entry.name in offers and offers[entry.name] == entry):
                refused[entry.name] = _unserved(entry, ValueError("another plugin has that name"))
            else:
                offers[entry.name] = entry
        return offers, refused

    @property
    def _offers(self) -> dict[str, importlib.metadata.EntryPoint]:
        return self._entries[0]

    @property
    def _refused(self) -> dict[str, str]:
        return self._entries[1]

    def _try(self, name: str) -> type[Plugin] | str:
        """The plugin that a third party offers under that name, or why it is none; it is imported once."""
        if name not in self._tried:
            entry = self._offers[name]
            try:
                plugin = self._checked(loaded(entry))
                plugin.name = name  # type: ignore[attr-defined]
                self._tried[name] = plugin
            except PluginError as fault:
                self._tried[name] = str(fault)
            except TypeError as error:
                self._tried[name] = _unserved(entry, error)
        return self._tried[name]

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

    def find(self, name: str) -> type[Plugin] | None:
        """The plugin of that name or alias, in any case; None when there is none.

        Of third parties' only the one of that name is imported; all of them where it can only be an alias.
        """
        if (own := self._own_spellings.get(name.lower())) is not None:
            return own
        if (offered := self._offered(name)) is not None:
            plugin = self._try(offered)
            return None if isinstance(plugin, str) else plugin
        if self.why_missing(name) is not None:
            return None
        aliases = ((alias, one) for known, one in self.classes.items() for alias in _spellings(known, one))
        return next((plugin for alias, plugin in aliases if alias.lower() == name.lower()), None)

    def __getitem__(self, name: str) -> type[Plugin]:
        """The plugin of a name that is known to be one's; KeyError where it is none."""
        if (plugin := self.find(name)) is None:
            raise KeyError(name)
        return plugin

    def _offered(self, name: str) -> str | None:
        """The name as a third party spells it."""
        return next((known for known in self._offers if known.lower() == name.lower()), None)

    def why_missing(self, name: str) -> str | None:
        """Why the plugin of that name is not here, when a third party offers it."""
        if (offered := self._offered(name)) is not None:
            plugin = self._try(offered)
            return plugin if isinstance(plugin, str) else None
        return next((why for known, why in self._refused.items() if known.lower() == name.lower()), None)

    def missing(self, name: str, kind: str) -> str:
        """What to say of a name that no plugin of that kind ("data form") has: why, or which one is meant."""
        if (why := self.why_missing(name)) is not None:
            return f"the {kind} {why}"
        near = self.nearest(name)
        hint = f"did you mean '{near}'?" if near else f"there is: {', '.join(self.names)}"
        return f"there is no {kind} '{name}'; {hint}"

    def forget(self) -> None:
        """Look for plugins anew: what is installed has changed."""
        for known in ("own", "classes", "broken", "_own_spellings", "_entries"):
            self.__dict__.pop(known, None)
        self._tried.clear()
        _entry_points.cache_clear()

    def nearest(self, name: str) -> str | None:
        """The known name most like `name`, or alias of ours, for "did you mean"; no third party's is imported."""
        own = (spelling for known, plugin in self.own.items() for spelling in _spellings(known, plugin))
        spellings = {spelling.lower(): spelling for spelling in (*self._offers, *own)}
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


class PluginError(Exception):
    """A third party's plugin does not load; the message is a sentence that names its package."""


def loaded(entry: importlib.metadata.EntryPoint) -> Any:
    """What an entry point names; PluginError where its code fails, whatever it raises.

    What it prints goes to standard error: standard output carries the result alone.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - the code of a third party: SystemExit and a panic of Rust are none of ours
        raise PluginError(_unserved(entry, error)) from None


def offer(group: str, name: str) -> importlib.metadata.EntryPoint | None:
    """The entry point of that name, in any case."""
    entries = _entry_points(tuple(sys.path)).select(group=group)
    return next((entry for entry in entries if entry.name.lower() == name.lower()), None)


def offered(group: str) -> list[str]:
    """The names of a group's entry points."""
    return sorted({entry.name for entry in _entry_points(tuple(sys.path)).select(group=group)})


def distributions_of(module: str) -> list[str]:
    """The packages, with their versions, whose plugins lie where the module does: "olivine-garden 1.0"."""
    top = module.partition(".")[0]
    every = _entry_points(tuple(sys.path))
    ours = (entry for group in every.groups if group.startswith("olivine.") for entry in every.select(group=group))
    from_there = (entry for entry in ours if entry.module.partition(".")[0] == top and entry.dist is not None)
    return sorted({f"{entry.dist.name} {entry.dist.version}" for entry in from_there if entry.dist is not None})


def _unserved(entry: importlib.metadata.EntryPoint, error: BaseException) -> str:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"'{entry.name}' of {_origin(entry)} does not load ({reason})"


def _origin(entry: importlib.metadata.EntryPoint) -> str:
    return f"the package '{entry.dist.name}'" if entry.dist is not None else entry.value

"""Plugins: the file name is the name, `__init__` lists nothing, third parties join by entry point.

A registry looks into a package and its sub-packages for modules whose name has no leading underscore; each holds
exactly one class derived from the registry's base. Names are matched in any case, and a class may list aliases.

A plugin, ours or a third party's, is imported when it is named, or when all are listed. Files say the names. An alias
stands in a class, and to read a file is cheaper than to run it: those whose text has the name in quotes are imported
and asked, so no list repeats what a class says.

Names and aliases of our own win. A third party's plugin that does not load is missing with a reason, and harms only who
asks for it.
"""

import contextlib
import difflib
import importlib
import importlib.abc
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from importlib.machinery import ModuleSpec
from typing import Any, ClassVar, Generic, TypeVar, get_origin

Plugin = TypeVar("Plugin")


def plugin_names(package: str, group: str) -> list[str]:
    """Names of the plugins that a package holds and third parties offer, found without importing one.

    What only a class tells is missing: aliases, and whether it loads.
    """
    theirs = [entry.name for entry in _entry_points(tuple(sys.path)).select(group=group)]
    return [*_modules(package), *theirs]


def _modules(package: str) -> dict[str, ModuleSpec]:
    """The modules of a package and its sub-packages that hold a plugin, by its name; none of them is imported."""
    root = importlib.util.find_spec(package)
    specs = _specs(package, root.submodule_search_locations or ()) if root is not None else ()
    modules = {spec.name.rpartition(".")[2]: spec for spec in specs}
    return {name: spec for name, spec in modules.items() if not name.startswith("_")}


def _specs(package: str, folders: Iterable[str]) -> Iterator[ModuleSpec]:
    """Every module below a package that lies in those folders."""
    for info in pkgutil.iter_modules(folders, f"{package}."):
        if (spec := info.module_finder.find_spec(info.name, None)) is None:
            continue
        if info.ispkg:
            yield from _specs(info.name, spec.submodule_search_locations or ())
        else:
            yield spec


def _text(spec: ModuleSpec) -> str | None:
    """What a module's file says, in lower case; None where only what was compiled of it is here."""
    text = spec.loader.get_source(spec.name) if isinstance(spec.loader, importlib.abc.InspectLoader) else None
    return text.lower() if text is not None else None


class Registry(Generic[Plugin]):
    """The plugins of one kind.

    package: dotted name of the package that holds our own. base: the class they derive from; a class may carry
    `aliases`, other names it answers to. group: the entry point group of third parties.
    """

    def __init__(self, package: str, base: type[Plugin], group: str) -> None:
        self._package, self._base, self._group = package, base, group
        self._loaded: dict[str, type[Plugin]] = {}  # our own that were asked for, by name
        self._tried: dict[str, type[Plugin] | str] = {}  # of third parties, by name: the plugin, or why it is none

    @property
    def own(self) -> dict[str, type[Plugin]]:
        """Our own plugins by their plain names, all of them imported; nothing of third parties is looked at."""
        return {name: self._load(name) for name in self._modules}

    @cached_property
    def _modules(self) -> dict[str, ModuleSpec]:
        """The modules of our own plugins, by their plain names."""
        return _modules(self._package)

    @cached_property
    def _texts(self) -> dict[str, str | None]:
        """What their files say, by their plain names; see `_text`."""
        return {name: _text(spec) for name, spec in self._modules.items()}

    def _load(self, name: str) -> type[Plugin]:
        """Our own plugin of that plain name; it is imported once."""
        if name not in self._loaded:
            plugin = self._class_of(self._modules[name].name)
            plugin.name = name  # type: ignore[attr-defined]
            self._loaded[name] = plugin
        return self._loaded[name]

    def _find_own(self, name: str) -> type[Plugin] | None:
        """Our own plugin of that name or alias, in any case; a name goes before an alias.

        It alone is imported, and where it is an alias those whose file has such a text for another reason.
        """
        asked = name.lower()
        if (known := next((known for known in self._modules if known.lower() == asked), None)) is not None:
            return self._load(known)
        quoted = (f'"{asked}"', f"'{asked}'")
        saying = (one for one, text in self._texts.items() if text is None or any(each in text for each in quoted))
        return next((plugin for one in saying if asked in _aliases(plugin := self._load(one))), None)

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
        return sorted({*self._modules, *self._offers})

    @cached_property
    def broken(self) -> dict[str, str]:
        """Third parties' plugins that are not served, by name: why, in a sentence."""
        tried = {name: why for name in self._offers if isinstance(why := self._try(name), str)}
        return {**tried, **self._refused}

    @cached_property
    def _entries(self) -> tuple[dict[str, importlib.metadata.EntryPoint], dict[str, str]]:
        """What third parties offer by name, and why some of it is not taken; nothing is imported."""
        offers: dict[str, importlib.metadata.EntryPoint] = {}
        refused: dict[str, str] = {}
        for entry in _entry_points(tuple(sys.path)).select(group=self._group):
            is_taken = self._find_own(entry.name) is not None or entry.name.lower() in map(str.lower, offers)
            if is_taken and not (entry.name in offers and offers[entry.name] == entry):
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
        if (own := self._find_own(name)) is not None:
            return own
        if (offered := self._offered(name)) is not None:
            plugin = self._try(offered)
            return None if isinstance(plugin, str) else plugin
        if self.why_missing(name) is not None:
            return None
        return next((plugin for plugin in self.classes.values() if name.lower() in _aliases(plugin)), None)

    def is_own(self, name: str) -> bool:
        """Whether a plugin of ours has that plain name; none is imported."""
        return name in self._modules

    def __contains__(self, name: str) -> bool:
        """Whether a plugin that loads has that plain name; only a third party's is imported to know it."""
        return self.is_own(name) or (name in self._offers and not isinstance(self._try(name), str))

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
        for known in ("classes", "broken", "_modules", "_texts", "_entries"):
            self.__dict__.pop(known, None)
        self._loaded.clear()
        self._tried.clear()
        _entry_points.cache_clear()

    def nearest(self, name: str) -> str | None:
        """The known name most like `name`, or alias of ours, for "did you mean"; no third party's is imported."""
        own = (spelling for known, plugin in self.own.items() for spelling in _spellings(known, plugin))
        spellings = {spelling.lower(): spelling for spelling in (*self._offers, *own)}
        close = difflib.get_close_matches(name.lower(), spellings, n=1)
        return spellings[close[0]] if close else None

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


def _aliases(plugin: type) -> set[str]:
    """The aliases of a plugin, in lower case."""
    return {alias.lower() for alias in getattr(plugin, "aliases", ())}


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

"""Heavy libraries, imported when first used, and a plain sentence when they are not installed.

    if TYPE_CHECKING:
        import torch
    else:
        torch = lazy.module("torch")

The parent process reads, plans and reports with such modules in its imports and never pays for them.
"""

import gc
import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import TYPE_CHECKING, Any

from olivine.errors import MissingExtra

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet


_environment: ContextVar[tuple[Mapping[str, str], Collection[str]] | None] = ContextVar("environment", default=None)


class _LazyModule(ModuleType):
    """Stands for a module until one of its attributes is read."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # inspect and pickle probe these; they must not load anything
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self.__name__), attribute)


def module(name: str) -> ModuleType:
    """A stand-in for the module `name`, imported when an attribute of it is read."""
    return _LazyModule(name)


def names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package that offers names of its modules: a module is imported when one of them is read.

    homes: those names with spaces between them, by module. Who takes one name of a package does not wait for the rest.
    """
    home_of = {name: f"{package}.{module}" for module, offered in homes.items() for name in offered.split()}

    def read(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(importlib.import_module(home_of[name]), name)

    return read


@contextmanager
def uncollected() -> Iterator[None]:
    """Do not look for garbage meanwhile: for the import of large libraries, and for short work right after it.

    What modules are made of stays, and to walk through it again and again is a fifth of the time that they take.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def environment(versions: Mapping[str, str], modules: Collection[str]) -> Iterator[None]:
    """Let `installed` and `version` tell of another environment: while a plan asks passes that will run there.

    versions: of distributions, by name. modules: names of those that can be imported there.
    """
    token = _environment.set((versions, modules))
    try:
        yield
    finally:
        _environment.reset(token)


def installed(name: str) -> bool:
    """Whether the module `name` could be imported, in the environment that is asked about (see `environment`)."""
    asked = _environment.get()
    return name.partition(".")[0] in asked[1] if asked is not None else installed_here(name)


def installed_here(name: str) -> bool:
    """Whether this process could import the module, found out without importing it or running any of its code."""
    return importlib.util.find_spec(name.partition(".")[0]) is not None


def require(name: str, extra: str) -> ModuleType:
    """Import `name`, or raise MissingExtra with the install command of the extra that brings it."""
    if not installed_here(name):
        raise MissingExtra(missing_sentence(name, extra))
    return importlib.import_module(name)


def missing_sentence(name: str, extra: str) -> str:
    """What to say when the module `name` of the extra `extra` is not installed; one of several words is a package's."""
    return f"the package '{name.replace('.', '-')}' is not installed; run: pip install 'olivine[{extra}]'"


def version(distribution: str) -> str:
    """The version of a distribution in the environment that is asked about (see `environment`), or "none"."""
    asked = _environment.get()
    return asked[0].get(distribution, "none") if asked is not None else version_here(distribution)


def version_here(distribution: str) -> str:
    """The version of a distribution that is installed for this process, or "none"."""
    try:
        installed = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "none"
    return next(_told(installed, "Version"), None) or installed.version


def _told(distribution: importlib.metadata.Distribution, key: str) -> Iterator[str]:
    """What the metadata of a distribution say under a key, read as lines: as a mail, which they are, takes a parser."""
    for line in (distribution.read_text("METADATA") or "").splitlines():
        if not line:  # the description follows
            return
        if line.startswith(f"{key}: "):
            yield line.removeprefix(f"{key}: ").strip()


def supported(distribution: str) -> "SpecifierSet | None":
    """The versions of a distribution that olivine's own metadata asks for; None when it asks for none."""
    from packaging.specifiers import SpecifierSet

    try:
        texts = _told(importlib.metadata.distribution("olivine"), "Requires-Dist")
    except importlib.metadata.PackageNotFoundError:  # run from its source, without being installed
        return None
    name = re.compile(rf"{re.escape(distribution)}(?=[<>=!~ ]|$)")  # without an extra's marker, which a ";" begins
    ranges = (text[match.end() :] for text in texts if (match := name.match(text)) and ";" not in text)
    return next(map(SpecifierSet, ranges), None)

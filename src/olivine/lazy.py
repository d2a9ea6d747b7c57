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
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from olivine.errors import MissingExtra

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet


class _LazyModule(ModuleType):
    """Stands for a module until one of its attributes is read."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # inspect and pickle probe these; they must not load anything
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self.__name__), attribute)


def module(name: str) -> ModuleType:
    """A stand-in for the module `name`, imported when an attribute of it is read."""
    return _LazyModule(name)


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


def installed(name: str) -> bool:
    """Whether the module `name` could be imported, found out without importing it or running any of its code."""
    top = name.partition(".")[0]
    return importlib.util.find_spec(top) is not None


def require(name: str, extra: str) -> ModuleType:
    """Import `name`, or raise MissingExtra with the install command of the extra that brings it."""
    if not installed(name):
        raise MissingExtra(missing_sentence(name, extra))
    return importlib.import_module(name)


def missing_sentence(name: str, extra: str) -> str:
    """What to say when the module `name` of the extra `extra` is not installed."""
    return f"the package '{name}' is not installed; run: pip install 'olivine[{extra}]'"


def version(distribution: str) -> str:
    """The installed version of a distribution, or "none"."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def supported(distribution: str) -> "SpecifierSet | None":
    """The versions of a distribution that olivine's own metadata asks for; None when it asks for none."""
    from packaging.requirements import Requirement

    try:
        texts = importlib.metadata.requires("olivine") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source, without being installed
        return None
    required = (Requirement(text) for text in texts)
    return next((one.specifier for one in required if one.name == distribution and one.marker is None), None)

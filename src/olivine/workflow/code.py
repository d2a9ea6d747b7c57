"""The code that decides a result: the sources of a module and of all that it imports from its own package and olivine.

A key holds a digest of it, so an upgrade makes again what its code would make otherwise, and nothing else. Sources are
read as text, nothing is imported: every import statement counts wherever it stands, and a module or package that is
named in quotes (a process that is started, the plugins of a registry) counts as one that is imported.
"""

import functools
import importlib.util
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from blake3 import blake3

import olivine
from olivine.registry import distributions_of

# Begins with a literal, which a search looks for fast: sources are large.
_IMPORT = re.compile(
    r"\n[ \t]*(?:from[ \t]+(?P<module>\.*[\w.]*)[ \t]+import[ \t]+(?P<names>\([^)]*\)|[^\n]+)"
    r"|import[ \t]+(?P<modules>[^\n]+))"
)
_WORD = re.compile(r"[\w.]+")
OURS = "olivine"
# Not followed: the passes as a whole, of which a result needs its own; what reads a config, as what it says stands in
# the key; and the release, which decides nothing by its number.
APART = re.compile(r"olivine(\.passes|\.config(\..*)?)?")
# What runs every job, without what it would import for other kinds of jobs.
RUNNER = "olivine.systems._job"


@functools.cache
def code_digest(module: str) -> str:
    """The digest of a module's code; of the release alone when its sources are not here to be read.

    Of a third party's, the version of its package counts too: not all of it is Python.
    """
    release = [] if module.partition(".")[0] == OURS else distributions_of(module)
    files = {name: path for name in _closure(module) if (path := _file(name)) is not None}
    if not files:
        return " ".join([*release, f"{OURS} {olivine.__version__}"])
    if (runner := _file(RUNNER)) is not None:
        files[RUNNER] = runner
    hasher = blake3("\n".join(release).encode())
    for name, path in sorted(files.items()):
        hasher.update(f"{name}\n".encode())
        hasher.update(_hashed(path))
    return str(hasher.hexdigest())


def _closure(module: str) -> set[str]:
    """The module, and all that it imports, directly and through others."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found and not APART.fullmatch(name):
            found.add(name)
            waiting += _imported(name) - found
    return found


def _parents(module: str) -> Iterator[str]:
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


@functools.cache
def _imported(module: str) -> frozenset[str]:
    """The packages above a module, and modules of its own package and of ours that it names."""
    above, path = frozenset(_parents(module)), _file(module)
    if path is None:
        return above
    text = _source(path)
    tops = {OURS, module.partition(".")[0]}
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names = {name for match in _IMPORT.finditer(f"\n{text}") for name in _names(match, package, tops)}
    for name in _quoted(text, tops):
        names |= set() if APART.fullmatch(name) else {name, *_inside(name)}
    return above.union(name for name in names if _file(name) is not None)


def _names(match: "re.Match[str]", package: str, tops: Collection[str]) -> Iterator[str]:
    """What an import statement of a module of `package` may import from one of the top packages."""
    if match["modules"] is not None:
        modules = (part.split()[0] for part in match["modules"].split(",") if part.split())
        yield from (name for name in modules if name.partition(".")[0] in tops)
        return
    base = match["module"].lstrip(".")
    if dots := len(match["module"]) - len(base):
        above = package.split(".")[: len(package.split(".")) - dots + 1]
        base = ".".join([*above, *([base] if base else [])])
    if base.partition(".")[0] in tops:
        yield base
        path = _file(base)
        if path is None or path.name == "__init__.py":  # names of a package may be modules
            yield from (f"{base}.{name}" for name in _WORD.findall(match["names"]))


def _quoted(text: str, tops: Collection[str]) -> Iterator[str]:
    """Names in quotes of modules below the top packages."""
    text = text.replace("'", '"')
    for top in tops:
        for part in text.split(f'"{top}.')[1:]:
            inner, quote, _ = part.partition('"')
            if quote and _WORD.fullmatch(inner):
                yield f"{top}.{inner}"


@functools.cache
def _inside(name: str) -> tuple[str, ...]:
    """Every module of a package of ours; none when it is a module itself."""
    path = _file(name) if name.partition(".")[0] == OURS else None
    if path is None or path.name != "__init__.py":
        return ()
    inner = (file.relative_to(path.parent).with_suffix("").parts for file in path.parent.rglob("*.py"))
    return tuple(".".join([name, *(part for part in parts if part != "__init__")]) for parts in inner)


@functools.cache
def _file(module: str) -> Path | None:
    """Where the source of a module lies, found by its name below its top package; nothing is imported."""
    top, *parts = module.split(".")
    root = _root(top)
    if root is None or not parts:
        return root
    if root.name != "__init__.py":
        return None
    *above, last = parts
    folder = os.path.join(root.parent, *above)  # noqa: PTH118 - for each of a thousand names
    if f"{last}.py" in _listed(folder):
        return Path(folder, f"{last}.py")
    is_package = last in _listed(folder) and "__init__.py" in _listed(f"{folder}{os.sep}{last}")
    return Path(folder, last, "__init__.py") if is_package else None


@functools.cache
def _listed(folder: str) -> frozenset[str]:
    """What lies in a folder: most names that a module imports are no modules, and are looked for in few folders."""
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208
    except OSError:  # it is none, or not there
        return frozenset()


@functools.cache
def _root(top: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # a module that was run as a program has no spec
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


@functools.cache
def _source(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape")


@functools.cache
def _hashed(path: Path) -> bytes:
    return blake3(_source(path).encode("utf-8", errors="surrogateescape")).digest()

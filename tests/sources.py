"""What modules of a source tree import of each other, read without running them."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

# Calls that import the module which a string names.
_IMPORTERS = {"importlib.import_module", "import_module", "lazy.module", "__import__"}


@dataclass(frozen=True)
class Sources:
    """The modules below the folder of a package.

    layers: the number of each part of the package (a folder or file in it, `__init__` for its own); what a part may
    import lies in a lower one. Every import counts: at the top, in a function, for types alone.
    """

    root: Path
    layers: Mapping[str, int]

    @cached_property
    def modules(self) -> dict[str, Path]:
        """Files by the names of the modules."""
        return {self._name(path): path for path in sorted(self.root.rglob("*.py"))}

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """The modules of the tree that each imports; `from package import module` is the module, not the package."""
        return {name: set(self._imported(name)) - {name} for name in self.modules}

    def layer_faults(self) -> list[str]:
        """Imports from a layer above, or from another part of the same one."""
        return [
            f"{name} imports {other}"
            for name, others in self.imports.items()
            for other in sorted(others)
            if self._part(other) != self._part(name) and self._layer(other) >= self._layer(name)
        ]

    def private_faults(self) -> list[str]:
        """Imports of a module with a leading underscore from outside of the package that it is in."""
        return [
            f"{name} imports {other}"
            for name, others in self.imports.items()
            for other in sorted(others)
            if not _may_see(name, other)
        ]

    def circles(self) -> list[list[str]]:
        """Groups of modules each of which imports, by way of the others, itself."""
        reach = {name: self._reached(name) for name in self.modules}
        looped = sorted(name for name in self.modules if name in reach[name])
        together = {
            name: sorted(other for other in looped if other in reach[name] and name in reach[other]) for name in looped
        }
        return [circle for circle, _ in groupby(sorted(together.values()))]

    def _reached(self, name: str) -> set[str]:
        reached: set[str] = set()
        ahead = [name]
        while ahead:
            new = self.imports[ahead.pop()] - reached
            reached |= new
            ahead += new
        return reached

    def _name(self, path: Path) -> str:
        return ".".join((self.root.name, *path.relative_to(self.root).with_suffix("").parts)).removesuffix(".__init__")

    def _part(self, name: str) -> str:
        return name.split(".")[1] if "." in name else "__init__"

    def _layer(self, name: str) -> int:
        return self.layers[self._part(name)]

    def _imported(self, name: str) -> Iterator[str]:
        path = self.modules[name]
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (self._module(alias.name) for alias in node.names if self._is_ours(alias.name))
            elif isinstance(node, ast.ImportFrom):
                above = package.rsplit(".", node.level - 1)[0] if node.level else ""
                source = ".".join(part for part in (above, node.module) if part)
                if self._is_ours(source):
                    yield from (self._module(f"{source}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in _IMPORTERS:
                named = [word.value for word in node.args if isinstance(word, ast.Constant)]
                yield from (self._module(word) for word in named if isinstance(word, str) and self._is_ours(word))

    def _is_ours(self, name: str) -> bool:
        return name.split(".", maxsplit=1)[0] == self.root.name

    def _module(self, name: str) -> str:
        """The module that a dotted name lies in: itself, or the one that has it as an attribute."""
        while name not in self.modules:
            name = name.rpartition(".")[0]
        return name


def _may_see(name: str, other: str) -> bool:
    """Whether every private package or module on the way to the other is in a package that `name` is in."""
    parts = other.split(".")
    owners = [".".join(parts[:i]) for i, part in enumerate(parts) if part.startswith("_") and not part.startswith("__")]
    return all(name == owner or name.startswith(f"{owner}.") for owner in owners)

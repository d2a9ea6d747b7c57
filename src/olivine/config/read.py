"""The one place that opens config files: JSON or YAML to a `Document` that knows the line of every key and value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from olivine import paths
from olivine.config.json_text import SyntaxFault, parse_json
from olivine.config.nodes import Array, Object, copy, keyed
from olivine.errors import ConfigError, Problem, ProblemKind

MAX_BYTES = 10 * 1024 * 1024
_YAML_SUFFIXES = {".yaml", ".yml"}

Key = str | int
# A section of today's form that other forms write at its parent's level, or the other way round.
_TRANSPARENT = frozenset({"params", "config"})


@dataclass(frozen=True)
class Document:
    """A config as it was written. path: as the user named it. root: the mapping; parts of it know their place."""

    path: Path
    root: Object

    @property
    def folder(self) -> Path:
        """The folder that holds the file, absolute."""
        return self.path.absolute().parent

    def copy(self) -> "Document":
        """A copy that can be edited."""
        return Document(self.path, copy(self.root))

    def where(self, path: Sequence[Key] = (), *, of_value: bool = False) -> str:
        """The "file:line" of the key at a path such as ("passes", "lora", "r"); of the deepest part that is there.

        `params` of a pass and `config` of a system or resource may be left out or put in.
        """
        node: Any = self.root
        deepest = str(self.root.place)
        for key in path:
            place = _place(node, key)
            if place is None:
                if key in _TRANSPARENT:
                    continue
                place = _place(_inner(node), key)
                node = _inner(node)
            if place is None:
                break
            deepest = place.of_value if of_value else str(place)
            node = node[key]
        return deepest


def _place(node: Any, key: Key) -> Any:
    if isinstance(node, Object) and isinstance(key, str):
        return node.places.get(key)
    if isinstance(node, Array) and isinstance(key, int) and 0 <= key < len(node):
        return node.places[key]
    return None


def _inner(node: Any) -> Any:
    """The transparent section of a mapping, when it has one."""
    if not isinstance(node, Object):
        return None
    return next((node[key] for key in _TRANSPARENT if isinstance(node.get(key), Object)), None)


_OF_ROWS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")  # suffixes that no config has
_HOLDS_ROWS = "it holds rows, and is no config; 'olivine init {name}' makes one, or name the config that reads '{name}'"


def read(path: Path) -> Document:
    """Read a config file; raises ConfigError, with one problem, when it holds no mapping.

    The suffix decides: .json is JSON, .yaml and .yml are YAML; anything else is tried as JSON, then as YAML.
    """
    path = Path(path)
    content = _bytes(path)
    if path.suffix.lower() in _OF_ROWS:
        _refuse(path, _HOLDS_ROWS.format(name=path.name))
    text = _text(path, content)
    if not text.strip():
        _refuse(path, "the file is empty; a config is a mapping with at least 'input_model' and 'passes'")
    try:
        root = _parse(path, text)
    except SyntaxFault as fault:
        language = "YAML" if path.suffix.lower() in _YAML_SUFFIXES else "JSON"
        message = fault.message if fault.in_language else f"not {language}: {fault.message}"
        _refuse(path, message, place=f"{path}:{fault.line}:{fault.column}")
    if not isinstance(root, Object):
        if path.suffix.lower() == ".txt":
            _refuse(path, _HOLDS_ROWS.format(name=path.name))
        expected = "a config is a mapping with keys such as 'input_model' and 'passes'"
        _refuse(path, f"{expected}, but this is {_kind(root)}")
    return Document(path, root)


def document_of(config: Mapping[str, Any], folder: Path | None = None) -> Document:
    """A config that a program made: what is wrong in it is told by the key, as "passes.lora.r".

    folder: from which relative data files start; else the current one.
    """
    return Document((folder or Path.cwd()) / "config", keyed(config, "", "the config"))


def _parse(path: Path, text: str) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return parse_json(text, str(path))
    # PyYAML costs 30 ms to import, and most configs are JSON.
    from olivine.config.yaml_text import parse_yaml

    if suffix in _YAML_SUFFIXES:
        return parse_yaml(text, str(path))
    try:
        return parse_json(text, str(path))
    except SyntaxFault:
        if text.lstrip().startswith(("{", "[")):  # meant as JSON: that is the message to show
            raise
        return parse_yaml(text, str(path))


def _bytes(path: Path) -> bytes:
    if paths.is_folder(path):
        _refuse(path, "this is a folder; name the config file in it")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            _refuse(path, f"the file has {size / 1e6:,.0f} MB; a config has at most {MAX_BYTES / 1e6:.0f} MB")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # a pipe has no size: never read more than the limit
    except (FileNotFoundError, ValueError):  # a NUL stands in no name
        _refuse(path, "there is no such file", kind="missing-file")
    except OSError as error:
        _refuse(path, f"the file cannot be read: {error.strerror}", kind="missing-file")
    if len(content) > MAX_BYTES:
        _refuse(path, f"the file is larger than {MAX_BYTES / 1e6:.0f} MB; a config is not")
    return content


def _text(path: Path, content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        _refuse(path, "the file is UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"the file is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}; save it as UTF-8"
        _refuse(path, message, place=f"{path}:{line}")


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    return "null" if value is None else f"the value {value!r}"[:60]


def _refuse(path: Path, message: str, *, place: str = "", kind: ProblemKind = "invalid-value") -> NoReturn:
    raise ConfigError([Problem(kind, place or str(path), f"{message}.")])

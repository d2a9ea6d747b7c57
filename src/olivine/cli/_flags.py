"""A config made of flags: each value knows the flag that says it, by which problems name it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine.config.nodes import Array, Object, Place, plain, typed

if TYPE_CHECKING:
    from olivine.config import Loaded

_DATA_CONFIGS = "data_configs"


class Flags:
    """The config in the making. command: what problems name that no single flag is about."""

    def __init__(self, command: str) -> None:
        self._command = Place(f"olivine {command}", 0, 0)
        self._root = Object(self._command)

    def put(self, path: tuple[str, ...], value: Any, flag: str = "") -> None:
        """Set a value, and the mappings on the way to it; one of None is not said, unless a flag says it."""
        if value is None and not flag:
            return
        place = Place(flag, 0, 0) if flag else self._command
        node = self._root
        for key in path[:-1]:
            if key not in node:
                node.put(key, Object(place), place)
            node = node[key]
        node.put(path[-1], typed(value, place), place)

    def add_data(self, config: Mapping[str, Any], flag: str, flags: Mapping[tuple[str, str], str]) -> None:
        """One more data config. flags: which flag else says the value of a key of a section."""
        place = Place(flag, 0, 0)
        if _DATA_CONFIGS not in self._root:
            self._root.put(_DATA_CONFIGS, Array(place), place)
        data = typed(dict(config), place)
        for (section, key), of in flags.items():
            data[section].places[key] = Place(of, 0, 0)
        self._root[_DATA_CONFIGS].add(data, place)

    def update(self, sections: Mapping[str, Any], flags: Mapping[tuple[str, ...], str]) -> None:
        """Set whole sections. flags: which flag a part of them comes from, by its place."""
        for key, section in sections.items():
            self.put((key,), section)
        for path, flag in flags.items():
            self._root.places[path[0]] = Place(flag, 0, 0)

    def loaded(self, overrides: Iterable[str] = ()) -> "Loaded":
        """The config, read as one of a file in the current folder is."""
        from olivine.config import Document, load_document

        document = Document(Path.cwd() / self._command.source, self._root)
        return load_document(document, tuple(overrides))


def value_of(text: str) -> Any:
    """What is written after a flag: JSON where it is some, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def template_as_typed(text: str) -> str:
    r"""A template as it is typed in a shell, where \n and \t are two characters each."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def config_text(loaded: "Loaded", folder: Path) -> str:
    """The config as JSON of a file in that folder: names of data files hold from there."""
    content: dict[str, Any] = plain(loaded.document.root)
    if folder.resolve() != Path.cwd().resolve():
        for config in content.get(_DATA_CONFIGS, ()):
            source = config.get("load_dataset_config", {})
            if isinstance(files := source.get("data_files"), str | list):
                source["data_files"] = _absolute(files)
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _absolute(files: str | list[str]) -> str | list[str]:
    if isinstance(files, str):
        return str(Path(files).expanduser().absolute())
    return [str(Path(one).expanduser().absolute()) for one in files]

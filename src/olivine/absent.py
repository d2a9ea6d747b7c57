"""Files of which only the beginning lies here: a model that nodes of a cluster read where it is.

    FOLDER/.elsewhere.json    {"address": ..., "files": {NAME: {"bytes": ..., "blake3": ...}}}

A plan looks at configs, tokenizers and headers, keys are made of the hash, and a job that is sent names the hash: none
of that takes the weights. Whoever wants to read them here gets an error that says where they lie.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_RECORD = ".elsewhere.json"


@dataclass(frozen=True)
class Absent:
    """A file that lies elsewhere. n_bytes, blake3: of all of it."""

    n_bytes: int
    blake3: str


def write_absent(folder: Path, address: str, files: Mapping[str, Absent]) -> None:
    """Note which files of a folder have but their beginning there. address: where all of them lie, for a person."""
    record = {"address": address, "files": {name: asdict(file) for name, file in files.items()}}
    (folder / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def absent(path: Path) -> Absent | None:
    """What is known of a file that lies elsewhere; None for one that is here."""
    file = _record(path.parent).get("files", {}).get(path.name)
    return Absent(**file) if file is not None else None


def absent_files(folder: Path) -> dict[str, Absent]:
    """Those of a folder, by their names."""
    return {name: Absent(**file) for name, file in _record(folder).get("files", {}).items()}


def address_of(folder: Path) -> str | None:
    """Where the files of such a folder lie; None for a folder that is here."""
    address = _record(folder).get("address")
    return str(address) if address is not None else None


def whole_size(path: Path) -> int:
    """Bytes of a file, wherever it lies."""
    elsewhere = absent(path)
    return elsewhere.n_bytes if elsewhere is not None else path.stat().st_size


def _record(folder: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return record

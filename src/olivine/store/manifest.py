"""The manifest of an entry: what it says of the files, and whether it is whole."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from olivine.store.files import protect, sync_file, sync_folder
from olivine.store.hashes import Hashed, Stamp, digest, hash_file

Described = dict[str, dict[str, Any]]

MANIFEST = "manifest.json"


def holds(manifest: Any, key: str) -> bool:
    """Whether a manifest is whole, that of the key, and as it was written; its files lie in the entry's folder."""
    if not isinstance(manifest, dict):
        return False
    written = manifest.pop("digest", None)
    try:
        if written != digest(manifest) or manifest["key"] != key:
            return False
        names = [PurePosixPath(name) for name in manifest["files"]]
    except (KeyError, TypeError, RecursionError):
        return False
    complete = {"name", "files", "result", "created", "seconds"} <= manifest.keys()
    return complete and not any(name.is_absolute() or ".." in name.parts for name in names)


def describe(content: Path, written: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> Described:
    """Size, stamp and hash of every file, after they are on the disk and read-only.

    written: hashes that who wrote a file took meanwhile; one that was changed since is read.
    """
    described = {}
    paths = sorted(content.rglob("*"))
    for path in paths:
        if path.is_dir():
            continue
        sync_file(path)
        protect(path)
        stamp, name = Stamp.of(path), path.relative_to(content).as_posix()
        hashed = Hashed.from_json(written[name]) if name in written else None
        if hashed is None or hashed.stamp != stamp:
            hashed = Hashed(stamp, hash_file(path))
        described[name] = hashed.to_json()
    for folder in (content, *(path for path in paths if path.is_dir())):
        sync_folder(folder)
    return described

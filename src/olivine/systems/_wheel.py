"""The wheel of the olivine that is running, for an environment that is made elsewhere: the same code, bit by bit.

Nothing is fetched or built: the files are here, installed or as sources.
"""

import base64
import hashlib
import importlib.metadata
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import olivine
from olivine import __version__

_INFO = f"olivine-{__version__}.dist-info"
_WHEEL = "Wheel-Version: 1.0\nGenerator: olivine\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_SCRIPTS = "[console_scripts]\nolivine = olivine.cli:main\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a wheel of the same files has the same bytes


def build_wheel(folder: Path) -> Path:
    """Write the wheel into the folder; gives its file."""
    path = folder / f"olivine-{__version__}-py3-none-any.whl"
    record = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in _contents():
            wheel.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
            hashed = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={hashed},{len(content)}\n")
        record.append(f"{_INFO}/RECORD,,\n")
        wheel.writestr(zipfile.ZipInfo(f"{_INFO}/RECORD", _EPOCH), "".join(record))
    return path


def _contents() -> Iterator[tuple[str, bytes]]:
    root = Path(olivine.__file__).parent
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"olivine/{path.relative_to(root).as_posix()}", path.read_bytes()
    yield f"{_INFO}/METADATA", _metadata(root).encode()
    yield f"{_INFO}/WHEEL", _WHEEL.encode()
    yield f"{_INFO}/entry_points.txt", _SCRIPTS.encode()


def _metadata(root: Path) -> str:
    """What pip reads: of the sources' pyproject.toml where they are run, else as it was installed."""
    project = root.parent.parent / "pyproject.toml"
    if project.is_file() and root.parent.name == "src":
        return _of_project(tomllib.loads(project.read_text(encoding="utf-8"))["project"])
    return importlib.metadata.distribution("olivine").read_text("METADATA") or ""


def _of_project(project: dict[str, Any]) -> str:
    lines = ["Metadata-Version: 2.1", "Name: olivine", f"Version: {__version__}"]
    lines.append(f"Requires-Python: {project['requires-python']}")
    lines += [f"Requires-Dist: {need}" for need in project["dependencies"]]
    for extra, needs in project["optional-dependencies"].items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {need} ; extra == "{extra}"' for need in needs]
    return "\n".join(lines) + "\n"

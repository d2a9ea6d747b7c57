"""Images as the fake cluster has them: a folder with a `bin`, whose Python sees what an image would hold."""

import sys
from pathlib import Path

import olivine

SOURCES = Path(olivine.__file__).parent


def with_olivine(folder, *more):
    """An image with the olivine that is tested. more: other folders that its Python sees."""
    return _image(folder, [SOURCES.parent, *more])


def with_version(folder, version):
    """An image with the same olivine under another version."""
    package = folder / "lib" / "olivine"
    package.mkdir(parents=True)
    for path in SOURCES.iterdir():
        if path.name not in ("__init__.py", "__pycache__"):
            (package / path.name).symlink_to(path)
    text = (SOURCES / "__init__.py").read_text().replace(olivine.__version__, version)
    (package / "__init__.py").write_text(text)
    return _image(folder, [folder / "lib"])


def without_olivine(folder):
    """An image with a Python and nothing else."""
    return _image(folder, [], "-I", "-S")


def without_python(folder):
    """An image of something else."""
    (folder / "bin").mkdir(parents=True)
    return folder


def _image(folder, sources, *options):
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    python = folder / "bin" / "python"
    path = ":".join(map(str, sources))
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec "{sys.executable}" {" ".join(options)} "$@"\n')
    python.chmod(0o755)
    return folder


def that_prints(folder, text, code=0):
    """An image whose Python says one thing, and ends."""
    return that_does(folder, f"cat <<'END'\n{text}\nEND\nexit {code}")


def that_does(folder, script):
    """An image whose Python is a script of the shell."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return folder


def with_bucket(folder):
    """A folder that makes the address `bucket:///...` one of fsspec's, here and in an image: a store of objects."""
    info = folder / "bucket-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bucket\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fsspec.specs]\nbucket = bucket_store:Bucket\n")
    (folder / "bucket_store.py").write_text(
        "from fsspec.implementations.local import LocalFileSystem\n\n\n"
        "class Bucket(LocalFileSystem):\n"
        '    protocol = "bucket"\n\n'
        "    @classmethod\n"
        "    def _strip_protocol(cls, path):\n"
        '        return super()._strip_protocol(path.removeprefix("bucket://"))\n'
    )
    return folder


def register_bucket():
    """What fsspec does with the entry point when it is imported."""
    import bucket_store
    import fsspec

    fsspec.register_implementation("bucket", bucket_store.Bucket, clobber=True)

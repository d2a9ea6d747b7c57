"""What an image for AzureML is built of: the user's base image or Dockerfile, packages, and this olivine."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olivine.config.schema import AzureMLDocker
from olivine.errors import RequestError
from olivine.store.hashes import digest, hash_file
from olivine.systems._wheel import build_wheel

DOCKERFILE = "olivine.Dockerfile"
_OURS = "olivine-context"  # the folder of our files in a context
_PREFIX = "/opt/olivine-environment"
# what a node needs beside olivine: files that lie in blobs, and the key vault
_NODE = ("adlfs>=2024.12", "azure-identity>=1.25", "azure-keyvault-secrets>=4.9")


@dataclass(frozen=True)
class Image:
    """What an image is made of.

    extra: of olivine, which brings the runtime where neither a conda file, a requirements file nor a context does.
    """

    docker: AzureMLDocker
    requirements: Path | None = None
    extra: str = "cpu"

    def check(self) -> None:
        """RequestError when something that is named is not there."""
        docker = self.docker
        if docker.base_image is None and docker.build_context_path is None:
            raise RequestError("aml_docker_config names neither a base_image nor a build_context_path to make one of")
        if docker.build_context_path is not None and not self._dockerfile.is_file():
            raise RequestError(f"there is no file '{self._dockerfile}' to build an image of")
        if isinstance(docker.conda_file_path, str):
            _check_conda(Path(docker.conda_file_path))
        if self.requirements is not None and not self.requirements.is_file():
            raise RequestError(f"there is no requirements_file '{self.requirements}'")

    def write(self, folder: Path) -> str:
        """Write the context that it is built of; gives a hash of all that decides the image."""
        docker = self.docker
        if docker.build_context_path is not None:
            shutil.copytree(docker.build_context_path, folder, dirs_exist_ok=True)
            beginning = self._dockerfile.read_text(encoding="utf-8").rstrip().splitlines()
        else:
            beginning = [f"FROM {docker.base_image}"]
        ours = folder / _OURS
        ours.mkdir(parents=True)
        lines = [*beginning, "USER root", *self._conda(ours), *self._needs(ours)]
        wheel = build_wheel(ours)
        extra = f"[{self.extra}]" if self._brings_no_runtime else ""
        lines += [_copy(wheel.name), _pip(f"/{_OURS}/{wheel.name}{extra}", *_NODE)]
        (folder / DOCKERFILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return digest({path.relative_to(folder).as_posix(): hash_file(path) for path in files})

    @property
    def _dockerfile(self) -> Path:
        return Path(str(self.docker.build_context_path), self.docker.dockerfile or "Dockerfile")

    @property
    def _brings_no_runtime(self) -> bool:
        docker = self.docker
        return docker.conda_file_path is None and docker.build_context_path is None and self.requirements is None

    def _conda(self, ours: Path) -> list[str]:
        packages = self.docker.conda_file_path
        if packages is None:
            return []
        text = Path(packages).read_text(encoding="utf-8") if isinstance(packages, str) else _yaml(packages)
        (ours / "conda.yaml").write_text(text, encoding="utf-8")
        return [
            _copy("conda.yaml"),
            f"RUN conda env create --prefix {_PREFIX} --file /{_OURS}/conda.yaml",
            f"ENV PATH={_PREFIX}/bin:$PATH",
            f"ENV LD_LIBRARY_PATH={_PREFIX}/lib:$LD_LIBRARY_PATH",
        ]

    def _needs(self, ours: Path) -> list[str]:
        if self.requirements is None:
            return []
        shutil.copyfile(self.requirements, ours / "requirements.txt")
        return [_copy("requirements.txt"), _pip("-r", f"/{_OURS}/requirements.txt")]


def _copy(name: str) -> str:
    return f"COPY {_OURS}/{name} /{_OURS}/{name}"


def _pip(*what: str) -> str:
    return " ".join(["RUN python -m pip install --no-cache-dir", *(f'"{one}"' for one in what)])


def _check_conda(path: Path) -> None:
    import yaml

    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"there is no conda_file_path '{path}'") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"the conda_file_path '{path}' cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(said, dict) or not isinstance(said.get("dependencies"), list):
        raise RequestError(f"the conda_file_path '{path}' lists no dependencies, which a file of conda does")


def _yaml(packages: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(packages), sort_keys=False))

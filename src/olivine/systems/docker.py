"""A container on this machine's engine, of an image that is there, pulled, or built with this olivine in it."""

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from olivine import __version__, lazy
from olivine.errors import OlivineError, RequestError, StepFailed
from olivine.messages import ending
from olivine.paths import is_file, of_user
from olivine.store.hashes import digest, hash_file
from olivine.store.remote import RemoteFiles
from olivine.store.transfer import Files
from olivine.systems._base import FilePath, SystemParams
from olivine.systems._batch import Batch
from olivine.systems._probe import PROBE, Probe, read_answer
from olivine.systems._process import WORKER
from olivine.systems._secrets import refuse_secrets
from olivine.systems._wheel import build_wheel

if TYPE_CHECKING:
    import docker
else:
    docker = lazy.module("docker")

_STORE = "/olivine"  # where a container sees the store
_BY_NAME = "write its name alone into a list of 'environment', and set it where olivine is run"
_UNLESS_THERE = (  # a module, and what brings it
    "import importlib.util, subprocess, sys; sys.exit(0 if importlib.util.find_spec(sys.argv[1]) else "
    "subprocess.call([sys.executable, '-m', 'pip', 'install', '--no-cache-dir', sys.argv[2]]))"
)
_KILLED = 137  # 128 and SIGKILL
_PROBE_SECONDS, _END_SECONDS = 120, 5


class LocalDocker(BaseModel):
    """The image, as older configs write it in a section of its own."""

    model_config = {"extra": "forbid", "frozen": True}

    image_name: str | None = Field(None, description="image to run, or the name of the one that is built")
    build_context_path: FilePath | None = Field(None, description="folder that an image is built of")
    dockerfile: str = Field("Dockerfile", description="file in it that says how")
    build_args: dict[str, str] = Field(default_factory=dict, description="build arguments of that file")
    run_params: dict[str, Any] = Field(
        default_factory=dict, description="what containers are run with, as docker-py names it: mem_limit, volumes"
    )

    @field_validator("build_args", "run_params")
    @classmethod
    def _holds_no_secret(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if info.field_name == "build_args":
            refuse_secrets(given, "an image keeps its build arguments; give what needs it to the container")
            return given
        environment = given.get("environment", {})
        pairs = environment.items() if isinstance(environment, Mapping) else (_pair(text) for text in environment)
        refuse_secrets((str(name) for name, value in pairs if value is not None), _BY_NAME)
        return given


class Docker(Batch):
    """A container on this machine's engine."""

    aliases = ("Docker",)
    modules: ClassVar[Mapping[str, str]] = {"docker": "docker"}
    pause_seconds = 0.2

    class Params(LocalDocker, SystemParams):
        """The image and how it is run."""

        local_docker_config: LocalDocker | None = Field(None, description="the image, as older configs write it")
        store: FilePath | None = Field(
            None, description="folder of this machine that containers see, where files lie by content"
        )
        olive_managed_env: bool = Field(False, description="put this olivine into an image made of the one named")
        requirements_file: FilePath | None = Field(None, description="what else is installed into it")
        hf_token: bool = Field(False, description="let containers see HF_TOKEN of this environment")
        work_dir: str | None = Field(None, description="folder of the container that its processes begin in")
        clean_image: bool = Field(False, description="refused; docker image rm removes what is not wanted any more")
        is_dev: bool = Field(False, description="refused; olive_managed_env installs the olivine that runs here")

    params: Params

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.image = params.local_docker_config or params
        for key in ("clean_image", "is_dev"):
            if getattr(params, key):
                raise RequestError(f"'{key}' is not served: {_ADVICE[key]}")
        if self.image.image_name is None and self.image.build_context_path is None:
            raise RequestError("neither 'image_name' nor 'build_context_path' says what is run")
        if (context := self.image.build_context_path) is not None and not is_file(Path(context, self.image.dockerfile)):
            raise RequestError(f"there is no file '{Path(context, self.image.dockerfile)}' to build an image of")
        if (file := params.requirements_file) is not None and not is_file(file):
            raise RequestError(f"there is no requirements_file '{file}'")
        if params.hf_token and not os.environ.get("HF_TOKEN"):
            raise RequestError("'hf_token' is set, but this environment has no HF_TOKEN")
        self._endings: dict[str, str] = {}

    @property
    def makes(self) -> bool:
        """Whether the image is ours to make."""
        built = self.image.build_context_path is not None
        return built or self.params.olive_managed_env or self.params.requirements_file is not None

    @cached_property
    def tag(self) -> str:
        """The image that is run: of one that is made, a name that changes with all that it is made of."""
        if not self.makes:
            return str(self.image.image_name)
        with tempfile.TemporaryDirectory() as folder:
            wheel = hash_file(build_wheel(Path(folder)))
        context, needs = self.image.build_context_path, self.params.requirements_file
        made_of = {
            "wheel": wheel,
            "image": self.image.image_name,
            "context": _contents(Path(context)) if context is not None else None,
            "how": [self.image.dockerfile, self.image.build_args],
            "needs": hash_file(Path(needs)) if needs is not None else self._extra,
        }
        return f"olivine-made:{digest(made_of)[:24]}"

    def is_prepared(self) -> bool:
        """Whether the engine has the image."""
        with self._asking():
            try:
                self._engine.images.get(self.tag)
            except docker.errors.ImageNotFound:
                return False
        return True

    def prepare(self, log: Path) -> None:
        """Pull the image, or build it and put this olivine into it."""
        base = str(self.image.image_name)
        if (context := self.image.build_context_path) is not None:
            base = f"{self.tag}-base"
            how = {"dockerfile": self.image.dockerfile, "buildargs": self.image.build_args}
            self._build(_packed(Path(context)), base, log, **how)
        elif not self._has(base):
            self._pull(base, log)
        if self.makes:
            self._build(self._on(base), self.tag, log)

    @property
    def _extra(self) -> str:
        """The extra of olivine that brings a runtime where the config says nothing of what is in the image."""
        says = self.params.requirements_file is not None or self.image.build_context_path is not None
        return "" if says or not self.params.olive_managed_env else "gpu" if self.n_gpus else "cpu"

    def _has(self, name: str) -> bool:
        with self._asking(), suppress(docker.errors.ImageNotFound):
            self._engine.images.get(name)
            return True
        return False

    def _pull(self, name: str, log: Path) -> None:
        has_tag = ":" in name.rpartition("/")[2]
        repository, _, tag = name.rpartition(":") if has_tag else (name, "", "latest")
        ask = partial(self._engine.api.pull, repository, tag=tag, stream=True, decode=True)
        self._follow(ask, f"the image '{name}' cannot be pulled", log)

    def _build(self, context: io.BytesIO, tag: str, log: Path, **how: Any) -> None:
        build = self._engine.api.build
        ask = partial(build, fileobj=context, custom_context=True, tag=tag, rm=True, decode=True, **how)
        self._follow(ask, "the image cannot be built", log)

    def _follow(self, ask: Callable[[], Iterable[Mapping[str, Any]]], what: str, log: Path) -> None:
        """Write what the engine says into the log; StepFailed for its error."""
        try:
            with self._asking(), log.open("a", encoding="utf-8") as file:
                try:
                    for line in ask():
                        if "error" in line:
                            raise StepFailed("prepare", f"{what}: {str(line['error']).strip()}", log)
                        file.write(str(line.get("stream") or f"{line.get('status', '')}\n"))
                except docker.errors.APIError as error:
                    raise StepFailed("prepare", f"{what}: {error.explanation or error}", log) from None
        except OlivineError as error:
            raise error if isinstance(error, StepFailed) else StepFailed("prepare", str(error), log) from None

    def _on(self, base: str) -> io.BytesIO:
        """The context of an image that has this olivine, made of another one."""
        lines = [f"FROM {base}", "USER root"]
        with tempfile.TemporaryDirectory() as folder:
            wheel = build_wheel(Path(folder))
            files = {wheel.name: wheel.read_bytes()}
            pip = "RUN python -m pip install --no-cache-dir"
            if self.params.requirements_file is not None:
                files["requirements.txt"] = Path(self.params.requirements_file).read_bytes()
                lines += ["COPY requirements.txt /tmp/", f"{pip} -r /tmp/requirements.txt"]
            lines += [f"COPY {wheel.name} /tmp/", f"{pip} /tmp/{wheel.name}"]
            if self._extra:  # where the image has a runtime of its own, that stays the only one
                brought = f"/tmp/{wheel.name}[{self._extra}]"  # noqa: S108 - of the image
                lines += [f"RUN {json.dumps(['python', '-c', _UNLESS_THERE, 'onnxruntime', brought])}"]
        return _tar({**files, "Dockerfile": ("\n".join(lines) + "\n").encode()})

    def probe(self) -> Probe:
        """What a container of the image says, under the limits that ours will have."""
        command = ["python", *PROBE, "--store", _STORE]
        with self._asking():
            container = self._create(command, [])
            try:
                container.start()
                code = container.wait(timeout=_PROBE_SECONDS)["StatusCode"]
                printed, complained = (container.logs(stdout=out, stderr=not out).decode() for out in (True, False))
            finally:
                container.remove(force=True)
        if code:
            raise self._without_olivine(complained)
        return read_answer(printed, " ".join(command))

    def _without_olivine(self, complained: str) -> OlivineError:
        why = (complained.strip().splitlines() or ["no message"])[-1]
        if "No module named" in why and "olivine" in why:
            fix = f"set 'olive_managed_env', or install olivine=={__version__} into it"
            return RequestError(f"the image '{self.tag}' has no olivine; {fix}")
        return OlivineError(f"a container of '{self.tag}' cannot be asked what it has: {why}")

    def files(self) -> RemoteFiles:
        """The store, which containers see as a folder."""
        return RemoteFiles(str(self.folder))

    @cached_property
    def folder(self) -> Path:
        """The store's folder on this machine."""
        cache = of_user(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
        folder = Path(self.params.store) if self.params.store is not None else cache / "olivine" / "docker"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def missing(self, hashes: Iterable[str]) -> set[str]:
        """See System."""
        return Files(self.folder).missing(hashes)

    def put(self, source: Path, hashed: str) -> None:
        """See System."""
        Files(self.folder).put(source, hashed)

    def get(self, hashed: str, target: Path) -> None:
        """See System."""
        Files(self.folder).get(hashed, target)

    def submit(self, name: str, arguments: Sequence[str]) -> str:
        """Start a container with a worker in it."""
        with self._asking():
            container = self._create(["python", *WORKER, *arguments, "--store", _STORE], [name])
            container.start()
        return str(container.id)

    def ended(self, identity: str) -> str | None:
        """How a container ended."""
        if identity not in self._endings:
            with self._asking():
                try:
                    container = self._engine.containers.get(identity)
                except docker.errors.NotFound:
                    return "is not known to the engine any more"
                if container.status in ("created", "running", "restarting", "paused"):
                    return None
                self._endings[identity] = _ending(container.attrs["State"])
                container.remove(force=True)
        return self._endings[identity]

    def cancel(self, identity: str) -> None:
        """Kill a container and remove it."""
        with self._asking(), suppress(docker.errors.NotFound):
            self._engine.containers.get(identity).remove(force=True)

    def let_go(self, identity: str) -> None:
        """Wait a moment for a container that was told to end, and remove it."""
        with self._asking(), suppress(docker.errors.NotFound):
            container = self._engine.containers.get(identity)
            with suppress(docker.errors.DockerException, OSError):  # the time is over, or it has gone
                container.wait(timeout=_END_SECONDS)
            container.remove(force=True)

    def _create(self, command: Sequence[str], names: Sequence[str]) -> Any:
        given = dict(self.image.run_params)
        environment = {"HOME": f"{_STORE}/home", **_pairs(given.pop("environment", {}))}
        if self.params.hf_token:
            environment["HF_TOKEN"] = os.environ["HF_TOKEN"]
        volumes = given.pop("volumes", {})
        store = {str(self.folder): {"bind": _STORE, "mode": "rw"}}
        volumes = {**volumes, **store} if isinstance(volumes, dict) else [*volumes, f"{self.folder}:{_STORE}:rw"]
        own: dict[str, Any] = {"user": f"{os.getuid()}:{os.getgid()}"} if hasattr(os, "getuid") else {}
        if self.n_gpus:
            own["device_requests"] = [docker.types.DeviceRequest(count=self.n_gpus, capabilities=[["gpu"]])]
        if self.params.work_dir is not None:
            own["working_dir"] = self.params.work_dir
        for key in ("detach", "remove", "rm", "auto_remove"):  # ours to decide
            given.pop(key, None)
        ours = {"entrypoint": [], "command": list(command), "environment": environment, "volumes": volumes}
        labels = {"olivine": names[0] if names else "probe"}
        return self._engine.containers.create(self.tag, **{**own, **given, **ours, "labels": labels})

    @cached_property
    def _engine(self) -> Any:
        return docker.from_env()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """What the engine's client raises, as a sentence."""
        try:
            yield
        except docker.errors.ImageNotFound:
            raise RequestError(f"the engine has no image '{self.tag}'") from None
        except docker.errors.APIError as error:
            raise OlivineError(f"the Docker engine refuses: {error.explanation or error}") from None
        except (docker.errors.DockerException, OSError) as error:
            where = os.environ.get("DOCKER_HOST", "the usual place")
            why = "this user may not use it" if "Permission denied" in str(error) else "is it running?"
            raise OlivineError(f"the Docker engine at {where} gives no answer; {why}") from None
        except TypeError as error:
            raise RequestError(f"'run_params' holds what docker-py does not take: {error}") from None


_ADVICE = {
    "clean_image": "remove the image with docker image rm",
    "is_dev": "olive_managed_env installs the olivine that runs here",
}


def _ending(state: Mapping[str, Any]) -> str:
    if state.get("OOMKilled"):
        return "was killed by the kernel: out of memory"
    code = int(state["ExitCode"])
    return ending(code if code <= 128 else 128 - code)


def _pairs(environment: Any) -> dict[str, str]:
    """Variables, which docker-py takes as a mapping or as a list of NAME=VALUE."""
    pairs = environment.items() if isinstance(environment, Mapping) else (_pair(text) for text in environment)
    return {str(name): str(os.environ.get(name, "") if value is None else value) for name, value in pairs}


def _pair(text: Any) -> tuple[str, str | None]:
    """NAME=VALUE; no value for a NAME alone, which is that of this environment."""
    name, has_value, value = str(text).partition("=")
    return name, value if has_value else None


def _contents(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in files}


def _packed(folder: Path) -> io.BytesIO:
    """A folder as the engine takes a build context."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(folder, arcname=".")
    packed.seek(0)
    return packed


def _tar(files: Mapping[str, bytes]) -> io.BytesIO:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    packed.seek(0)
    return packed

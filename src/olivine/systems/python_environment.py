"""Another Python of this machine: an interpreter, a virtual environment, or one that is made of a requirements file."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import Field, field_validator

from olivine import __version__
from olivine.errors import OlivineError, RequestError, StepFailed
from olivine.paths import exists, is_file, is_folder
from olivine.systems._base import FilePath, System, SystemParams
from olivine.systems._probe import PROBE, Probe, ask
from olivine.systems._process import WORKER, WorkerProcess
from olivine.systems._secrets import refuse_secrets
from olivine.systems._wheel import build_wheel

_PYTHONS = ("bin/python", "Scripts/python.exe", "bin/python3", "python", "python.exe", "python3")
_MADE = "olivine-made"  # a file in an environment that was made whole: what it was made of


class PythonEnvironment(System):
    """Another Python of this machine, with packages of its own."""

    aliases = ("PythonEnvironment", "IsolatedORT")
    reads_here = True

    class Params(SystemParams):
        """Which Python, and what it sees."""

        python_environment_path: FilePath | None = Field(
            None, description="an interpreter, or a folder with one: a virtual environment or its bin"
        )
        environment_variables: dict[str, str] = Field(default_factory=dict, description="what its processes see beside")
        prepend_to_path: list[FilePath] = Field(default_factory=list, description="folders that go before PATH")
        hf_token: bool = Field(False, description="accepted; a token of the hub is always read from the environment")
        olive_managed_env: bool = Field(
            False, description="make the environment at python_environment_path where there is none"
        )
        requirements_file: FilePath | None = Field(None, description="what is installed into one that is made")
        conda_yaml_path: str | None = Field(None, description="refused; conda itself makes such an environment")

        @field_validator("environment_variables")
        @classmethod
        def _holds_no_secret(cls, variables: dict[str, str]) -> dict[str, str]:
            refuse_secrets(variables, "set it where olivine is run, whose environment its processes see")
            return variables

    params: Params

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        if params.python_environment_path is None:
            raise RequestError("'python_environment_path' is missing: name the folder of an environment")
        if params.conda_yaml_path is not None:
            raise RequestError(
                "'conda_yaml_path' is not served: make the environment with conda, and name its folder as "
                "python_environment_path"
            )
        if (file := params.requirements_file) is not None and not is_file(file):
            raise RequestError(f"there is no requirements_file '{file}'")
        self.place = Path(params.python_environment_path)

    @property
    def makes(self) -> bool:
        """Whether the environment is ours to make."""
        return self.params.olive_managed_env or self.params.requirements_file is not None

    def is_prepared(self) -> bool:
        """Whether the environment is there, and made of what the config says."""
        if not self.makes:
            return True
        made = self.place / _MADE
        return is_file(made) and made.read_text(encoding="utf-8") == self._made_of()

    def prepare(self, log: Path) -> None:
        """Make the virtual environment and install the requirements and this olivine."""
        if exists(self.place) and not is_file(self.place / "pyvenv.cfg"):
            raise StepFailed("prepare", f"'{self.place}' is in the way: it is no virtual environment")
        with log.open("ab") as told, tempfile.TemporaryDirectory() as folder:
            wheel = build_wheel(Path(folder))
            pip = [str(self.place / _PYTHONS[os.name == "nt"]), "-m", "pip", "install", "--disable-pip-version-check"]
            file = self.params.requirements_file
            steps = [[sys.executable, "-m", "venv", str(self.place)]]
            steps += [[*pip, "-r", file]] if file is not None else []
            steps += [[*pip, "--force-reinstall", "--no-deps", str(wheel)], [*pip, f"{wheel}{self._runtime()}"]]
            for command in steps:
                told.write(f"$ {shlex.join(command)}\n".encode())
                told.flush()
                done = subprocess.run(command, stdout=told, stderr=told, env=self._environment(), check=False)
                if done.returncode:
                    how = f"'{' '.join(command[1:4])}' ended with {done.returncode}"
                    raise StepFailed("prepare", f"{how}{_why(log)}", log)
        (self.place / _MADE).write_text(self._made_of(), encoding="utf-8")

    def _runtime(self) -> str:
        """The extra of olivine that brings a runtime where neither the config nor the environment has one."""
        if self.params.requirements_file is not None:
            return ""
        looks = [self._python(), "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('onnxruntime') is None)"]
        has_one = exists(self.place) and subprocess.run(looks, env=self._environment(), check=False).returncode == 0
        return "" if has_one else "[gpu]" if self.n_gpus else "[cpu]"

    def probe(self) -> Probe:
        """What that Python says."""
        python = self._python()
        try:
            return ask([python, *PROBE], self._environment())
        except OlivineError as error:
            if "No module named" in str(error) and "olivine" in str(error):
                fix = f"{python} -m pip install olivine=={__version__}"
                raise RequestError(f"the Python '{python}' has no olivine; run: {fix}") from None
            raise

    def worker(self) -> WorkerProcess:
        """A process of that Python."""
        return WorkerProcess([self._python(), *WORKER], environment=self._environment())

    def _python(self) -> str:
        if is_file(self.place):
            return str(self.place)
        there = [path for name in _PYTHONS if is_file(path := self.place / name)]
        if there or self.makes:
            return str((there or [self.place / _PYTHONS[os.name == "nt"]])[0])
        if is_folder(self.place):
            raise RequestError(f"the folder '{self.place}' holds no Python")
        raise RequestError(f"there is no Python environment '{self.place}'; 'olive_managed_env' lets one be made there")

    def _environment(self) -> dict[str, str]:
        """What its processes see: as this one, with what the config says."""
        seen = {**os.environ, **self.params.environment_variables}
        bins = [str(Path(self._python()).parent)] if not is_file(self.place) else []
        return seen | {"PATH": os.pathsep.join([*self.params.prepend_to_path, *bins, seen.get("PATH", "")])}

    def _made_of(self) -> str:
        """What the environment is made of, in words that change with it."""
        file = self.params.requirements_file
        needs = Path(file).read_text(encoding="utf-8", errors="replace") if file is not None else ""
        return f"olivine {__version__}\n{needs}"


def _why(log: Path) -> str:
    """What pip says to be wrong, as the last of its errors."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("ERROR: ").strip() for line in lines if line.startswith("ERROR: ")]
    return f": {errors[-1]}" if errors else ""

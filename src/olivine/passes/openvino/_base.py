"""What passes on models of OpenVINO have in common: scripts in params, how a result is stored, and how it is held."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from olivine import paths
from olivine.config.schema import DataConfig
from olivine.models import OPENVINO_FILE, Model
from olivine.models.companions import COMPANIONS
from olivine.models.deciding import deciding_files
from olivine.models.facts import Kind, ModelFacts
from olivine.models.openvino_files import ir_of
from olivine.passes._base import ANY_KIND, Pass, PassParams
from olivine.runtimes.openvino import EXTRA, OpenvinoSession
from olivine.user_scripts import UserScript
from olivine.work import Context, Estimate, Machine

NAME = "ov_model"  # of the files of a result, as Olive calls them


class OpenvinoParams(PassParams):
    """Functions of a user's script, where a param names one."""

    user_script: str | None = Field(None, description="your script, from the folder of the config")
    script_dir: str | None = Field(None, description="folder whose modules the script may import")


class OpenvinoPass(Pass):
    """A pass that gives a model of OpenVINO; functions: params that name functions of user_script."""

    Params: ClassVar[type[OpenvinoParams]] = OpenvinoParams
    accepts: ClassVar[frozenset[str]] = frozenset({"openvino"})
    produces: ClassVar[str] = "openvino"
    kinds: ClassVar[frozenset[Kind]] = ANY_KIND
    libraries: ClassVar[tuple[str, ...]] = ("openvino",)
    modules: ClassVar[Mapping[str, str]] = {"openvino": EXTRA}
    functions: ClassVar[tuple[str, ...]] = ()
    params: OpenvinoParams

    def script(self) -> tuple[UserScript, Mapping[str, str]] | None:
        """The script, where one of the params names a function of it."""
        named = {key: name for key in self.functions if isinstance(name := getattr(self.params, key), str)}
        if not named or self.params.user_script is None:
            return None
        return UserScript.of(self.params.user_script, self.params.script_dir), named

    def files(self) -> list[Path]:
        """The files of the script."""
        asked = self.script()
        return asked[0].files if asked is not None and paths.is_file(asked[0].path) else []

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """openvino, the weights before, and as they are written."""
        size = facts.weight_bytes or int(4 * facts.n_parameters)
        return Estimate(memory_bytes=int(0.8e9 + 3.0 * size), disk_bytes=size)

    def ensures(self, model: Model) -> None:
        """The result loads in openvino."""
        OpenvinoSession(ir_of(model))


def stored(model: Model, ir: Any, context: Context, *, half: bool = True, name: str = NAME) -> Model:
    """Write a model of openvino as the result, with what belongs to the model that it was made of."""
    from olivine.exporting.openvino_ir import save

    save(ir, context.output / f"{name}.xml", half=half)
    copy_companions_of(model, context.output)
    return Model("openvino", context.output, task=model.task, attributes={OPENVINO_FILE: f"{name}.xml"})


def copy_companions_of(model: Model, target: Path) -> None:
    """The config, the tokenizer and their like that lie beside a graph."""
    for name, path in deciding_files(model):
        if name in COMPANIONS:
            shutil.copyfile(path, target / name)


def one_or_more(value: Any) -> Any:
    """One value as a list of it."""
    return [value] if isinstance(value, str) else value


class TargetParams(OpenvinoParams):
    """What the result is for."""

    target_device: str = Field("any", description="any, cpu, cpu_spr, gpu or npu: what the result is to run on")

    @field_validator("target_device", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        known = {name: name for name in ("any", "cpu", "cpu_spr", "gpu", "npu")} | {"vpu": "npu", "intel_myriad": "npu"}
        told = "any" if value is None else str(value).lower()
        if told not in known:
            raise ValueError(f"must be one of {', '.join(sorted(set(known.values())))}, but is {value!r:.40}")
        return known[told]

    @property
    def is_elsewhere(self) -> bool:
        """Whether the device is one that models are not measured on here."""
        return self.target_device in ("gpu", "npu")


def told_elsewhere(device: str) -> str:
    """What a plan for a device that is not here leaves open."""
    return (
        f"the result is made for the {device.upper()} and measured on the CPU, by openvino: that it compiles and runs "
        f"on the {device.upper()} is not checked"
    )

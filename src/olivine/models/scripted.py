"""Models that a user's script has a part in: it gives the module itself, or says how it is exported.

The record of such a model says it in its attributes, with the key `script`: path, folder, and the names of functions:
`model_loader` (the module, from `model_path`) or `component_func` (a part of a model, from that as scripts get it),
`io_config` and `dummy_inputs_func` (from the model as scripts get it).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from olivine.config.schema import IoConfig
from olivine.errors import ModelError
from olivine.models import Model
from olivine.user_scripts import SECONDS, Opened, ScriptError, UserScript

SCRIPT, IO_CONFIG, LOAD = "script", "io_config", "load"  # attributes of a model


def script_of(model: Model) -> UserScript | None:
    """The script that has a part in a model; None where none has."""
    told = model.attributes.get(SCRIPT)
    if told is None:
        return None
    return UserScript(Path(told["path"]), Path(told["folder"]), told.get("max_seconds", SECONDS))


def script_files(model: Model) -> dict[str, Path]:
    """What a script reads that decides what the model is: its own code, and the files that its loader is given.

    By their names in the folder of the script, or below what the loader is given.
    """
    script = script_of(model)
    if script is None:
        return {}
    home = script.folder or script.path.parent
    code = {
        path.relative_to(home).as_posix() if path.is_relative_to(home) else path.name: path for path in script.files
    }
    given = given_to_loader(model)
    if given is None:
        return code
    inside = [given] if given.is_file() else sorted(path for path in given.rglob("*") if path.is_file())
    return code | {f"model_path: {path.relative_to(given.parent).as_posix()}": path for path in inside}


def given_to_loader(model: Model) -> Path | None:
    """The file or folder that the loader gets; None where it gets nothing, or a name that only it understands."""
    given = Path(model.attributes[SCRIPT].get("model_path") or "")
    return given if given.parts and given.exists() else None


class Handler(str):
    """The model as functions of a script get it: where it lies, and what it is loaded with.

    It is a text too, the name or path of the model: functions of 2023 got no more.
    """

    __slots__ = ("_load", "model_attributes", "model_name", "model_path", "task")

    def __new__(cls, model: Model, load: Any) -> Self:  # noqa: ARG004 - as __init__
        """The text."""
        return super().__new__(cls, _named(model))

    def __init__(self, model: Model, load: Any) -> None:
        self.model_path = self.model_name = _named(model)
        self.task = model.task
        self.model_attributes: dict[str, Any] = {}
        self._load = load

    @property
    def hf_config(self) -> Self:
        """Where configs of 2024 had the name of the model."""
        return self

    def load_model(self, *_: Any, **__: Any) -> Any:
        """The module."""
        return self._load()


def _named(model: Model) -> str:
    return str(model.attributes.get(SCRIPT, {}).get("model_path") or model.path)


@dataclass
class Scripted:
    """A model whose script is at work. load: loads a model of transformers, of which a function takes a part."""

    model: Model
    opened: Opened
    load: Callable[[Model], Any]
    _modules: list[Any] = field(default_factory=list)

    def module(self) -> Any:
        """What the loader gives: a module of torch, ready to be run. ModelError when it is something else."""
        if not self._modules:
            name, part = self._told("model_loader"), self._told("component_func")
            if part is not None:
                module = self.opened.function(part)(Handler(self.model, lambda: self._whole))
            else:
                module = self.opened.function(str(name))(self.model.attributes[SCRIPT].get("model_path") or None)
            name = part or name
            if isinstance(module, type) or not hasattr(module, "named_parameters"):
                what = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
                raise ModelError(f"{name} of {self.opened.script.path} gave {what}, no torch module")
            self._modules.append(module.eval())
        return self._modules[0]

    @cached_property
    def _whole(self) -> Any:
        """The model of transformers that this one is a part of."""
        folder = Path(_named(self.model))
        if not folder.exists():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(_named(self.model), local_files_only=True))
        return self.load(Model("hf", folder, task=self.model.task))

    def io_config(self) -> Mapping[str, Any] | None:
        """Names, shapes and open axes as the config or the script says them; None where neither does."""
        name = self._told("io_config")
        if name is None:
            given: Mapping[str, Any] | None = self.model.attributes.get(IO_CONFIG)
            return given
        told = self.opened.function(name)(self._handler())
        try:
            return None if told is None else IoConfig.model_validate(told).model_dump(exclude_none=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ModelError(
                f"{name} of {self.opened.script.path} gave no io_config: {where}{': ' if where else ''}{first['msg']}"
            ) from None

    def example(self) -> Any:
        """What the script has for an example of the inputs; None where it has none."""
        name = self._told("dummy_inputs_func")
        return self.opened.function(name)(self._handler()) if name is not None else None

    def _told(self, key: str) -> str | None:
        name = self.model.attributes[SCRIPT].get(key)
        return str(name) if name is not None else None

    def _handler(self) -> Handler:
        return Handler(self.model, self.module)


@contextmanager
def opened(model: Model, load: Callable[[Model], Any]) -> Iterator[Scripted]:
    """The model with its script at work; ModelError, in the script's own words, when that fails. load: see Scripted."""
    script = script_of(model)
    if script is None:
        raise TypeError("no script has a part in this model")
    try:
        with script.opened() as at_work:
            yield Scripted(model, at_work, load)
    except ScriptError as error:
        raise ModelError(str(error)) from error

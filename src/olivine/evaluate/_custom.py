"""Numbers of a user's own script, which a config names and so allows to run."""

import inspect
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from olivine.errors import STILL_AT_WORK, OlivineError
from olivine.evaluate._base import Evidence, OutputEvidence
from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.models.loading import load_causal_lm, load_module
from olivine.models.onnx_files import graph_of
from olivine.runtimes.session import OnnxSession
from olivine.user_scripts import UserScript
from olivine.work import Machine

OF_2023 = ("data_dir", "batch_size")  # arguments that functions had beside their kwargs
_PLACES = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class ScriptModel:
    """The model as a script gets it. model_path: its folder or file, as a text. format: hf, adapter, onnx or gguf."""

    def __init__(self, model: Model, machine: Machine) -> None:
        self._model, self._machine = model, machine
        self.model_path, self.format = str(model.path), model.format

    def load_model(self) -> Any:
        """A checkpoint or adapter, loaded by transformers in float32 on the CPU, a decoder in bfloat16 on a GPU.

        Of another kind than a decoder, with the head of its task.
        """
        if self.format == "hf" and self._model.base is None and read_facts(self._model.path).kind != "decoder":
            return load_module(self._model, device=self._machine.device)
        is_cpu = self._machine.device == "cpu"
        return load_causal_lm(self._model, dtype="float32" if is_cpu else "bfloat16", device=self._machine.device)

    def prepare_session(self, *_: Any, **__: Any) -> OnnxSession:
        """A graph, open in onnxruntime: `run(inputs)` gives all outputs by their names."""
        return OnnxSession(graph_of(self._model), self._machine.execution_provider)


def custom_numbers(
    scripts: Sequence[Mapping[str, Any]], model: Model, evidence: Evidence | OutputEvidence, machine: Machine
) -> dict[str, float]:
    """What every script says of a model, by "METRIC.NUMBER".

    scripts: name (of the metric), user_script, script_dir, function, on_outputs (whether the function gets what the
    model gave, and what it should have, in place of the model), kwargs, numbers (that it must give), max_seconds (that
    it may take), of_2023 (data_dir and batch_size that stand beside the kwargs). Raises OlivineError, with the script's
    own words, for one that does not.
    """
    numbers: dict[str, float] = {}
    for script in scripts:
        given = _called(script, _arguments(script, model, evidence, machine))
        for name, value in _checked(script, given).items():
            numbers[f"{script['name']}.{name}"] = value
    return numbers


def _arguments(
    script: Mapping[str, Any], model: Model, evidence: Evidence | OutputEvidence, machine: Machine
) -> tuple[Any, ...]:
    if script["on_outputs"]:
        outputs = evidence.generated if isinstance(evidence, Evidence) else evidence.outputs
        return list(outputs), list(evidence.labels)
    return ScriptModel(model, machine), machine.device, [machine.execution_provider]


def _called(script: Mapping[str, Any], arguments: tuple[Any, ...]) -> Any:
    """What the function gives within its time. What it prints is in the log.

    It works in a thread of its own: one that hangs cannot be ended, and the process of the job goes with it.
    """
    folder = script["script_dir"]
    code = UserScript(Path(script["user_script"]), Path(folder) if folder else None, script["max_seconds"])
    ended: list[Any] = []
    failed: list[BaseException] = []

    def call() -> None:
        try:
            with code.opened() as at_work:
                function = at_work.function(script["function"])
                places, names = _bound(function, arguments, script)
                ended.append(function(*places, **names))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - of a user: whatever it raises is told
            failed.append(error)

    thread = threading.Thread(target=call, daemon=True, name="user script")
    thread.start()
    thread.join(script["max_seconds"])
    if failed:
        said = " ".join(str(failed[0]).split())
        raise OlivineError(said) from failed[0]
    if not ended:
        limit = f"{script['max_seconds']:g} seconds (max_seconds in its user_config)"
        raise OlivineError(f"{_place(script)} took longer than {limit}{STILL_AT_WORK}")
    return ended[0]


def _bound(
    function: Any, arguments: tuple[Any, ...], script: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a function gets by place and by name.

    1. Its kwargs go by name. 2. What else there is goes by name too, where its params have the names of Olive; so do
    data_dir and batch_size of a user_config, but for a function that does not take them. 3. Params of other names are
    filled in the order of Olive, as many as there are: of 2023, data_dir and batch_size first.
    """
    first, *rest = arguments
    kwargs, older = dict(script["kwargs"]), script.get("of_2023") or {}
    told = {name: older.get(name) for name in OF_2023 if older} | dict(zip(_names(script), rest, strict=True))
    try:
        params = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin
        return arguments, kwargs
    kinds = {param.kind for param in params}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return (first, *told.values()), kwargs
    open_ones = [param for param in params[1:] if param.kind in _PLACES and param.name not in kwargs]
    if not all(param.name in told or param.default is not inspect.Parameter.empty for param in open_ones):
        values = list(told.values())
        if inspect.Parameter.POSITIONAL_ONLY in kinds:
            return (first, *values[: len(open_ones)]), kwargs
        return (first,), {param.name: value for param, value in zip(open_ones, values, strict=False)} | kwargs
    takes_all, known = inspect.Parameter.VAR_KEYWORD in kinds, {param.name for param in params}
    return (first,), {name: value for name, value in told.items() if takes_all or name in known} | kwargs


def _names(script: Mapping[str, Any]) -> tuple[str, ...]:
    """What Olive calls the arguments after the first."""
    return ("targets",) if script["on_outputs"] else ("device", "execution_providers")


def _place(script: Mapping[str, Any]) -> str:
    return f"{script['function']} of {script['user_script']}"


def _checked(script: Mapping[str, Any], given: Any) -> dict[str, float]:
    """The numbers that the config asks for: of a mapping those of their names, else the one that there is."""
    wanted: Sequence[str] = script["numbers"]
    values = given if isinstance(given, Mapping) else {wanted[0]: given} if len(wanted) == 1 else None
    if values is None:
        raise OlivineError(
            f"{_place(script)} gave {_shown(given)}, but the config asks for {', '.join(wanted)}: give a dict of them"
        )
    if missing := [name for name in wanted if name not in values]:
        names = " ".join(", ".join(map(str, values)).split()) or "nothing"
        raise OlivineError(f"{_place(script)} gave {names:.200}, but no {missing[0]}")
    return {name: _number(script, name, values[name]) for name in wanted}


def _number(script: Mapping[str, Any], name: str, value: Any) -> float:
    """A plain number of Python, numpy or torch."""
    try:
        number = math.nan if isinstance(value, (bool, str, bytes)) or value is None else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        raise OlivineError(f"{_place(script)} gave {_shown(value)} as {name}, which is no finite number")
    return number


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {' '.join(repr(value).split()):.60}"

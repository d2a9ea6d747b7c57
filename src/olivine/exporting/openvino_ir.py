"""Models of OpenVINO in memory: from torch, from ONNX, from their files and back, with names for all ends."""

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError
from olivine.models.openvino_files import named
from olivine.runtimes.openvino import EXTRA, last_word

if TYPE_CHECKING:
    import openvino
else:
    openvino = lazy.module("openvino")

Shape = Sequence[int]
"""Sizes of an input; -1 where one is open."""


def from_torch(module: Any, sample: Mapping[str, Any], outputs: Sequence[str], shapes: Sequence[Shape]) -> Any:
    """Trace a module on a sample of its inputs, which it takes in their order. shapes: of the inputs in the result."""
    with _words("cannot be converted"):
        model = openvino.convert_model(module, example_input=tuple(sample.values()))
        if len(model.inputs) != len(sample) or len(model.outputs) != len(outputs):
            raise ModelError(
                f"of {len(sample)} inputs and {len(outputs)} outputs openvino kept {len(model.inputs)} and "
                f"{len(model.outputs)}"
            )
        for port, name in (*zip(model.inputs, sample, strict=True), *zip(model.outputs, outputs, strict=True)):
            port.get_tensor().set_names({name})
        return reshaped(model, dict(zip(sample, shapes, strict=True)))


def from_onnx(path: Path) -> Any:
    """Convert an ONNX graph, whose inputs and outputs keep their names."""
    lazy.require("openvino", EXTRA)
    with _words(f"{path} cannot be converted"):
        return openvino.convert_model(str(path))


def read(path: Path) -> Any:
    """A model from its .xml file and the .bin beside it."""
    lazy.require("openvino", EXTRA)
    with _words(f"{path} cannot be read"):
        return openvino.Core().read_model(str(path))


def save(model: Any, path: Path, *, half: bool) -> None:
    """Write a model as an .xml file with its .bin. half: weights in float32 are stored in 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    model.set_friendly_name(path.stem)
    with _words(f"{path} cannot be written"):
        openvino.save_model(model, str(path), compress_to_fp16=half)


def reshaped(model: Any, shapes: Mapping[str, Shape]) -> Any:
    """The model with these sizes of its inputs; -1 is an open one. ModelError where it does not compute with them."""
    ports = {named(port.get_names(), f"input_{number}"): port for number, port in enumerate(model.inputs)}
    told = {ports[name]: openvino.PartialShape(list(shape)) for name, shape in shapes.items()}
    text = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    with _words(f"the model does not compute with {text}"):
        model.reshape(told)
    return model


def name_ends(model: Any) -> int:
    """Give a name to every input and output that has none; how many had none."""
    ends = [("input", model.inputs), ("output", model.outputs)]
    nameless = [
        (port, f"{kind}_{number}") for kind, ports in ends for number, port in enumerate(ports) if not port.get_names()
    ]
    for port, name in nameless:
        port.get_tensor().set_names({name})
    return len(nameless)


def keep_outputs(model: Any, names: Sequence[str]) -> Any:
    """The model with these outputs alone, in that order; ModelError for a name that none of them has."""
    ports = {name: port for port in model.outputs for name in port.get_names()}
    if lacking := [name for name in names if name not in ports]:
        raise ModelError(f"the model has no output '{lacking[0]}'; it has {', '.join(sorted(ports)) or 'none'}")
    results = [ports[name].node for name in names]
    return openvino.Model(results, model.get_parameters(), model.get_friendly_name())


@contextlib.contextmanager
def _words(failed: str) -> Iterator[None]:
    """What openvino says when it fails, as a ModelError, and nothing of it on the screen."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), quiet("openvino"):
            yield
    except (MemoryError, ModelError):
        raise
    except Exception as error:  # frontends raise whatever they like
        raise ModelError(f"{failed}: {last_word(error)}") from error


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """A library's logger at errors alone."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)

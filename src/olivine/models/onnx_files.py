"""An ONNX model on disk: which file is its graph, what it needs beside it, and what would keep it from running.

How the files lie is one thing (a graph, with or without external data), how they are packaged another: a folder with a
genai_config.json is one that onnxruntime-genai loads.
"""

import ast
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy, paths
from olivine.errors import ModelError, Unsupported
from olivine.models._model import GENAI_CONFIG, ONNX_FILE, Model
from olivine.models.facts import DecoderFacts, Kind, ModelFacts
from olivine.models.inspect import PICKLED
from olivine.models.json_files import read_object
from olivine.models.kinds import describe
from olivine.models.signature import Signature, TensorSpec
from olivine.models.speech import hears

if TYPE_CHECKING:
    from olivine.models import onnx_header
else:
    onnx_header = lazy.module("olivine.models.onnx_header")

# Operators that an installed onnxruntime brings; those of other domains need a library, or functions in the file.
_DOMAINS = frozenset(
    {
        *("", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training"),
        *("com.microsoft", "com.microsoft.nchwc", "com.microsoft.dml", "com.ms.internal.nhwc", "org.pytorch.aten"),
    }
)
# What onnxruntime also has in ONNX's own domain: experiments of old, copies between devices, and norms of its own.
_OF_RUNTIME = (
    *("Affine", "ATen", "Crop", "DynamicSlice", "GivenTensorFill", "ImageScaler", "ParametricSoftplus", "Scale"),
    *("ScaledTanh", "MemcpyFromHost", "MemcpyToHost", "SimplifiedLayerNormalization", "Upsample", "Scatter"),
)
ADAPTER_INPUTS = "adapter_inputs.json"  # which inputs of a graph are weights of an adapter, and the file of those
SESSION_FILE = "session_options.json"  # beside a graph: how a session for it is opened
_PARTS = ("encoder", "vision", "speech", "embedding")  # of a genai_config.json: models of several graphs


def onnx_model(path: Path, file_name: str | None = None, task: str = "") -> Model:
    """The record of an ONNX file, or of the folder that holds one; raises ModelError when it does not.

    file_name: which of several graphs of a folder, as a path below it.
    """
    if not paths.exists(path):
        raise ModelError(f"the model '{path}' does not exist")
    if path.is_file():
        if file_name is not None and file_name != path.name:
            raise ModelError(f"'{path}' is a file, and onnx_file_name names '{file_name}'; leave one of the two out")
        return _plain(path, task)
    if file_name is None and paths.is_file(path / GENAI_CONFIG):
        return Model("onnx", path, task=task or "text-generation")
    return _plain(_named(path, file_name) if file_name is not None else _only(path), task)


def _plain(graph: Path, task: str) -> Model:
    return Model("onnx", graph.parent, task=task, attributes={ONNX_FILE: graph.name})


def _named(folder: Path, name: str) -> Path:
    graph = folder / name
    if not paths.could_be(name) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ModelError(f"onnx_file_name '{name}' leads out of the folder '{folder}'")
    if not paths.is_file(graph):
        raise ModelError(f"'{folder}' holds no file '{name}'")
    return graph


def _only(folder: Path) -> Path:
    """The graph of a folder: its only one, or model.onnx."""
    graphs = sorted(folder.glob("*.onnx"))
    if not graphs:
        inner = next(iter(sorted(folder.glob("*/*.onnx"))), None)
        hint = f"; there is '{inner.relative_to(folder)}': name it as onnx_file_name" if inner else ""
        raise ModelError(f"'{folder}' holds no graph (*.onnx){hint}")
    if len(graphs) > 1 and folder / "model.onnx" not in graphs:
        names = ", ".join(graph.name for graph in graphs[:3])
        raise ModelError(f"'{folder}' holds {len(graphs)} graphs ({names}); name one of them as onnx_file_name")
    return folder / "model.onnx" if folder / "model.onnx" in graphs else graphs[0]


def graph_of(model: Model) -> Path:
    """The file of the graph of an ONNX model; raises ModelError when nothing names it."""
    if model.packaging != "genai":
        name = model.attributes.get(ONNX_FILE)
        return model.path / str(name) if name else _only(model.path)
    decoder = _genai_config(model.path).get("decoder")
    name = decoder.get("filename") if isinstance(decoder, Mapping) else None
    if not isinstance(name, str):
        raise ModelError(f"{model.path / GENAI_CONFIG} names no graph")
    return model.path / name


def header_of(model: Model) -> "onnx_header.OnnxHeader":
    """The header of its graph."""
    return onnx_header.OnnxHeader.read(graph_of(model))


def _genai_config(folder: Path) -> Mapping[str, Any]:
    config = read_object(folder / GENAI_CONFIG).get("model")
    if not isinstance(config, Mapping):
        raise ModelError(f"{folder / GENAI_CONFIG} describes no model")
    return config


def check_onnx(model: Model) -> None:
    """Raise ModelError or Unsupported for a graph that is damaged, lacks weights, or that nothing here can run."""
    header = header_of(model)
    header.check_external()
    _check_versions(header)
    if (unknown := _unknown(header)) is not None:
        raise Unsupported(f"{header.path} needs the operator '{unknown}', which neither ONNX nor onnxruntime has")
    custom = sorted(one for one in header.operators if one[0] not in _DOMAINS and one not in header.functions)
    if custom:
        name = "::".join(custom[0])
        more = f" and {len(custom) - 1} more" if len(custom) > 1 else ""
        raise Unsupported(
            f"{header.path} needs the operator '{name}'{more}, a custom one whose library is not loaded: export the "
            "model without it"
        )


def _check_versions(header: "onnx_header.OnnxHeader") -> None:
    newest = _newest()
    if newest is None:
        return
    for what, version, known in (("opset", header.opsets.get("", 0), newest[1]), ("IR", header.ir_version, newest[0])):
        if version > known:
            raise Unsupported(
                f"{header.path} is of {what} version {version}, and onnx {lazy.version('onnx')}, which is installed, "
                f"knows up to {known}: export it with an older one, or update onnx and onnxruntime"
            )


def _newest() -> tuple[int, int] | None:
    """The newest version of the IR and of ONNX's operators that the installed onnx knows, read without importing it."""
    place = importlib.util.find_spec("onnx")
    source = Path(place.origin).with_name("helper.py") if place and place.origin else None
    if source is None or not source.is_file():
        return None
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            names = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(name, ast.Name) and name.id == "VERSION_TABLE" for name in names):
                rows = ast.literal_eval(node.value)
                return max(int(row[1]) for row in rows), max(int(row[2]) for row in rows)
    return None


def _unknown(header: "onnx_header.OnnxHeader") -> str | None:
    """The first operator of a graph that is called ONNX's own and is none of them."""
    known = _operators()
    own = sorted(name for domain, name in header.operators - header.functions if not domain)
    return next((name for name in own if known and name not in known), None)


@cache
def _operators() -> frozenset[str]:
    """All operators of ONNX's own domain, old ones too, as sources of onnxscript and onnx name them; none is imported.

    Empty where one of the two is not installed.
    """
    named = {*_OF_RUNTIME}
    for package, pattern, name in (
        ("onnxscript", "onnx_opset/_impl/opset[0-9]*.py", r"^    def ([A-Z]\w*)\("),
        ("onnx", "reference/ops/_op_list.py", r"^from onnx\.reference\.ops\.\w+ import ([A-Z]\w*)"),
    ):
        place = importlib.util.find_spec(package)
        files = [*Path(place.origin).parent.glob(pattern)] if place and place.origin else []
        told = [one for file in files for one in re.findall(name, file.read_text(encoding="utf-8"), re.MULTILINE)]
        if not told:
            return frozenset()
        named.update(told)
    return frozenset(named)


def onnx_facts(model: Model) -> ModelFacts:
    """The facts of an ONNX model from its header, and from the config that lies beside it."""
    header = header_of(model)
    files = [header.path, *(header.path.parent / name for name in header.external_files)]
    weight_bytes = sum(file.stat().st_size for file in files if paths.is_file(file))
    kind, task, labels = _described(model)
    return ModelFacts(
        architecture=header.name or header.path.stem,
        n_parameters=header.n_parameters,
        decoder=_decoder(_genai_config(model.path)) if kind == "decoder" else None,
        kind=kind,
        task=task,
        labels=labels,
        signature=_heard(model) if kind == "encoder-decoder" else _without_adapter(header),
        bytes_per_weight=weight_bytes / header.n_parameters if header.n_parameters else 2.0,
        weight_bytes=weight_bytes,
        path=model.path,
        shapes={tensor.name: tensor.shape for tensor in header.tensors if tensor.name},
    )


def _heard(model: Model) -> Signature:
    """What a Whisper takes and gives, under the names of transformers: a sound's features and the tokens after it."""
    said = _genai_config(model.path)
    encoder, n_words = said.get("encoder"), said.get("vocab_size")
    name = encoder.get("filename") if isinstance(encoder, Mapping) else None
    if not isinstance(name, str) or type(n_words) is not int:
        raise ModelError(f"{model.path / GENAI_CONFIG} names no encoder, or not how many words there are")
    (sound,) = onnx_header.OnnxHeader.read(model.path / name).signature.inputs
    shape = ("batch", *(sound.shape or (None, None, None))[1:])
    rows = ("batch", "decoder_sequence")
    inputs = (TensorSpec("input_features", "float32", shape), TensorSpec("decoder_input_ids", "int64", rows, n_words))
    return Signature(inputs, (TensorSpec("logits", "float32", (*rows, n_words)),))


def _without_adapter(header: "onnx_header.OnnxHeader") -> Signature:
    """What rows have to give: not the inputs that are weights of an adapter, which lie beside the graph."""
    file = header.path.parent / ADAPTER_INPUTS
    if not paths.is_file(file):
        return header.signature
    weights = read_object(file).get("inputs")
    names = weights if isinstance(weights, Mapping) else {}
    return replace(header.signature, inputs=tuple(one for one in header.signature.inputs if one.name not in names))


def files_of_adapter(folder: Path) -> list[str]:
    """Names of the files of an adapter that is inputs of the graph in a folder."""
    file = folder / ADAPTER_INPUTS
    name = read_object(file).get("file") if paths.is_file(file) else None
    return [ADAPTER_INPUTS, Path(str(name)).name] if name else []


def told_signature(model: Model) -> Signature | None:
    """Inputs and outputs as the config.json beside a graph tells them, with sizes that the graph may leave open."""
    path = model.path / "config.json"
    if not paths.is_file(path):
        return None
    content = read_object(path)
    return describe(content, _architecture(content)).signature


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _described(model: Model) -> tuple[Kind, str, tuple[str, ...]]:
    """Kind, task and labels: of a folder for genai as its config says, else a graph with the config beside it."""
    if model.packaging == "genai":
        if hears(model.path):
            return "encoder-decoder", "automatic-speech-recognition", ()
        several = [part for part in _PARTS if part in _genai_config(model.path)]
        return ("image-text", "image-text-to-text", ()) if several else ("decoder", "text-generation", ())
    config = model.path / "config.json"
    if not paths.is_file(config):
        return "graph", model.task, ()
    content = read_object(config)
    told = describe(content, _architecture(content))
    return "graph", model.task or (told.task if told.kind != "decoder" else ""), told.labels


def _decoder(config: Mapping[str, Any]) -> DecoderFacts:
    decoder = config.get("decoder")
    sizes = {**config, **(decoder if isinstance(decoder, Mapping) else {})}

    def size(key: str) -> int:
        value = sizes.get(key)
        return value if type(value) is int and value > 0 else 0

    return DecoderFacts(
        size("hidden_size"), size("num_hidden_layers"), size("vocab_size"), context_length=size("context_length")
    )


def is_onnx(path: Path) -> bool:
    """Whether a path that is named as a model is an ONNX file or a folder of one, and of no other weights."""
    if not paths.is_folder(path):
        return path.suffix == ".onnx" and paths.is_file(path)
    others = (file for pattern in ("*.safetensors", *PICKLED) for file in path.glob(pattern))
    return paths.is_file(path / GENAI_CONFIG) or (any(path.glob("*.onnx")) and not any(others))

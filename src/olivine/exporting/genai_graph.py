"""What surrounds onnxruntime-genai's model builder: our weights in, a complete and checked folder out."""

import contextlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.allowance import available_bytes
from olivine.errors import ModelError, Unsupported
from olivine.exporting import builder_input
from olivine.models import Model
from olivine.models.finite import NotFiniteError, refuse_not_finite
from olivine.models.loading import lazy_causal_lm, load_causal_lm
from olivine.models.materialize import copy_companions
from olivine.models.opened import Opened
from olivine.models.quantized import quantization_config
from olivine.models.tensors import LazyTensor, Weights
from olivine.models.turns import end_tokens, token_ids
from olivine.models.weights import announce

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir
    import torch

    from olivine.exporting.rounding import Settings
    from olivine.exporting.streaming import Progress, Written
else:
    np, onnx_ir = lazy.module("numpy"), lazy.module("onnx_ir")
    torch = lazy.module("torch")


@dataclass(frozen=True)
class Target:
    """What the builder is told: precision, execution provider ("cpu", "cuda", ...) and its KEY=VALUE options."""

    precision: str
    provider: str
    options: Mapping[str, str]


def prepare(model: Model) -> None:
    """What an export waits for: the disk begins to read the weights, and the builder is imported, with torch."""
    announce(model, available_bytes() // 4)
    with lazy.uncollected():
        importlib.import_module("onnxruntime_genai.models.builder")


def build(
    opened: Opened,
    output: Path,
    scratch: Path,
    target: Target,
    settings: "Settings | None",
    progress: "Progress",
    source: Weights | None = None,
) -> "Written":
    """Let the builder make the graph, and stream the weights into it; its prints go wherever standard output goes.

    Gives the hashes of what was streamed.

    settings: how the matrices are quantized; None leaves that, and the reading of all weights, to the builder.
    source: tensors to stream in place of the model's own; what is float32 in it stays so.
    """
    model = opened.model
    # whose Python may run is said with the model alone; it lies here already, so that no token is needed
    trusted = {"hf_remote": "true" if model.trust_remote_code else "false", "hf_token": "false"}
    target = replace(target, options={**target.options, **trusted})
    folders = (str(_plain_folder(model, scratch)), str(output))
    arguments = ("", *folders, target.precision, target.provider, str(scratch / "builder"))
    written: Written = {}
    if settings is None:  # whole weights may well be among the garbage
        _create(arguments, target, _whole(model))
    else:
        with lazy.uncollected():
            _create(arguments, target, _streamed(opened, settings, progress, source, written))
    return written


def _create(arguments: tuple[str, ...], target: Target, load: Callable[[Any], Any]) -> None:
    from onnxruntime_genai.models import builder

    try:
        prepared = builder.parse_extra_options(*arguments, [f"{key}={value}" for key, value in target.options.items()])
        config = prepared["hf_details"]["hf_config"]
        builder_input.mend_config(config)
        fused = builder_input.turns_in_attention(config)
        if not fused:  # nodes before attention need queries and keys apart
            prepared["fuse_qkv"] = False
        with _seams(builder.Model, load, fused_rope=fused):
            builder.create_model(*arguments, **prepared)
    except NotImplementedError as error:
        raise Unsupported(f"the model builder does not know this model: {error}") from error


def _plain_folder(model: Model, scratch: Path) -> Path:
    """The model's folder, or one whose config says nothing of packed weights: the builder would unpack them itself."""
    if quantization_config(model.path) is None:
        return model.path
    folder = scratch / "plain"
    folder.mkdir(parents=True, exist_ok=True)
    copy_companions(model.path, folder)
    return folder


@contextlib.contextmanager
def _seams(base: Any, load: Callable[[Any], Any], *, fused_rope: bool) -> Iterator[None]:
    """Let the builder take its weights from us, and what it would misread of the model.

    `load_weights` is the builder's own seam for other sources (GGUF, quantized checkpoints), `is_fused_rope_supported`
    the one for what attention cannot do. `get_genai_commit` asks git above the package for a commit: in an environment
    that lies inside a user's repository that is the user's, and the graph's bytes would change with it. All are
    replaced where the builder's base class defines them, and restored afterwards.
    """
    original = base.load_weights, base.is_fused_rope_supported, base.__dict__["get_genai_commit"]

    def mended(maker: Any, _input_path: str) -> Any:
        model = load(maker)
        builder_input.mend_builder(maker, model)
        return model

    base.load_weights = mended
    package = importlib.import_module("onnxruntime_genai")
    base.get_genai_commit = staticmethod(lambda: getattr(package, "__commit__", None))
    if not fused_rope:
        base.is_fused_rope_supported = lambda _maker: False
    try:
        yield
    finally:
        base.load_weights, base.is_fused_rope_supported, base.get_genai_commit = original


def _whole(model: Model) -> Callable[[Any], Any]:
    def load(_maker: Any) -> Any:
        module = load_causal_lm(model, dtype="auto")
        refuse_not_finite(module.named_parameters())  # the builder rounds NaN to a number
        return module

    return load


# Methods of the builder that split a fused layer: they make layers of the full size, only to replace their weights.
_UNPACKERS = ("make_attention_unpacked_regular", "make_mlp_unpacked_regular")


def _on_meta(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, whose new tensors take no memory and no time to fill."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.device("meta"):
            return method(*args, **kwargs)

    return run


def _streamed(
    opened: Opened, settings: "Settings", progress: "Progress", source: Weights | None, written: "Written"
) -> Callable[[Any], Any]:
    """Parameters that are not yet numbers; the one builder that asks for them saves them as they are to be saved.

    written: gets the hashes of what it saves.
    """

    def load(maker: Any) -> Any:
        from olivine.exporting.lazy_weights import lazy_weight

        maker.save_model = lambda folder: written.update(_save(maker, Path(folder), settings, progress))
        for name in _UNPACKERS:
            if hasattr(maker, name):
                setattr(maker, name, _on_meta(getattr(maker, name)))

        def wrap(tensor: LazyTensor, dtype: "torch.dtype") -> "torch.Tensor":
            exact = source is not None and tensor.dtype == "float32"
            return lazy_weight(tensor, torch.float32 if exact else dtype)

        return lazy_causal_lm(opened.model, wrap, source, own=opened.weights)

    return load


def _save(maker: Any, folder: Path, settings: "Settings", progress: "Progress") -> "Written":
    """Quantize the builder's graph, and write it with its weights."""
    from olivine.exporting import quantize_graph, rounding, streaming

    graph, jobs = maker.model, []
    if maker.onnx_dtype.name in ("INT4", "UINT4", "INT8", "UINT8"):
        matrices = quantize_graph.matrices(graph, settings.excluded)
        chosen = [(matrices[name], choice) for name, choice in rounding.choices(settings, matrices).items()]
        jobs = quantize_graph.quantize_graph(graph, chosen, maker.quant_attrs["accuracy_level"])
    graph.graph.sort()
    maker.stamp_build_metadata(graph)
    return streaming.save(graph, folder / maker.filename, jobs, progress=progress)


def complete_config(opened: Opened, folder: Path, max_length: int, search: Mapping[str, Any]) -> None:
    """Derive what the builder leaves to chance: the end tokens and a length that fits in memory."""
    path = folder / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    tokenizer = opened.tokenizer
    stops = [*token_ids(config["model"].get("eos_token_id")), *end_tokens(tokenizer, opened.model.path)]
    ends = list(dict.fromkeys(stops))
    if ends:
        config["model"]["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    if tokenizer.pad_token_id is not None:
        config["model"]["pad_token_id"] = tokenizer.pad_token_id
    config["search"] |= {"max_length": max_length, **search}
    config["search"]["top_k"] = min(config["search"]["top_k"], config["model"]["vocab_size"])
    for key in ("max_length", "min_length"):  # the runtime refuses a folder that asks for more
        config["search"][key] = min(config["search"][key], config["model"]["context_length"])
    path.write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")
    _drop_nulls(folder / "tokenizer_config.json")


def _drop_nulls(path: Path) -> None:
    """Leave out what is null, such as the template of a base model: the runtime's tokenizer reads texts there."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    if any(value is None for value in settings.values()):
        kept = {key: value for key, value in settings.items() if value is not None}
        path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def refuse_broken_scales(folder: Path) -> None:
    """Raise ModelError that names the first floating-point tensor of the graph with NaN or infinity in it."""
    for path in folder.glob("*.onnx"):
        graph = onnx_ir.load(path).graph
        for value in graph.initializers.values():
            tensor = value.const_value
            if (
                tensor is None
                or not tensor.dtype.is_floating_point()
                or value.name.endswith(("cos_cache", "sin_cache"))
            ):
                continue
            if not np.isfinite(tensor.numpy().astype(np.float32, copy=False)).all():
                raise NotFiniteError(f"the weight '{value.name}' holds NaN or infinity, so the model cannot be built")


def refuse_slow_forms(graph: "onnx_ir.Model", execution_provider: str) -> None:
    """Raise ModelError for the legal forms of MatMulNBits that its CPU kernels do not have.

    They fall back to dequantizing the whole weight for every token, 95 to 160 times slower: reordered inputs (g_idx),
    zero points that are not integers, and 8 bits without accuracy level 4.
    """
    if execution_provider != "CPUExecutionProvider":
        return
    for node in graph.graph.all_nodes():
        if node.op_type == "MatMulNBits" and (why := _slow_because(node)):
            raise ModelError(f"'{node.name}' would run about 100 times slower on this CPU: {why}")


def _slow_because(node: Any) -> str | None:
    level = node.attributes.get_int("accuracy_level", 0)
    inputs = [*node.inputs, None, None, None][:5]
    if inputs[4] is not None:
        return "it has reordered inputs (g_idx)"
    if inputs[3] is not None and inputs[3].dtype != onnx_ir.DataType.UINT8:
        return "its zero points are not stored as integers"
    if node.attributes.get_int("bits", 4) == 8 and level != 4:
        return f"8 bits need accuracy level 4, and it has {level}"
    return None


def check_folder(folder: Path) -> "onnx_ir.Model":
    """The graph; ModelError unless the folder has config, tokenizer, graph, and every byte of data it refers to."""
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    for name in ("tokenizer_config.json", config["model"]["decoder"]["filename"]):
        if not (folder / name).is_file():
            raise ModelError(f"the built folder lacks '{name}'")
    graph = onnx_ir.load(folder / config["model"]["decoder"]["filename"])
    check_external(folder, graph)
    return graph


def check_external(folder: Path, graph: "onnx_ir.Model") -> None:
    """ModelError unless the folder holds every byte of data that the graph refers to."""
    for value in graph.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, onnx_ir.ExternalTensor):
            _check_tensor(folder, tensor)


def _check_tensor(folder: Path, tensor: Any) -> None:
    data = folder / tensor.location
    if Path(tensor.location).is_absolute() or ".." in Path(tensor.location).parts:
        raise ModelError(f"tensor '{tensor.name}' refers to '{tensor.location}', outside of the folder")
    if not data.is_file() or data.stat().st_size < (tensor.offset or 0) + (tensor.length or 0):
        raise ModelError(f"tensor '{tensor.name}' refers to bytes that '{tensor.location}' does not hold")

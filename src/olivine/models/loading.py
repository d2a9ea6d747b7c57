"""A model in memory, ready to run: built empty, then filled tensor by tensor from `weights()`."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError
from olivine.models._deltas import HEAD, embedding_of
from olivine.models._model import Model
from olivine.models.adapter import has_fused_layers, merged_weights, n_tokens_of, trained_base, unties
from olivine.models.config import load_config
from olivine.models.diffusion import load_component
from olivine.models.inspect import read_facts
from olivine.models.io_config import examples
from olivine.models.scripted import opened
from olivine.models.tensors import LazyTensor, Weights, one_by_one
from olivine.models.weights import weights

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

_ROWS = 1024  # of two matrices that are compared, at a time


def load_tokenizer(model: Model) -> Any:
    """The tokenizer in the model's folder; an adapter without one uses its base's. ModelError when there is none."""
    from transformers import AutoTokenizer

    source = model
    while source.format == "adapter" and source.base and not (source.path / "tokenizer_config.json").is_file():
        source = source.base
    try:
        return AutoTokenizer.from_pretrained(source.path, trust_remote_code=source.trust_remote_code)
    except Exception as error:  # tokenizers raises Exception itself, and a model's own code whatever it likes
        told = str(error) if type(error) is Exception else f"{type(error).__name__}: {error}"
        raise ModelError(f"{source.path} holds no usable tokenizer: {told}") from error


def load_causal_lm(
    model: Model,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    each_layer: Callable[[str, Any], None] | None = None,
    own: Weights | None = None,
) -> Any:
    """The model as a transformers module (a PeftModel for an adapter that fits its base), on `device`, in eval mode.

    dtype: "float32", "bfloat16", "float16", or "auto" for the checkpoint's own. Each tensor is cast as it is read, so
    the peak is the model and one tensor. Raises ModelError that names tensors which are missing or have another shape.
    each_layer: called with the name and module of every decoder layer of a checkpoint as soon as all of it is filled.
    own: the checkpoint's tensors, where they are opened already.
    """
    if model.format == "adapter":
        return _load_adapter(model, dtype, device)
    return _load_checkpoint(model, dtype, device, each_layer, own)


def load_module(model: Model, *, device: str = "cpu", attention: str | None = None) -> Any:
    """Any model of transformers in float32 and eval mode: with the head of its task, and without a cache.

    attention: transformers' name of the one to compute with; None for its default. Raises ModelError for weights that
    are missing or pickled.
    """
    if model.format == "script":
        return load_scripted(model)
    if model.format == "diffusers":
        return load_component(model)
    if model.format == "adapter" or model.base is not None or read_facts(model.path).kind == "decoder":
        module = load_causal_lm(model, device=device)
    else:
        module = _load_other(model).to(device).eval()
    for config in (module.config, module.config.get_text_config()):
        config.use_cache = False
    if attention is not None and hasattr(module, "set_attn_implementation"):
        module.set_attn_implementation(attention)
    return module


def load_scripted(model: Model) -> Any:
    """What the loader of a script gives, called as a module of transformers is: inputs by name, outputs by name."""
    with opened(model, load_module) as scripted:
        names = list((scripted.io_config() or {}).get("input_names") or examples(scripted.example(), ()))
        outputs = list((scripted.io_config() or {}).get("output_names") or ())
        return by_names(scripted.module(), names, outputs)


def by_names(module: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """A module that takes its inputs in order, as one that takes them by name and gives a mapping.

    outputs: names in the order of what it gives; what has none is called output_0 and so on.
    """

    class Named(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, return_dict: bool = True, **given: Any) -> dict[str, Any]:  # noqa: ARG002 - as transformers
            told = self.module(*(given[name] for name in inputs or given))
            if hasattr(told, "items"):
                return dict(told.items())
            values = list(told) if isinstance(told, tuple | list) else [told]
            names = [*outputs, *(f"output_{number}" for number in range(len(outputs), len(values)))]
            return dict(zip(names, values, strict=False))

    return Named().eval()


def _load_other(model: Model) -> Any:
    """A model that is no decoder, by the class that its config names, or by the one of another task."""
    import transformers

    facts = read_facts(model.path)
    named = getattr(transformers, facts.architecture, None) if model.task in ("", facts.task) else None
    kind = named or getattr(transformers, AUTO_CLASSES.get(model.task, "AutoModel"))
    config = load_config(model.path, trust_remote_code=model.trust_remote_code)
    torch.manual_seed(0)  # of a pooler that the checkpoint lacks
    try:
        module, told = kind.from_pretrained(
            model.path,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=model.trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"{model.path}: transformers cannot load it: {' '.join(str(error).split())[:300]}") from error
    missing = sorted(name for name in told["missing_keys"] if "pooler" not in name)
    if missing:
        raise ModelError(
            f"{model.path} lacks the weights {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''} of a model "
            f"for {model.task or facts.task}"
        )
    return module


AUTO_CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "sentiment-analysis": "AutoModelForSequenceClassification",
    "zero-shot-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "ner": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "multiple-choice": "AutoModelForMultipleChoice",
    "fill-mask": "AutoModelForMaskedLM",
    "image-classification": "AutoModelForImageClassification",
    "object-detection": "AutoModelForObjectDetection",
    "image-segmentation": "AutoModelForSemanticSegmentation",
    "depth-estimation": "AutoModelForDepthEstimation",
    "audio-classification": "AutoModelForAudioClassification",
    "audio-frame-classification": "AutoModelForAudioFrameClassification",
    "audio-xvector": "AutoModelForAudioXVector",
    "summarization": "AutoModelForSeq2SeqLM",
    "translation": "AutoModelForSeq2SeqLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
}
"""transformers' class for a task that is not that of the checkpoint; those without a head of their own: AutoModel."""


def _load_adapter(model: Model, dtype: str, device: str) -> Any:
    from peft import PeftModel

    if model.base is None:
        raise ModelError(f"the adapter {model.path} has no base model to run on")
    stored = weights(model.base)
    if has_fused_layers(model, stored):
        merged = merged_weights(model, stored)
        untied = unties(model, merged, tied=True)
        n_tokens = n_tokens_of(model, stored)
        return _load_checkpoint(model.base, dtype, device, source=merged, untied=untied, n_tokens=n_tokens)
    source = trained_base(model, stored)
    base = _load_checkpoint(model.base, dtype, device, source=source)
    n_tokens = n_tokens_of(model, source)
    if n_tokens not in (None, base.get_input_embeddings().weight.shape[0]):
        base.resize_token_embeddings(n_tokens, mean_resizing=False)  # the new rows are the adapter's own
    return PeftModel.from_pretrained(base, str(model.path)).eval()


def lazy_causal_lm(
    model: Model,
    wrap: "Callable[[LazyTensor, torch.dtype], torch.Tensor]",
    source: Weights | None = None,
    own: Weights | None = None,
) -> Any:
    """The checkpoint as a transformers module whose parameters are what `wrap` makes of each tensor and its type.

    source: tensors to take in place of the checkpoint's own. own: those, where they are opened already. Nothing is
    read; ModelError as in `load_causal_lm`. The type is the checkpoint's own.
    """
    empty, own, dtype = _skeleton(model, "auto", own)
    for name, tensor in _required(empty, own if source is None else source, model):
        assign(empty, name, wrap(tensor, dtype))
    empty.tie_weights()
    fill_buffers(empty, "cpu")
    return empty.eval()


def _skeleton(
    model: Model, dtype: str, source: Weights | None = None, *, untied: bool = False, n_tokens: int | None = None
) -> "tuple[Any, Weights, torch.dtype]":
    """The module on the meta device, the checkpoint's tensors, and the type that the parameters are to have.

    untied: the head has a tensor of its own, whatever the config says. n_tokens: of an adapter's own vocabulary.
    """
    import transformers

    config = load_config(model.path, trust_remote_code=model.trust_remote_code)
    kind = transformers.AutoModelForSpeechSeq2Seq if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    if untied:
        config.tie_word_embeddings = False
    if n_tokens is not None:
        config.get_text_config().vocab_size = n_tokens
    source = weights(model) if source is None else source
    if config.get_text_config().tie_word_embeddings:
        _refuse_parted_head(model, source)
    target = _dtype(dtype, config, source)
    with torch.device("meta"):
        empty = kind.from_config(config, dtype=target, trust_remote_code=model.trust_remote_code)
    return empty, source, target


def _load_checkpoint(
    model: Model,
    dtype: str,
    device: str,
    each_layer: Callable[[str, Any], None] | None = None,
    source: Weights | None = None,
    *,
    untied: bool = False,
    n_tokens: int | None = None,
) -> Any:
    from transformers import GenerationConfig

    empty, source, target = _skeleton(model, dtype, source, untied=untied, n_tokens=n_tokens)
    _fill(empty, source, target, device, model, each_layer)
    if (model.path / "generation_config.json").is_file():
        try:
            empty.generation_config = GenerationConfig.from_pretrained(model.path)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ModelError(f"{model.path}: transformers cannot read its generation_config.json: {error}") from error
    return empty.eval()


def _dtype(dtype: str, config: Any, source: Any) -> "torch.dtype":
    if dtype != "auto":
        return getattr(torch, dtype)
    if config.dtype is not None:
        return config.dtype
    dtypes = [getattr(torch, tensor.dtype) for tensor in source.values()]
    return next((stored for stored in dtypes if stored.is_floating_point), torch.float32)


def _refuse_parted_head(model: Model, source: Weights) -> None:
    """ModelError for a file with a head of its own under a config that says it is the embedding.

    transformers keeps the two apart then, and tools that believe the config do not.
    """
    embedding = embedding_of(source)
    if embedding is None or HEAD not in source:
        return
    head, other = source[HEAD], source[embedding]
    if head.blockwise is not None or other.blockwise is not None:
        return
    pieces = ((start, min(start + _ROWS, head.shape[0])) for start in range(0, head.shape[0], _ROWS))
    if head.shape != other.shape or not all(torch.equal(head.rows(*rows), other.rows(*rows)) for rows in pieces):
        raise ModelError(
            f"{model.path}: '{HEAD}' is not '{embedding}', but the config says that head and embedding are one; "
            'write "tie_word_embeddings": false into its config.json'
        )


def _fill(
    module: Any,
    source: Weights,
    dtype: "torch.dtype",
    device: str,
    model: Model,
    each_layer: Callable[[str, Any], None] | None = None,
) -> None:
    """Put every tensor where the module expects it, tie what is tied, compute the buffers that no checkpoint holds."""
    layers = _last_names(module) if each_layer is not None else {}
    for name, lazy_tensor in one_by_one(dict(_required(module, source, model))):
        tensor = lazy_tensor.read()
        if tuple(tensor.shape) != lazy_tensor.shape:
            raise ModelError(f"{model.path}: '{name}' is {list(tensor.shape)}, but was promised {lazy_tensor.shape}")
        assign(module, name, tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None))
        if each_layer is not None and (layer := layers.pop(name, None)) is not None:
            each_layer(*layer)
    module.tie_weights()
    fill_buffers(module, device)


def _last_names(module: Any) -> dict[str, tuple[str, Any]]:
    """Name and module of the decoder layers by the last tensor of each, in the order in which tensors are filled."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, GradientCheckpointingLayer)]
    last = {}
    for name in module.state_dict():
        for layer in layers:
            if name.startswith(f"{layer[0]}."):
                last[layer[0]] = (name, layer)
    return dict(last.values())


def _required(module: Any, source: Weights, model: Model) -> "Iterator[tuple[str, LazyTensor]]":
    """The tensor of each parameter but tied ones; ModelError for one that is missing or has another shape."""
    parameters = module.state_dict()
    tied = tied_names(module)
    missing = [name for name in parameters if name not in source and name not in tied]
    if missing:
        raise ModelError(f"{model.path} lacks the weights {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
    for name, parameter in parameters.items():
        if name not in source:
            continue
        if source[name].shape != tuple(parameter.shape):
            raise ModelError(
                f"{model.path}: '{name}' is {list(source[name].shape)}, but the config asks for {list(parameter.shape)}"
            )
        yield name, source[name]


def tied_names(module: Any) -> set[str]:
    """Names that a checkpoint may leave out because they share another tensor."""
    if not module.config.tie_word_embeddings:
        return set()
    return set(getattr(module, "_tied_weights_keys", None) or {})


def assign(module: Any, name: str, tensor: "torch.Tensor") -> None:
    """Let `tensor` be the parameter or buffer of that name, with its own type and device."""
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    if isinstance(getattr(owner, leaf), torch.nn.Parameter):
        owner.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))
    else:
        owner.register_buffer(leaf, tensor)


def fill_buffers(module: Any, device: str) -> None:
    """Buffers outside of the state dict (rotary frequencies) were made on the meta device: make their owners again."""
    for owner in module.modules():
        missing = [name for name, buffer in owner.named_buffers(recurse=False) if buffer.is_meta]
        fresh = _rebuilt(owner) if missing else None
        for name in missing:
            owner.register_buffer(name, getattr(fresh, name).to(device), persistent=False)


def _rebuilt(owner: Any) -> Any:
    """The same module, made on the CPU."""
    with torch.device("cpu"):
        if hasattr(owner, "config"):
            return type(owner)(owner.config)
        if hasattr(owner, "embed_scale"):  # Gemma's scaled embedding keeps its scale as a buffer
            return type(owner)(1, owner.embedding_dim, None, owner.scalar_embed_scale)
    raise ModelError(f"a buffer of {type(owner).__name__} cannot be computed from the config alone")

"""The replaceable parts of training, put in where the model allows it; each is tried on a few tokens before it is used.

No list of architectures: packed attention and the loss in chunks are compared with what the model itself computes,
and a model that gives something else keeps its own way, with the reason on record.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.kernels import chunked_loss, fused_layer, fused_ops, lora_linear, packed_attention
from olivine.kernels.packed_attention import Segments

if TYPE_CHECKING:
    import torch
    import transformers
else:
    torch = lazy.module("torch")
    transformers = lazy.module("transformers")

# Relative distance of two computations of the same thing, by the type that they are computed in.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 2e-2}
# The same where inputs are rounded to 8 bits: what rounds one up in one order of sums rounds it down in another.
_IN_EIGHT_BITS = 0.4
# Compiling takes ten seconds or more: it pays from about this many tokens on.
_TOKENS_TO_COMPILE = 200_000
# What a model may raise that cannot be called with packed rows or for hidden states alone.
_REFUSALS = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


def base_of(model: Any) -> Any:
    """The transformers model inside of an adapted one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@dataclass
class Head:
    """The way to a loss in chunks: the decoder, whose output is caught on its way, and what turns it into logits.

    fused: whether the softmax of a chunk is compiled.
    """

    decoder: Any
    model: Any
    logits: chunked_loss.Logits
    fused: bool = False
    workspace: chunked_loss.Workspace = field(default_factory=chunked_loss.Workspace)

    def loss(self, hidden: "torch.Tensor", where: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        """Summed cross entropy at the positions `where` of the flattened hidden states."""
        states = hidden.flatten(0, 1)
        if len(where) < len(states):
            states = states.index_select(0, where)
        if not len(where):  # keep the graph: a rank without targets still takes part in the reduction
            return hidden.sum().float() * 0.0
        return chunked_loss.chunked_loss(
            states, self._module(), targets, self.logits, fused=self.fused, workspace=self.workspace
        )

    def _module(self) -> Any:
        """The head itself, or its trained copy when the adapter trains it in full."""
        head = base_of(self.model).get_output_embeddings()
        copies = getattr(head, "modules_to_save", None)
        if copies is not None and getattr(head, "active_adapters", None):
            return copies[head.active_adapters[0]]
        return head

    def hidden_states(self, model: Any, **inputs: Any) -> "torch.Tensor":
        """The last hidden states [rows, tokens, width] of a forward pass of the model or of what wraps it.

        The pass asks for the logits of no position: those of a single one read the whole head once more, and on a CPU
        torch even copies it (a sixth of a step of SmolLM2-135M).
        """
        caught: list[torch.Tensor] = []
        handle = self.decoder.register_forward_hook(lambda _, __, output: caught.append(output.last_hidden_state))
        nowhere = torch.empty(0, dtype=torch.long, device=inputs["input_ids"].device)
        try:
            model(**inputs, logits_to_keep=nowhere, use_cache=False)
        finally:
            handle.remove()
        return caught[0]


def find_head(model: Any) -> tuple[Head | None, str]:
    """The head of a model whose loss in chunks equals its own; else None and the reason."""
    base = base_of(model)
    decoder = getattr(base, base.base_model_prefix, None)
    if decoder is None or base.get_output_embeddings() is None:
        return None, "it has no decoder with a head of its own"
    head = Head(decoder, model, chunked_loss.Logits.of(base.config.get_text_config()))
    ids = _probe_ids(base, 16)[None]
    where = torch.arange(15, device=ids.device)
    try:
        with _looking(model):
            expected = model(input_ids=ids, labels=ids, use_cache=False).loss.float()
            hidden = head.hidden_states(model, input_ids=ids)
            ours = head.loss(hidden, where, ids[0, 1:]) / 15
    except torch.OutOfMemoryError:
        raise
    except _REFUSALS as error:
        return None, f"it cannot give its hidden states ({_first_line(error)})"
    if not _agree(ours, expected, hidden.dtype):
        return None, "its loss is not the cross entropy of its head"
    return head, ""


def use_packed_attention(model: Any) -> str:
    """Let the model attend within the segments of a packed row; gives the reason when it cannot and stays as it is."""
    base = base_of(model)
    before = base.config._attn_implementation  # noqa: SLF001 - transformers keeps the choice there and nowhere else
    rows = [_probe_ids(base, length) for length in (5, 9, 4)]
    transformers.AttentionInterface.register(packed_attention.NAME, packed_attention.attend)
    reason = ""
    with _looking(model):
        expected = torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in rows])
        try:
            base.set_attn_implementation(packed_attention.NAME)
            ours = model(**_packed(rows), use_cache=False).logits[0]
            if not _agree(ours, expected, base.dtype):
                reason = "packed rows are not computed as single ones"
        except torch.OutOfMemoryError:
            raise
        except _REFUSALS as error:
            reason = _first_line(error)
    if reason:
        base.set_attn_implementation(before)
    return reason


def _packed(rows: list["torch.Tensor"]) -> dict[str, Any]:
    segments = Segments.of([len(row) for row in rows], rows[0].device)
    positions = torch.cat([torch.arange(len(row), device=row.device) for row in rows])
    return {"input_ids": torch.cat(rows)[None], "position_ids": positions[None], **segments.arguments()}


def _probe_ids(base: Any, length: int) -> "torch.Tensor":
    """Token numbers that differ from each other, the same at each call; no random state is touched."""
    vocabulary = base.config.get_text_config().vocab_size
    return (torch.arange(length, device=base.device) * 7 + length) % vocabulary


@contextmanager
def _looking(model: Any) -> Iterator[None]:
    """Lets the model be called without dropout and without gradients, and puts it back as it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _agree(ours: "torch.Tensor", expected: "torch.Tensor", dtype: "torch.dtype", at_least: float = 0.0) -> bool:
    ours, expected = ours.float(), expected.float()
    distance = (ours - expected).norm() / expected.norm().clamp_min(1e-6)
    return bool(distance < max(at_least, _TOLERANCE.get(str(dtype).removeprefix("torch."), 5e-2)))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def use_lora_linear(model: Any) -> int:
    """Let plain LoRA layers compute without float32 copies; gives their number."""
    return lora_linear.take_over(model)


def wants_fused_layers(wish: bool | str, device: "torch.device", dtype: "torch.dtype") -> bool:
    """Whether to put layers together: as asked for, or where the kernels for it are."""
    if isinstance(wish, bool):
        return wish
    has_kernels = fused_ops.HAS_TRITON and dtype in (torch.bfloat16, torch.float16)
    return device.type == "cuda" and has_kernels and packed_attention.has_variable_length(device, dtype)


def use_fused_layers(model: Any) -> tuple[fused_layer.FusedLayers | None, str]:
    """Let the decoder's layers compute in fused form; else the reason why they cannot and stay as they are.

    The model attends within packed rows already, and its plain LoRA layers are ours.
    """
    base = base_of(model)
    rows = _packed([_probe_ids(base, length) for length in (5, 9, 4)])
    with _looking(model):
        expected, attention = _attended(model, rows)
        fused = fused_layer.take_over(getattr(base, base.base_model_prefix), _layers(model), attention)
        if fused is None:
            return None, "its layers are not those of Llama's decoder, or their adapters are not plain"
        try:
            ours = model(**rows, use_cache=False).logits[0]
            agree = _agree(ours, expected, base.dtype, at_least=_IN_EIGHT_BITS * has_eight_bits(model))
            reason = "" if agree else "fused layers do not compute what its own do"
        except torch.OutOfMemoryError:
            raise
        except _REFUSALS as error:
            reason = _first_line(error)
    if reason:
        fused.give_up()
        return None, reason
    return fused, ""


def record_layers(
    model: Any, fused: fused_layer.FusedLayers, n_tokens: int, n_segments: int, longest: int, length: int | None
) -> str:
    """Record the layers as CUDA graphs for packed rows of that form; gives the reason when that fails.

    length: of each segment, where all have one.
    """
    base = base_of(model)
    device = base.device
    hidden = torch.zeros(1, n_tokens, base.config.get_text_config().hidden_size, dtype=base.dtype, device=device)
    angles = getattr(base, base.base_model_prefix).rotary_emb(hidden, torch.arange(n_tokens, device=device)[None])
    lengths = [length] * (n_tokens // length) if length else [min(longest, n_tokens)]
    segments = Segments.of(lengths, device, n_segments)
    try:
        fused.record(hidden, angles, segments.bounds, longest, length)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return "not enough memory is free"
    except _REFUSALS as error:
        return _first_line(error)
    return ""


def has_eight_bits(model: Any) -> bool:
    """Whether the base multiplies in 8 bits."""
    from olivine.kernels.linear8bit import Linear8bit

    return any(isinstance(module, Linear8bit) for module in model.modules())


def _attended(model: Any, rows: dict[str, Any]) -> tuple["torch.Tensor", dict[Any, tuple[float | None, int | None]]]:
    """The logits of a packed row, and the scaling and window that each attention module hands to its function."""
    seen: dict[Any, tuple[float | None, int | None]] = {}

    def noting(module: Any, *tensors: Any, **more: Any) -> Any:
        seen[module] = (more.get("scaling"), more.get("sliding_window"))
        return packed_attention.attend(module, *tensors, **more)

    transformers.AttentionInterface.register(packed_attention.NAME, noting)
    try:
        return model(**rows, use_cache=False).logits[0], seen
    finally:
        transformers.AttentionInterface.register(packed_attention.NAME, packed_attention.attend)


def wants_compile(wish: bool | str, device: str, dtype: "torch.dtype", n_tokens: int) -> bool:
    """Whether to compile: as asked for, or on a GPU with a compiler when there is enough to train.

    On the CPU the matrix products are all but a few percent of a step, and compiling costs more than it gains.
    """
    if isinstance(wish, bool):
        return wish
    if device != "cuda" or not packed_attention.has_variable_length(torch.device("cuda"), dtype):
        return False
    return lazy.installed("triton") and n_tokens >= _TOKENS_TO_COMPILE


def warm_compiler() -> None:
    """Start the processes that compile kernels, so that they come up while the weights are read.

    First step of 2,048-token rows on an H100: 18 s after the load in place of 23 s.
    """
    if lazy.installed("triton"):
        from torch._inductor.async_compile import AsyncCompile

        AsyncCompile.warm_pool()


def compile_layers(model: Any, *, dynamic: bool) -> int:
    """Compile each decoder layer by itself (they share one compiled form); gives their number.

    The first layer's input takes a gradient that nobody needs, so that it has the form of the others: half a percent
    of a step against compiling everything twice.
    """
    base_of(model).enable_input_require_grads()
    layers = _layers(model)
    for layer in layers:
        layer.compile(dynamic=dynamic)
    return len(layers)


def give_up_compiling(model: Any) -> None:
    """Let the layers run as they are written."""
    for layer in _layers(model):
        layer._compiled_call_impl = None  # noqa: SLF001 - what Module.compile sets; torch has no way back of its own
    torch.compiler.reset()


def is_compiled(model: Any) -> bool:
    """Whether layers run in compiled form."""
    return any(layer._compiled_call_impl is not None for layer in _layers(model))  # noqa: SLF001 - as above


def has_variable_length(device: "torch.device", dtype: "torch.dtype") -> bool:
    """Whether attention needs only the bounds of the segments on the device, not their lengths on the host."""
    return packed_attention.has_variable_length(device, dtype)


def _layers(model: Any) -> list[Any]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in base_of(model).modules() if isinstance(module, GradientCheckpointingLayer)]


def checkpoint_layers(model: Any, n_layers: int, *, offload: bool = False) -> None:
    """Compute the activations of the first `n_layers` decoder layers again in the backward pass.

    offload: their inputs wait in the machine's memory until then.
    """
    base = base_of(model)
    if not n_layers:
        return
    base.gradient_checkpointing_enable({"use_reentrant": False})
    layers = _layers(model)
    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = index < n_layers
    if offload:
        from olivine.kernels.host_copies import HostCopies

        copies = HostCopies()
        for layer in layers:
            layer._gradient_checkpointing_func = copies.checkpoint  # noqa: SLF001 - transformers has no public name


def measured_peak(device: "torch.device", dtype: "torch.dtype") -> float:
    """Floating point operations a second that a large matrix product reaches on this device, in this type."""
    import time

    size, times = (8192, 5) if device.type == "cuda" else (768, 3)
    generator = torch.Generator(device).manual_seed(0)
    left = torch.randn(size, size, generator=generator, device=device).to(dtype)
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        torch.mm(left, left)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best

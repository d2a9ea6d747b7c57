"""What one micro-batch needs: a model of the peak memory of LoRA training, and the largest micro-batch that fits.

Counted are the tensors that training holds at its peak, which is where the backward pass enters the last layer: the
weights, the adapter with its gradient and both moments, what each layer keeps for the backward pass, the gradients in
flight through one layer, and the head's chunk. The counts per layer are those of the decoder that Llama, Phi, Qwen,
Mistral and Gemma share (attention and a gated MLP). `benchmarks/finetune_gpu.py` sets them against the measured peak.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from olivine.config.schema import DataConfig
from olivine.data import row_sizes
from olivine.kernels.chunk_sizes import PART_BYTES, chunk_rows
from olivine.models.facts import ModelFacts
from olivine.work import Estimate, Machine

# float32 master, its gradient and Adam's two moments
BYTES_PER_TRAINED_WEIGHT = 16
# the same with the weight itself in 16 bits; its gradient gives way to the master's for the time of the update
BYTES_WITH_MASTER = 18
# A longer micro-batch is no faster: the matrix products are as efficient as they get.
ENOUGH_TOKENS = {"cuda": 8192, "cpu": 1024}
# what a process holds beside its tensors: Python, torch, transformers, and what CUDA needs on the host
PROCESS_BYTES = {"cuda": 1_200_000_000, "cpu": 600_000_000}
# model types whose attention normalises queries and keys
HEAD_NORMS = ("qwen3", "gemma3", "olmo2", "olmo3", "lfm2", "hunyuan")
# model types whose decoder layers have a fused form (`kernels.fused_layer`, which asks the layers themselves)
FUSED = ("gemma", "llama", "mistral", "phi3", "qwen2", "qwen3")
# Inputs of checkpointed layers that are on the device while the others wait in the machine's memory: that of the layer
# which computes, the one that comes, and the one that goes.
INPUTS_AT_ONCE = 3
# Share of the free memory that is planned with: allocators lose some to fragments.
USABLE = 0.92


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder, in numbers of weights or features; `weight_bytes` and `size` (of an activation) in bytes.

    kv_size: features of the keys (and of the values) of a token; compiled: whether each layer runs as fused kernels.
    checkpointed: layers whose activations are computed again in the backward pass. update_bytes: of the updates of all
    layers where they are written out as matrices and kept for the backward pass (LoHa, LoKr, DoRA). scales_outputs:
    whether each layer's output is kept beside that of its update, to be scaled (DoRA). head_norms: whether queries and
    keys are normalised, which keeps what the norms read. fused: whether layers compute as `kernels.fused_layer` does.
    offloads: whether the inputs of checkpointed layers wait in the machine's memory (`kernels.host_copies`).
    """

    hidden: int
    intermediate: int
    n_layers: int
    vocabulary: int
    query_size: int
    kv_size: int
    weight_bytes: int
    n_trained: int
    size: int = 2
    compiled: bool = False
    checkpointed: int = 0
    device: str = "cuda"
    update_bytes: int = 0
    scales_outputs: bool = False
    head_norms: bool = False
    fused: bool = False
    offloads: bool = False

    @staticmethod
    def of_facts(facts: ModelFacts, n_trained: int, size: int, device: str) -> "Shape":
        """From a model that is not loaded; where its config does not tell the heads, each query has keys of its own."""
        decoder = facts.as_decoder
        hidden = decoder.hidden_size
        query_size, kv_size = _attention_sizes(facts)
        return Shape(
            hidden=hidden,
            intermediate=decoder.intermediate_size or 4 * hidden,
            n_layers=decoder.n_layers,
            vocabulary=decoder.vocab_size,
            query_size=query_size,
            kv_size=kv_size,
            weight_bytes=facts.n_parameters * size,
            n_trained=n_trained,
            size=size,
            device=device,
            head_norms=str(_text_config(facts).get("model_type", "")).startswith(HEAD_NORMS),
        )


def has_fused_layers(facts: ModelFacts) -> bool:
    """Whether the model's decoder layers have a fused form, by its type."""
    return str(facts.config.get("model_type", "")) in FUSED


def _text_config(facts: ModelFacts) -> Mapping[str, Any]:
    """The config of the decoder, which a model of several parts keeps in a section of its own."""
    told = facts.config.get("text_config")
    return told if isinstance(told, Mapping) else facts.config


def _attention_sizes(facts: ModelFacts) -> tuple[int, int]:
    """Features of all queries and of all keys of a token."""
    decoder = facts.as_decoder
    config = _text_config(facts)
    heads = config.get("num_attention_heads")
    if not isinstance(heads, int) or heads < 1:
        return decoder.hidden_size, decoder.hidden_size
    width = config.get("head_dim") or decoder.hidden_size // heads
    return heads * width, (config.get("num_key_value_heads") or heads) * width


def adapter_size(facts: ModelFacts, targets: Sequence[str] | None) -> int:
    """Features in and out of all layers that an adapter is put on: with rank r, LoRA trains r times as many weights.

    targets: the last parts of their names, None for every linear layer of the decoder.
    """
    decoder = facts.as_decoder
    hidden, inner = decoder.hidden_size, decoder.intermediate_size or 4 * decoder.hidden_size
    query_size, kv_size = _attention_sizes(facts)
    features = {
        "q_proj": hidden + query_size,
        "k_proj": hidden + kv_size,
        "v_proj": hidden + kv_size,
        "qkv_proj": hidden + query_size + 2 * kv_size,
        "o_proj": query_size + hidden,
        "gate_proj": hidden + inner,
        "up_proj": hidden + inner,
        "gate_up_proj": hidden + 2 * inner,
        "down_proj": inner + hidden,
    }
    names = [name for name in decoder.linear_modules if targets is None or name in targets] or decoder.linear_modules
    return decoder.n_layers * sum(features.get(name, 2 * hidden) for name in names or ("",))


def tokens_of(config: DataConfig | None, rows: int, vocabulary: int) -> tuple[int, int]:
    """Tokens of the longest row and of a step of so many rows; full rows where the data does not tell."""
    longest = config.pre_process_data_config.max_seq_len if config else 1024
    sizes = row_sizes(config, vocabulary) if config else None
    if sizes is None:
        return longest, rows * longest
    spread = math.sqrt(rows) * (sizes.longest - sizes.mean)  # the longest of many steps is not that of longest rows
    return sizes.longest, min(rows * sizes.longest, int(rows * sizes.mean + spread) + 1)


def estimate(shape: Shape, machine: Machine, longest: int, n_tokens: int, disk_bytes: float) -> Estimate:
    """What training needs: the micro-batch that it falls back to where memory is short, in each of its processes.

    On several devices: the GPU memory is that of each of them, the machine's memory that of all processes. Before its
    weights are on a GPU, a process holds them in the machine's memory.
    """
    n_devices, process = machine.n_devices, PROCESS_BYTES[machine.device]
    there = machine.device_memory_bytes if machine.device == "cuda" else machine.memory_bytes // n_devices - process
    shape = replace(shape, offloads=may_offload(shape, machine.memory_bytes / n_devices, longest, n_tokens))
    choice = choose(shape, there if there > 0 else 2**60, longest, n_tokens)
    needed = choice.peak_bytes
    on_device = needed if machine.device == "cuda" else 0
    waiting = offloaded_bytes(replace(shape, checkpointed=choice.checkpointed), choice.n_tokens) * n_devices
    held = max(shape.weight_bytes, waiting) if on_device else needed * n_devices
    return Estimate(
        memory_bytes=int(process * (n_devices + (machine.n_processes > 1)) + held),
        device_memory_bytes=int(on_device),
        disk_bytes=int(disk_bytes),
    )


def layer_bytes(shape: Shape) -> int:
    """What one layer keeps of each token for the backward pass, when nothing is computed again.

    Each adapter's A needs the input of its layer: both norms' outputs, the attention's output, the MLP's product.
    Attention needs its queries, keys and values, the MLP both halves, the norms the stream that they read. Values are
    a part of the fused product, which stays whole. Kernels that are not fused keep the stream in float32, the
    activated gate, and one more copy of the stream's width. Layers in their fused form (`kernels.fused_layer`) keep
    neither the norms' results nor the activation, and queries and keys in their own place unless they are normed.
    Updates that are written out are float32, and so is the
    copy that each of the seven products then makes of its input.
    """
    fused = shape.query_size + 2 * shape.kv_size
    if shape.fused:
        turned = shape.query_size + shape.kv_size if shape.head_norms else 0
        return (2 * shape.hidden + fused + turned + shape.query_size + 2 * shape.intermediate) * shape.size
    elements = 2 * shape.hidden + fused + 2 * shape.query_size + shape.kv_size + 3 * shape.intermediate
    if shape.head_norms:
        elements += shape.query_size + shape.kv_size
    if shape.compiled:
        return (elements + 2 * shape.hidden) * shape.size + _written_bytes(shape)
    kept = (elements + shape.intermediate + shape.hidden) * shape.size + 2 * 4 * shape.hidden
    return kept + _written_bytes(shape)


def _written_bytes(shape: Shape) -> int:
    """What PEFT's own layers keep of each token beside the rest: float32 copies of inputs, outputs to be scaled."""
    n_bytes = 0
    if shape.update_bytes and shape.size < 4:
        n_bytes += 4 * (5 * shape.hidden + shape.query_size + shape.intermediate)
    if shape.scales_outputs:
        outputs = shape.query_size + 2 * shape.kv_size + 2 * shape.hidden + 2 * shape.intermediate
        n_bytes += (4 + shape.size) * outputs
    return n_bytes


def peak_bytes(shape: Shape, n_tokens: int) -> int:
    """The peak of one micro-batch of that many tokens: at the head, or where the backward pass enters a layer."""
    kept = (shape.n_layers - shape.checkpointed) * layer_bytes(shape)
    inputs = min(shape.checkpointed, shape.n_layers - 1)  # the last layer goes back at once: what it keeps has its own
    inputs = min(inputs, INPUTS_AT_ONCE) if shape.offloads else inputs
    kept += inputs * shape.hidden * shape.size
    at_head = n_tokens * (kept + 3 * shape.hidden * shape.size) + _head_bytes(shape, n_tokens)
    # gradients of the widest part of a layer, and of the stream. A checkpointed layer is there again as a whole; where
    # others are not checkpointed, they have gone by then. Fused layers write the gate's slope over what they kept.
    widest = (2 if shape.fused and shape.device == "cuda" else 4) * shape.intermediate
    again = layer_bytes(shape) * (shape.checkpointed == shape.n_layers)
    moving = shape.size * (widest + 6 * shape.hidden) + again
    fixed = shape.weight_bytes + shape.n_trained * BYTES_PER_TRAINED_WEIGHT + _update_bytes(shape)
    return fixed + max(at_head, n_tokens * (kept + moving))


def recorded_peak_bytes(shape: Shape, n_tokens: int) -> int:
    """The peak where the layers are CUDA graphs: their memory is their own, and the head's lies beside it.

    With it the gradients that the graph writes, and a copy of its input and of its output with their slopes.
    """
    beside = _head_bytes(shape, n_tokens) + 4 * n_tokens * shape.hidden * shape.size + 4 * shape.n_trained
    return peak_bytes(shape, n_tokens) + beside


def may_offload(shape: Shape, host_bytes: float, longest_row: int, tokens_per_step: int) -> bool:
    """Whether inputs of checkpointed layers can wait in the machine's memory: of fused layers, and in half of it."""
    n_tokens = max(longest_row, min(tokens_per_step, ENOUGH_TOKENS[shape.device]))
    whole = replace(shape, checkpointed=shape.n_layers, offloads=True)
    return shape.fused and shape.device == "cuda" and offloaded_bytes(whole, n_tokens) <= host_bytes / 2


def offloaded_bytes(shape: Shape, n_tokens: int) -> int:
    """What the inputs of the checkpointed layers take of the machine's memory, for one micro-batch."""
    return shape.checkpointed * shape.hidden * shape.size * n_tokens if shape.offloads else 0


def _head_bytes(shape: Shape, n_tokens: int) -> int:
    """Logits of one chunk: the head's output, its float32 copy and its slope.

    A CPU writes the slope in the place of the output, and has the copy of a part at a time.
    """
    kind = "kernel" if shape.fused and shape.device == "cuda" else shape.device
    n_logits = min(n_tokens, chunk_rows(shape.vocabulary, kind)) * shape.vocabulary
    if shape.device == "cpu":
        return n_logits * shape.size + PART_BYTES + PART_BYTES * shape.size // 4
    if shape.fused:  # the slope is written over the output
        return n_logits * shape.size
    return n_logits * (4 + 2 * shape.size)


def _update_bytes(shape: Shape) -> int:
    """Updates of the layers that keep them, and while one layer goes back its slope and the two halves of a product.

    DoRA takes the lengths of its rows from an update that is then let go.
    """
    if not shape.update_bytes:
        return 0
    kept = 1 if shape.scales_outputs else max(1, shape.n_layers - shape.checkpointed)
    return shape.update_bytes * kept // shape.n_layers + 3 * shape.update_bytes // shape.n_layers


@dataclass(frozen=True)
class Choice:
    """How to train: tokens of a micro-batch, layers to compute again, and the peak that this is expected to reach."""

    n_tokens: int
    checkpointed: int
    peak_bytes: int
    fits: bool


def choose(
    shape: Shape, available_bytes: int, longest_row: int, tokens_per_step: int, *, may_checkpoint: bool = True
) -> Choice:
    """The largest useful micro-batch that fits; only when a single row does not fit are layers computed again.

    shape.checkpointed is what the user asked for and is kept when it is not 0; available_bytes: what the device has
    for this process, weights included. A micro-batch is never smaller than the longest row.
    """
    usable = int(available_bytes * USABLE)
    enough = max(longest_row, min(tokens_per_step, ENOUGH_TOKENS[shape.device]))
    shapes = [shape]
    if may_checkpoint and shape.checkpointed == 0:
        eighth = max(1, shape.n_layers // 8)
        shapes += [replace(shape, checkpointed=n) for n in range(eighth, shape.n_layers, eighth)]
        shapes.append(replace(shape, checkpointed=shape.n_layers))
    for candidate in shapes:
        n_tokens = _largest(candidate, usable, longest_row, enough)
        if n_tokens:
            return Choice(n_tokens, candidate.checkpointed, peak_bytes(candidate, n_tokens), fits=True)
    last = shapes[-1]
    return Choice(longest_row, last.checkpointed, peak_bytes(last, longest_row), fits=False)


def _largest(shape: Shape, usable: int, smallest: int, enough: int) -> int:
    """The most tokens between the two bounds whose peak fits; 0 when not even the smallest does."""
    if peak_bytes(shape, smallest) > usable:
        return 0
    low, high = smallest, enough
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if peak_bytes(shape, middle) <= usable else (low, middle - 1)
    return low

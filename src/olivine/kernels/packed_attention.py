"""Causal attention among the segments of a packed row: each token sees the earlier ones of its own segment only.

Several samples stand one after another in a row without padding; `Segments` says where each begins. On CUDA in half
precision the work goes to torch's variable-length attention, elsewhere to its scaled dot product attention.

What is computed is softmax(scaling Q K') V, where token i of the row sees token j if j <= i, i - j < window, and both
lie in one segment. Q, K and V are [1, n_heads, n_tokens, width]; K and V may have fewer heads.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # an earlier release
    varlen_attn = None

NAME = "olivine_packed"  # in transformers' registry of attention functions
# kinds of attention that need more than a causal mask per segment; transformers passes them as arguments
_FOREIGN = ("softcap", "s_aux", "position_bias", "cache")
# what torch's variable-length attention takes; its arguments grow from release to release
_VARIABLE_LENGTH = frozenset(inspect.signature(varlen_attn).parameters) if varlen_attn is not None else frozenset()
# Tokens. On a CPU short segments in half precision take three times as long as in float32 (10 ms against 3 ms, 8 x 38
# tokens).
_SHORT = 256
# On an H100 cuDNN's kernels take two thirds of the time of FlashAttention 2's (1.3 ms against 1.9 ms forward and
# backward for 4 x 2,048 tokens, 32 heads of 96), but they take whole batches only. Heads that share keys are their own
# affair: with each key repeated they took 1.6 ms in place of 1.3 (an H200, 32 heads of 128, 8 of keys).
_FASTEST_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


class UnknownAttentionError(NotImplementedError):
    """The model asks for a kind of attention that the packed form does not have."""


@dataclass(frozen=True)
class Segments:
    """Where the samples of a packed row [1, tokens] lie; every token belongs to one segment.

    bounds: int32 [segments + 1], the first token of each and the end of the last; on the row's device. Trailing
      segments may be empty, so that the number of segments need not change from row to row.
    longest: no segment has more tokens; lengths: tokens of each segment that is not empty, on the host.
    """

    bounds: torch.Tensor
    longest: int
    lengths: tuple[int, ...]

    @staticmethod
    def of(
        lengths: Sequence[int], device: torch.device | str = "cpu", n_segments: int = 0, longest: int = 0
    ) -> "Segments":
        """Segments of these lengths, filled up with empty ones to `n_segments`.

        longest: what the field says if no segment is longer, so that it need not change from row to row either.
        """
        ends = torch.tensor([0, *lengths, *[0] * max(0, n_segments - len(lengths))]).cumsum(0).to(torch.int32)
        if torch.device(device).type == "cuda":
            ends = ends.pin_memory()  # a copy from other memory may wait until the device has no work
        return Segments(ends.to(device, non_blocking=True), max([longest, *lengths]), tuple(lengths))

    @property
    def length(self) -> int | None:
        """The one length of all segments; None when lengths differ."""
        return self.lengths[0] if len(set(self.lengths)) == 1 else None

    def arguments(self) -> dict[str, Any]:
        """What a transformers model takes as keyword arguments, and hands down to its attention function."""
        return {
            "cu_seq_lens_q": self.bounds,
            "max_length_q": self.longest,
            "segment_lengths": self.lengths,
            "segment_length": self.length,
        }


def attend(  # the signature of transformers' attention functions
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - never made for this function
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed row: query [1, n_heads, n_tokens, width], key and value with as many heads or a divisor.

    Gives [1, n_tokens, n_heads, width]. scaling: 1 / sqrt(width) when None. sliding_window: tokens that each one sees,
    itself included; None or 0 for all. Without segments among the arguments, a row is one segment and a batch of rows
    plain causal attention. Raises UnknownAttentionError for caps, sinks and biases.
    """
    if any(more.get(name) is not None for name in _FOREIGN) or not getattr(module, "is_causal", True):
        raise UnknownAttentionError(f"{type(module).__name__} needs more than causal attention")
    window = sliding_window or None
    bounds, lengths = more.get("cu_seq_lens_q"), more.get("segment_lengths")
    if bounds is None:
        return _causal(query, key, value, dropout, scaling, window).transpose(1, 2), None
    longest = more["max_length_q"]
    if window is not None and window >= longest:
        window = None
    if not dropout and has_variable_length(query.device, query.dtype):
        if (length := more.get("segment_length")) and window is None:
            return _of_one_length(query, key, value, length, scaling), None
        return _variable_length(query, key, value, bounds, longest, scaling, window), None
    packed = _by_segment(query, key, value, lengths or _read_lengths(bounds), dropout, scaling, window)
    return packed.transpose(1, 2), None


def has_variable_length(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch brings variable-length attention for tensors such as these."""
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and varlen_attn is not None


def _of_one_length(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, length: int, scaling: float | None
) -> torch.Tensor:
    """Segments of one length as a batch, without a copy, by the fastest kernel: [1, n_tokens, n_heads, width]."""
    n_segments, shared = query.shape[2] // length, key.shape[1] != query.shape[1]
    query, key, value = (_stacked(tensor, n_segments) for tensor in (query, key, value))
    with sdpa_kernel(_FASTEST_FIRST, set_priority=True):
        out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=shared)
    return out.transpose(1, 2).flatten(0, 1)[None]


def _variable_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Segments of any lengths in one kernel: [1, n_tokens, n_heads, width]; what the release lacks is made up for."""
    options: dict[str, Any] = {"scale": scaling} if "scale" in _VARIABLE_LENGTH else {}
    if scaling is not None and "scale" not in _VARIABLE_LENGTH:
        query = query * (scaling * query.shape[-1] ** 0.5)  # the kernel itself scales by 1 / sqrt(width)
    if key.shape[1] != query.shape[1]:
        if "enable_gqa" in _VARIABLE_LENGTH:
            options["enable_gqa"] = True
        else:
            key, value = _with_all_heads(query, key, value)
    if "window_size" in _VARIABLE_LENGTH:
        options["window_size"] = (-1, 0) if window is None else (window - 1, 0)  # tokens to the left, to the right
    elif window is None:
        options["is_causal"] = True
    else:
        raise UnknownAttentionError("this release of torch has no windows in variable-length attention")
    rows = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))  # [n_tokens, n_heads, width]
    return varlen_attn(*rows, bounds, bounds, longest, longest, **options)[None]


def _with_all_heads(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Key and value with each head repeated for all heads of the query that read it."""
    times = query.shape[1] // key.shape[1]
    return key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)


def _read_lengths(bounds: torch.Tensor) -> tuple[int, ...]:
    """The lengths of segments that are not empty; waits for the device."""
    return tuple(length for length in bounds.diff().tolist() if length)


def _by_segment(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: tuple[int, ...],
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """One batch when the segments are about as long as each other, else one after another: [1, heads, n_tokens, width].

    A batch in which every segment is padded to the longest pays while it has no more than twice the tokens.
    """
    n_tokens, longest = query.shape[2], max(lengths)
    if len(lengths) == 1:
        return _causal(query, key, value, dropout, scaling, window)
    if min(lengths) == longest:
        query, key, value = (_stacked(tensor, len(lengths)) for tensor in (query, key, value))
        out = _causal(query, key, value, dropout, scaling, window)
        return out.transpose(0, 1).flatten(1, 2)[None]
    if len(lengths) * longest <= 2 * n_tokens:
        positions = _padded_positions(lengths, query.device)
        query, key, value = (_padded(tensor, positions, (len(lengths), longest)) for tensor in (query, key, value))
        out = _causal(query, key, value, dropout, scaling, window)
        return out.transpose(0, 1).flatten(1, 2)[:, positions][None]
    parts = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    return torch.cat([_causal(q, k, v, dropout, scaling, window) for q, k, v in parts], dim=2)


def _stacked(tensor: torch.Tensor, n_segments: int) -> torch.Tensor:
    """[1, n_heads, n_segments * length, width] as [n_segments, n_heads, length, width], without a copy."""
    # squeezed: the backward pass of an index fills a tensor with zeros first
    return tensor.squeeze(0).unflatten(1, (n_segments, -1)).transpose(0, 1)


def _padded_positions(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Where each token of the packed row stands in the padded batch, int64 [n_tokens] of n_segments * longest."""
    longest = max(lengths)
    return torch.cat([torch.arange(n) + row * longest for row, n in enumerate(lengths)]).to(device)


def _padded(tensor: torch.Tensor, positions: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """[1, n_heads, n_tokens, width] as [n_segments, n_heads, longest, width], zeros after the end of each segment.

    shape: (n_segments, longest). Padding on the right needs no mask: no token of the segment sees what comes later.
    """
    n_heads, width = tensor.shape[1], tensor.shape[3]
    flat = tensor.new_zeros(n_heads, shape[0] * shape[1], width).index_copy(1, positions, tensor[0])
    return flat.unflatten(1, shape).transpose(0, 1)


def _causal(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Causal attention of a batch [n_rows, n_heads, n_tokens, width], each row by itself; the result is as large."""
    n_tokens, n_keys, dtype = query.shape[2], key.shape[2], query.dtype
    if n_keys != n_tokens:
        raise UnknownAttentionError("keys of an earlier forward pass have no place in training")
    halves = query.device.type == "cpu" and query.dtype != torch.float32 and n_tokens <= _SHORT
    if halves:
        query, key, value = query.float(), key.float(), value.float()
    mask = None
    if window is not None and window < n_tokens:
        # true where token i (row) sees token j (column): j <= i and i - j < window
        mask = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=query.device).tril().triu(1 - window)
    out = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return out.to(dtype) if halves else out

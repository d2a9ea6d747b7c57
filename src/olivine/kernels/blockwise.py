"""Weights in blocks: integer codes that share a scale and a zero point along the input dimension.

W[n, k] is stored as scales[n, g] * (codes[n, k] - zeros[n, g]) with g = k // group, for W [n_rows, n_columns]. Two ways
to choose scales and zero points: from each block's range (`rtn`), or by searching for the least error (`search`). Rows
do not depend on each other: tiles of them are quantized on all cores, in the compiled loops of `_blocks`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch

from olivine.allowance import n_cores
from olivine.models.blockwise import BITS, GROUPS, Blockwise, Format

__all__ = [
    "BITS",
    "GROUPS",
    "TILE",
    "Array",
    "Blockwise",
    "Format",
    "Method",
    "all_finite",
    "importance_of",
    "on_all_cores",
    "pack",
    "quantize",
    "quantize_rows",
    "refuse_format",
    "rtn",
    "search",
]
Method = Literal["rtn", "search"]
Array = np.ndarray[Any, Any]
# weights that are turned to float32 at once; small enough to stay in a core's cache with its codes
TILE = 1 << 18


def rtn(weight: torch.Tensor, fmt: Format) -> Blockwise:
    """Round to nearest within each block's range; the codes and scales are those of ONNX Runtime's own quantizer.

    weight: [n_rows, n_columns], any float type. Raises ValueError when the group does not divide n_columns, or a weight
    is NaN or infinite.
    """
    return quantize(weight, fmt, "rtn")


def search(
    weight: torch.Tensor, fmt: Format, importance: torch.Tensor | None = None, *, half_scales: bool = False
) -> Blockwise:
    """Scales and integer zero points with the least error, each input weighted by its importance.

    weight: [n_rows, n_columns]. importance: [n_columns], the mean square of each input (the diagonal of X'X /
    n_tokens); all alike when None, which is hardly better than `rtn`. The weights of an input that was never active
    still count a little (1e-4 of the mean).
    half_scales: scales are float16 numbers, so that they can be stored as such, and the codes the nearest for them.
    """
    return quantize(weight, fmt, "search", importance, half_scales=half_scales)


def quantize(
    weight: torch.Tensor,
    fmt: Format,
    method: Method,
    importance: torch.Tensor | None = None,
    *,
    half_scales: bool = False,
) -> Blockwise:
    """`rtn` or `search` by name, a tile of rows of the weight [n_rows, n_columns] at a time on each core."""
    _refuse_unusable(weight, fmt)
    n_rows, width = weight.shape
    codes = torch.empty((n_rows, width), dtype=torch.uint8)
    scales = torch.empty((n_rows, width // fmt.group), dtype=torch.float32)
    zeros = torch.empty((n_rows, width // fmt.group), dtype=torch.uint8)
    of_inputs = importance_of(importance, width) if method == "search" else None
    step = max(1, TILE // max(1, width))  # rows of a tile

    def work(start: int) -> None:
        tile = weight[start : start + step].detach().to("cpu", torch.float32).contiguous().numpy()
        rows = slice(start, start + step)
        written = (array[rows].numpy() for array in (codes, scales, zeros))  # views: the rows of the result
        quantize_rows(tile, fmt, of_inputs, *written, half_scales=half_scales)

    on_all_cores(work, range(0, n_rows, step))
    return Blockwise(fmt.bits, fmt.group, codes, scales, None if fmt.symmetric else zeros)


def quantize_rows(
    weight: Array,
    fmt: Format,
    importance: Array | None,
    codes: Array,
    scales: Array,
    zeros: Array,
    *,
    half_scales: bool = False,
) -> None:
    """Fill codes, scales and zeros of float32 rows [n_rows, n_columns] on this core; `rtn` when importance is None.

    importance: [n_columns], of `importance_of`. codes: uint8, as large as the weight; scales float32 and zeros uint8,
    [n_rows, n_columns / group]. half_scales: scales are rounded to float16 first, so that the
    codes are the nearest ones for what is stored.
    """
    from olivine.kernels import _blocks

    if importance is None:
        _blocks.round_to_nearest(weight, fmt.group, fmt.bits, fmt.symmetric, codes, scales, zeros)
    else:
        _blocks.search(weight, importance, fmt.group, fmt.bits, fmt.symmetric, codes, scales, zeros)
    if half_scales:
        scales[:] = scales.astype(np.float16)
        _blocks.round_codes(weight, fmt.group, fmt.bits, scales, zeros, codes)


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes [n_rows, n_columns] as bytes [n_rows, ceil(n_columns * bits / 8)]; of two 4-bit codes the first is low."""
    if bits == 8:
        return codes
    from olivine.kernels import _blocks

    packed = torch.empty((codes.shape[0], (codes.shape[1] + 1) // 2), dtype=torch.uint8)
    _blocks.pack_nibbles(codes.contiguous().numpy(), packed.numpy())
    return packed


def importance_of(importance: torch.Tensor | None, width: int) -> Array:
    """Importances as the kernels take them: float32 [width] with mean 1 and a floor of 1e-4, so that no input is free.

    All ones when None. Raises ValueError for another shape, and for values that are negative or not finite.
    """
    if importance is None:
        return np.ones(width, np.float32)
    if tuple(importance.shape) != (width,):
        raise ValueError(f"importance must be [{width}], but is {list(importance.shape)}")
    values = importance.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise ValueError("importances must be finite and not negative")
    mean = float(values.mean())
    scaled = values / mean if mean > 0 else torch.ones_like(values)  # the search sees ratios alone
    floored: Array = scaled.clamp(min=1e-4).to(torch.float32).numpy()
    return floored


def _refuse_unusable(weight: torch.Tensor, fmt: Format) -> None:
    if weight.ndim != 2:
        raise ValueError(f"a weight to quantize has two dimensions, but this one is {list(weight.shape)}")
    refuse_format(fmt, weight.shape[1])
    if not all_finite(weight):
        raise ValueError("the weight holds NaN or infinite values")


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether no element is NaN or infinite; a finite sum says so at a tenth of the cost of looking at each."""
    # a sum of finite numbers may overflow: only then each is looked at
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def refuse_format(fmt: Format, width: int) -> None:
    """Raise ValueError when a weight of `width` inputs cannot be stored so."""
    if fmt.bits not in BITS:
        raise ValueError(f"weights are stored in 4 or 8 bits, not {fmt.bits}")
    if fmt.group not in (*GROUPS, width):
        raise ValueError(f"the group size must be one of {', '.join(map(str, GROUPS))}, not {fmt.group}")
    if width % fmt.group:
        raise ValueError(f"the group size {fmt.group} does not divide the {width} inputs")


def on_all_cores(work: Callable[[int], None], starts: range, n_threads: int | None = None) -> None:
    """Do `work` for every start, on as many threads as there are cores, or `n_threads`.

    `work` releases the interpreter's lock while it computes, and writes where no other start does: the order does not
    matter. An error of any of them is raised.
    """
    if len(starts) < 2 or n_threads == 1:
        for start in starts:
            work(start)
        return
    with ThreadPoolExecutor(n_threads or n_cores()) as pool:
        list(pool.map(work, starts))

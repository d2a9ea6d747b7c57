"""Which type a processor computes fastest in; apart, so that planning needs no torch."""

from typing import TYPE_CHECKING

from olivine import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")


def cpu_computes_in_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself; where it does not, torch emulates, slower than float32."""
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in flags)

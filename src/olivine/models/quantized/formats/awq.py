"""AWQ checkpoints in the packing of AutoAWQ's GEMM kernel (Lin et al. 2023, arXiv:2306.00978)."""

from typing import TYPE_CHECKING, ClassVar

from olivine.errors import Unsupported
from olivine.models.quantized._base import FLOATS, CheckpointFormat, Packed, Parts
from olivine.models.quantized.words import unpack_words
from olivine.models.tensors import LazyTensor

if TYPE_CHECKING:
    import torch

# place of each of eight neighbouring outputs in its word
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
_BITS = 4


class Awq(CheckpointFormat):
    """Codes packed along the outputs, eight in a word in the order of the kernel.

    qweight int32 [K, N / 8]; qzeros int32 [K / group, N / 8]; scales [K / group, N].
    """

    method: ClassVar[str] = "awq"
    leaves: ClassVar[tuple[str, ...]] = (".qweight", ".qzeros", ".scales")
    key: ClassVar[str] = ".qweight"

    def refuse(self) -> None:
        """Other packings than GEMM's, and other widths than 4 bits."""
        version = str(self.config.get("version") or self.config.get("format") or "gemm").lower()
        if self.config.get("backend") == "llm-awq":
            version = "llm-awq"
        if version != "gemm":
            raise Unsupported(f"{self.folder} holds AWQ weights packed as '{version}'; 'gemm' is read")
        bits = self.whole("bits", self.config.get("bits", self.config.get("w_bit", _BITS)))
        if bits != _BITS:
            raise Unsupported(f"{self.folder} holds AWQ weights of {bits} bits; {_BITS} bits are read")

    def packed(self, module: str, parts: Parts) -> Packed:
        """The weight of a module."""
        words = self.words(module, parts)
        width, n_words = words.shape
        n_rows = n_words * 8
        group = self.whole("group_size", self.config.get("group_size", self.config.get("q_group_size", 128)))
        group = width if group == -1 else group
        n_groups = self.n_groups(module, width, group)
        scales = self.part(module, parts, ".scales", (n_groups, n_rows), FLOATS)
        symmetric = not self.config.get("zero_point", True)
        zeros = None
        if not symmetric or ".qzeros" in parts:
            zeros = self.part(module, parts, ".qzeros", (n_groups, n_words), ("int32",))
        return Packed(
            folder=self.folder,
            name=f"{module}.weight",
            shape=(n_rows, width),
            bits=_BITS,
            group=group,
            codes=lambda: _outputs_first(words),
            scales=lambda: scales.read().T,
            zero_points=None if zeros is None else lambda: _outputs_first(zeros),
            symmetric=symmetric,
            half_scales=scales.dtype == "float16",
        )


def _outputs_first(words: LazyTensor) -> "torch.Tensor":
    """Codes of packed words [inputs or groups, N / 8] as [N, inputs or groups]."""
    return unpack_words(words.read(), _BITS, _PLACES).T.contiguous()

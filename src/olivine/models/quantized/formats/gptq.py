"""GPTQ checkpoints, as AutoGPTQ and GPTQModel write them (Frantar et al. 2022, arXiv:2210.17323)."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from olivine import lazy
from olivine.errors import ModelError, Unsupported
from olivine.models.quantized._base import FLOATS, CheckpointFormat, Packed, Parts
from olivine.models.quantized.words import unpack_words
from olivine.models.tensors import LazyTensor
from olivine.patterns import compiles

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

# zero points minus one, and as they are
_FIRST, _SECOND = "gptq", "gptq_v2"
# added to a word of packed zero points, it adds one to each; a borrow between neighbours is undone the way it was made
_ONES = {4: 0x11111111, 8: 0x01010101}


class Gptq(CheckpointFormat):
    """Codes packed along the inputs.

    qweight int32 [K * bits / 32, N]; qzeros int32 [K / group, N * bits / 32], less one in version 1 of the format;
    scales [K / group, N]; g_idx int32 [K], the group of each input. `dynamic` holds patterns of module names whose
    bits or group size are others.
    """

    method: ClassVar[str] = "gptq"
    leaves: ClassVar[tuple[str, ...]] = (".qweight", ".qzeros", ".scales", ".g_idx")
    key: ClassVar[str] = ".qweight"

    def refuse(self) -> None:
        """Other packings than the two of GPTQ, and other widths than 4 and 8 bits."""
        if self._version not in (_FIRST, _SECOND):
            raise Unsupported(
                f"{self.folder} holds GPTQ weights packed as '{self._version}'; '{_FIRST}' and '{_SECOND}' are read"
            )
        for rules in (self.config, *self._dynamic.values()):
            if "bits" in rules or rules is self.config:
                self.refuse_bits(self.whole("bits", rules.get("bits")))

    @property
    def _version(self) -> str:
        return str(self.config.get("checkpoint_format") or self.config.get("format") or _FIRST).lower()

    @property
    def _dynamic(self) -> Mapping[str, Mapping[str, Any]]:
        dynamic = self.config.get("dynamic") or {}
        if not isinstance(dynamic, dict) or not all(isinstance(rules, dict) for rules in dynamic.values()):
            raise ModelError(
                f"{self.folder / 'config.json'}: 'dynamic' of the quantization must map patterns to objects"
            )
        return {pattern: rules for pattern, rules in dynamic.items() if not pattern.startswith("-:")}

    def _rules(self, module: str) -> Mapping[str, Any]:
        """The config with what `dynamic` says of a module: the first pattern that matches the start of its name."""
        for pattern, rules in self._dynamic.items():
            if not compiles(pattern.removeprefix("+:")):
                raise ModelError(
                    f"{self.folder / 'config.json'}: the pattern '{pattern}' of 'dynamic' is no regular expression"
                )
            if re.match(pattern.removeprefix("+:"), module):
                return {**self.config, **rules}
        return self.config

    def packed(self, module: str, parts: Parts) -> Packed:
        """The weight of a module."""
        rules = self._rules(module)
        bits = self.whole("bits", rules.get("bits"))
        words = self.words(module, parts)
        n_rows, width = words.shape[1], words.shape[0] * 32 // bits
        group = self.whole("group_size", rules.get("group_size", -1))
        group = width if group == -1 else group
        n_groups = self.n_groups(module, width, group)
        scales = self.part(module, parts, ".scales", (n_groups, n_rows), FLOATS)
        symmetric = bool(rules.get("sym", True))
        zeros = None
        if not symmetric or ".qzeros" in parts:
            zeros = self.part(module, parts, ".qzeros", (n_groups, -(-n_rows * bits // 32)), ("int32",))
        order = self.part(module, parts, ".g_idx", (width,), ("int32", "int64")) if ".g_idx" in parts else None
        return Packed(
            folder=self.folder,
            name=f"{module}.weight",
            shape=(n_rows, width),
            bits=bits,
            group=group,
            codes=lambda: unpack_words(words.read().T.contiguous(), bits),
            scales=lambda: scales.read().T,
            zero_points=None if zeros is None else lambda: self._zero_points(zeros, bits, n_rows),
            symmetric=symmetric,
            half_scales=scales.dtype == "float16",
            order=None if order is None else order.read,
        )

    def _zero_points(self, zeros: LazyTensor, bits: int, n_rows: int) -> "torch.Tensor":
        words = zeros.read()
        if self._version == _FIRST:
            words = words + _ONES[bits]
        return unpack_words(words, bits)[:, :n_rows].T.contiguous()

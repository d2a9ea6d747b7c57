"""Checkpoints of compressed-tensors in its format `pack-quantized`, as llm-compressor and olivine itself write them."""

import re
from collections.abc import Iterator, Mapping
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

METHOD, FORMAT = "compressed-tensors", "pack-quantized"
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in")


class CompressedTensors(CheckpointFormat):
    """Codes packed along the inputs, the first in the lowest bits.

    weight_packed int32 [N, K * bits / 32]; weight_scale [N, K / group], or [N, 1] of a whole row;
    weight_zero_point int32 [N * bits / 32, K / group], or int8 [N, K / group] around 0 in older files; weight_shape
    [2]. `config_groups` say which modules have which bits and group size: by name, by pattern, by class.
    """

    aliases: ClassVar[tuple[str, ...]] = (METHOD,)
    method: ClassVar[str] = METHOD
    leaves: ClassVar[tuple[str, ...]] = (
        ".weight_packed",
        ".weight_scale",
        ".weight_zero_point",
        ".weight_shape",
        ".weight_g_idx",
    )
    key: ClassVar[str] = ".weight_packed"

    def refuse(self) -> None:
        """What is not integers of 4 or 8 bits in groups or whole rows, and what changes the weights otherwise."""
        for group in self._groups():
            form = group.get("format") or self.config.get("format")
            if form != FORMAT:
                raise Unsupported(
                    f"{self.folder} holds weights that are already quantized ('{METHOD}' in the format '{form}'); "
                    f"'{FORMAT}' is read: start from the model in 16 or 32 bits"
                )
            self._refuse_weights(group.get("weights") or {})
        sparse = (self.config.get("sparsity_config") or {}).get("format") or "dense"
        if sparse != "dense":
            raise Unsupported(f"{self.folder} holds sparse weights ('{sparse}'), which are not read")
        if (self.config.get("transform_config") or {}).get("config_groups"):
            raise Unsupported(
                f"{self.folder} turns its activations while it runs (transform_config), which no export does"
            )

    def _refuse_weights(self, weights: Mapping[str, Any]) -> None:
        kind, strategy = weights.get("type", "int"), self._strategy(weights)
        if kind != "int" or strategy not in ("group", "channel"):
            raise Unsupported(
                f"{self.folder} holds weights of the type '{kind}' with a scale for each {strategy}; "
                "integers with a scale for each group or channel are read"
            )
        self.refuse_bits(self.whole("num_bits", weights.get("num_bits", 8)))

    @staticmethod
    def _strategy(weights: Mapping[str, Any]) -> str:
        size = weights.get("group_size")
        inferred = "tensor" if size is None else "channel" if size == -1 else "group"
        return str(weights.get("strategy") or inferred).lower()

    def _groups(self) -> list[Mapping[str, Any]]:
        sections = self.config.get("config_groups")
        groups = list(sections.values()) if isinstance(sections, dict) else []
        if not groups or not all(
            isinstance(group, dict) and isinstance(group.get("targets"), list) for group in groups
        ):
            raise ModelError(
                f"{self.folder / 'config.json'}: config_groups of the quantization must hold objects with 'targets'"
            )
        return groups

    def _weights_of(self, module: str) -> Mapping[str, Any]:
        """What the config says of a module's weight: a name goes before a pattern, and both before a class."""
        targets = {str(target): group for group in self._groups() for target in group["targets"]}
        for target in self._by_rank(targets, module):
            return targets[target].get("weights") or {}
        raise ModelError(f"{self.folder}: '{module}' is packed, but no config group of the quantization targets it")

    def _by_rank(self, targets: Mapping[str, Any], module: str) -> Iterator[str]:
        yield from (target for target in targets if target == module)
        for target in sorted(target for target in targets if target.startswith("re:")):
            if not compiles(target[3:]):
                raise ModelError(
                    f"{self.folder / 'config.json'}: the target '{target}' of the quantization is no regular expression"
                )
            if re.match(target[3:], module):
                yield target
        kind = "Embedding" if is_embedding(module) else "Linear"
        yield from (target for target in targets if target == kind)

    def packed(self, module: str, parts: Parts) -> Packed:
        """The weight of a module."""
        weights = self._weights_of(module)
        bits = self.whole("num_bits", weights.get("num_bits", 8))
        words, scales = self.words(module, parts), parts.get(".weight_scale")
        n_rows, n_words = words.shape
        width = n_words * 32 // bits
        group = width
        if self._strategy(weights) == "group":
            group = self.whole("group_size", weights.get("group_size"))
            if scales is not None and len(scales.shape) == 2 and -(-scales.shape[1] * group * bits // 32) == n_words:
                width = scales.shape[1] * group  # the last word need not be full
        n_groups = self.n_groups(module, width, group)
        stored_scales = self.part(module, parts, ".weight_scale", (n_rows, n_groups), FLOATS)
        symmetric = bool(weights.get("symmetric", True))
        zeros = None if symmetric else self._zeros(module, parts, bits, (n_rows, n_groups))
        shape = self.part(module, parts, ".weight_shape", (2,), ("int64", "int32"))
        order = (
            self.part(module, parts, ".weight_g_idx", (width,), ("int32", "int64"))
            if ".weight_g_idx" in parts
            else None
        )
        return Packed(
            folder=self.folder,
            name=f"{module}.weight",
            shape=(n_rows, width),
            bits=bits,
            group=group,
            codes=lambda: self._codes(words, shape, bits, (n_rows, width)),
            scales=stored_scales.read,
            zero_points=None if zeros is None else lambda: _zero_points(zeros, bits, n_rows),
            symmetric=symmetric,
            half_scales=stored_scales.dtype == "float16",
            order=None if order is None else order.read,
        )

    def _zeros(self, module: str, parts: Parts, bits: int, shape: tuple[int, int]) -> LazyTensor:
        zero_points = parts.get(".weight_zero_point")
        unpacked = zero_points is not None and zero_points.dtype == "int8"
        n_rows = shape[0] if unpacked else -(-shape[0] * bits // 32)
        return self.part(module, parts, ".weight_zero_point", (n_rows, shape[1]), ("int8" if unpacked else "int32",))

    def _codes(self, words: LazyTensor, shape: LazyTensor, bits: int, expected: tuple[int, int]) -> "torch.Tensor":
        said = tuple(shape.read().tolist())
        if said != expected:
            raise ModelError(
                f"{self.folder}: '{shape.name}' says {list(said)}, but the packed weight is {list(expected)}"
            )
        return unpack_words(words.read(), bits)[:, : expected[1]].contiguous()


def is_embedding(module: str) -> bool:
    """Whether a module's name is that of an input embedding, which a config's class "Linear" does not mean."""
    return module.rpartition(".")[2] in _EMBEDDINGS


def _zero_points(zeros: LazyTensor, bits: int, n_rows: int) -> "torch.Tensor":
    stored = zeros.read()
    if stored.dtype == torch.int8:
        return (stored.int() + (1 << (bits - 1))).to(torch.uint8)
    return unpack_words(stored.T.contiguous(), bits)[:, :n_rows].T.contiguous()

"""The contract of a quantized checkpoint's format: from its tensors, by name and shape, to one weight each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from olivine import lazy
from olivine.errors import ModelError, Unsupported
from olivine.models.blockwise import BITS, GROUPS, Blockwise, Format, StoredBlocks
from olivine.models.tensors import LazyTensor

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

Parts = Mapping[str, LazyTensor]


class CheckpointFormat:
    """One `quant_method`: the file's name is the registry's name for it.

    method: as config.json spells it. leaves: endings of the tensors that make up a packed weight. key: that one of
    them which every packed weight has. folder: for messages. config: the checkpoint's `quantization_config`.
    """

    name: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
    method: ClassVar[str] = ""
    leaves: ClassVar[tuple[str, ...]] = ()
    key: ClassVar[str] = ""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder, self.config = folder, config

    def refuse(self) -> None:
        """Raise Unsupported or ModelError when the config alone says that this checkpoint is not read."""
        raise NotImplementedError

    def packed(self, module: str, parts: Parts) -> "Packed":
        """The weight of a module, by the leaves of its tensors; ModelError when they do not fit together."""
        raise NotImplementedError

    def whole(self, key: str, value: Any) -> int:
        """A number of the config; ModelError when it is none."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise ModelError(
                f"{self.folder / 'config.json'}: {key} of the quantization must be a number, not {value!r}"
            )
        return value

    def refuse_bits(self, bits: int) -> None:
        """Raise Unsupported for widths other than 4 and 8 bits."""
        if bits not in BITS:
            raise Unsupported(
                f"{self.folder} holds weights of {bits} bits ('{self.method}'); 4 and 8 bits are read: "
                "start from the model in 16 or 32 bits"
            )

    def words(self, module: str, parts: Parts) -> LazyTensor:
        """The packed codes: int32 in two dimensions, or ModelError."""
        words = parts[self.key]
        if len(words.shape) != 2:
            raise ModelError(f"{self.folder}: '{module}{self.key}' is {list(words.shape)}; packed weights are matrices")
        return self.part(module, parts, self.key, words.shape, ("int32",))

    def part(self, module: str, parts: Parts, leaf: str, shape: Sequence[int], dtypes: Sequence[str]) -> LazyTensor:
        """A tensor that must be there, with that shape and one of those types; ModelError otherwise."""
        tensor = parts.get(leaf)
        if tensor is None:
            raise ModelError(
                f"{self.folder} lacks '{module}{leaf}', without which '{module}{self.key}' is not a weight"
            )
        if tensor.shape != tuple(shape):
            raise ModelError(
                f"{self.folder}: '{module}{leaf}' is {list(tensor.shape)}, but its weight asks for {list(shape)}"
            )
        if tensor.dtype not in dtypes:
            raise ModelError(f"{self.folder}: '{module}{leaf}' is {tensor.dtype}, but must be {' or '.join(dtypes)}")
        return tensor

    def n_groups(self, module: str, width: int, group: int) -> int:
        """Groups along the inputs; ModelError when the last one would be shorter."""
        if group < 1 or width % group:
            raise ModelError(f"{self.folder}: the group size {group} does not divide the {width} inputs of '{module}'")
        return width // group


FLOATS = ("float16", "bfloat16", "float32")


@dataclass(frozen=True)
class Packed:
    """One weight as a checkpoint stores it, each part computed when called.

    shape: [N, K]. group: of the inputs as stored; it divides K. codes: uint8 [N, K]. scales: [N, K / group].
    zero_points: uint8 [N, K / group], None for the middle. symmetric: the config says that they are the middle ones.
    order: the group of each input [K] where the checkpoint stores it. half_scales: scales are stored in float16.
    """

    folder: Path
    name: str
    shape: tuple[int, int]
    bits: int
    group: int
    codes: "Callable[[], torch.Tensor]"
    scales: "Callable[[], torch.Tensor]"
    zero_points: "Callable[[], torch.Tensor] | None"
    symmetric: bool
    order: "Callable[[], torch.Tensor] | None" = None
    half_scales: bool = False

    def lazy(self) -> LazyTensor:
        """As a tensor of the plain model, in float32: products of codes and 16-bit scales are exact there."""
        stored = StoredBlocks(self.blockwise, self.format, self.half_scales) if self._operator_group else None
        return LazyTensor(self.name, self.shape, "float32", self.read, blockwise=stored)

    def format(self) -> Format:
        """What `blockwise` gives; of the tensors, zero points alone are read."""
        return Format(self.bits, self._operator_group or self.group, self._zero_points() is None)

    @property
    def _operator_group(self) -> int | None:
        """The widest group that operators know and that lies within this weight's groups."""
        return max((group for group in GROUPS if self.group % group == 0), default=None)

    def blockwise(self) -> Blockwise:
        """Codes, scales and zero points as they are stored, a scale of a wide group standing once for each part of it.

        Raises Unsupported when groups are not runs of neighbouring inputs.
        """
        if self._order() is not None:
            raise Unsupported(
                f"{self.folder}: the groups of '{self.name}' follow the order of activations (g_idx), which no fast "
                "int4 operator reads; start from the model in 16 bits, or from one quantized with desc_act: false"
            )
        stored = self._stored()
        group = self._operator_group
        return stored if group in (None, self.group) else stored.split(group)

    def read(self) -> "torch.Tensor":
        """The weight [N, K], float32, whatever the order of its groups."""
        order = self._order()
        stored = self._stored()
        if order is None:
            return stored.dequantized()
        middle = float(1 << (self.bits - 1))
        zeros = middle if stored.zero_points is None else stored.zero_points.float()[:, order]
        return (stored.codes.float() - zeros) * stored.scales[:, order]

    def _stored(self) -> Blockwise:
        scales = self.scales().float().contiguous()
        return Blockwise(self.bits, self.group, self.codes(), scales, self._zero_points())

    def _zero_points(self) -> "torch.Tensor | None":
        zeros = None if self.zero_points is None else self.zero_points()
        if zeros is not None and self.symmetric and bool((zeros == 1 << (self.bits - 1)).all()):
            return None
        return zeros

    def _order(self) -> "torch.Tensor | None":
        """The group of each input, None when groups are runs of neighbours."""
        if self.order is None:
            return None
        group_of_input = self.order().long()
        n_groups = self.shape[1] // self.group
        if torch.equal(group_of_input, torch.arange(self.shape[1]) // self.group):
            return None
        if bool((group_of_input < 0).any()) or bool((group_of_input >= n_groups).any()):
            raise ModelError(f"{self.folder}: g_idx of '{self.name}' names a group that it does not have")
        return group_of_input

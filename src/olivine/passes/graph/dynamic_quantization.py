"""Quantize weights to integers, and activations as they come."""

from typing import ClassVar

from olivine.exporting.eight_bit_graph import Recipe
from olivine.passes.graph._int8 import Int8Params, Int8Pass


class DynamicQuantization(Int8Pass):
    """Quantize the weights of a graph to 8 bits, and what reaches them when it is computed.

    No rows are needed: the range of an activation is that of the batch at hand. The outputs are held against those
    before; where they are too far away, it is mended, what is cheapest to run first, and the price is told.
    """

    class Params(Int8Params):
        """Names are those of Olive's OnnxDynamicQuantization."""

    aliases: ClassVar[tuple[str, ...]] = ("OnnxDynamicQuantization",)
    params: Params

    def recipe(self) -> Recipe:
        """What the params ask for."""
        params = self.params
        return Recipe(
            "dynamic",
            weight_type=params.weight_type,
            per_channel=params.per_channel,
            reduce_range=params.reduce_range,
            op_types=params.op_types_to_quantize,
            included=params.nodes_to_quantize,
            excluded=params.nodes_to_exclude,
            options=params.extra_options,
        )

"""Quantize a graph to integers, statically or dynamically: the older pass of both."""

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from olivine.exporting.eight_bit_graph import Recipe
from olivine.passes.graph._int8 import Int8Pass
from olivine.passes.graph.static_quantization import StaticParams


class OnnxQuantization(Int8Pass):
    """Quantize the weights and activations of a graph to 8 bits, statically or dynamically.

    It is the pass that configs of 2023 and 2024 name; static_quantization and dynamic_quantization are its halves.
    """

    class Params(StaticParams):
        """Names are those of Olive's OnnxQuantization."""

        quant_mode: Literal["static", "dynamic"] = Field("static", description="ranges of rows, or as they come")

    aliases: ClassVar[tuple[str, ...]] = ("OnnxQuantization",)
    params: Params

    def recipe(self) -> Recipe:
        """What the params ask for."""
        return replace(self.params.recipe, mode=self.params.quant_mode)

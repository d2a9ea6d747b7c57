"""Quantize weights and activations to integers, with ranges that rows have shown."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from olivine.exporting.eight_bit_graph import Recipe, plain_type
from olivine.passes.graph._int8 import WEIGHT_TYPES, Int8Params, Int8Pass


class StaticParams(Int8Params):
    """Names are those of Olive's OnnxStaticQuantization."""

    quant_format: Literal["QDQ", "QOperator"] = Field(
        "QDQ", description="pairs of nodes that runtimes fuse, or operators"
    )
    activation_type: WEIGHT_TYPES = Field(
        "QInt8", description="of what is computed; where it is left out beside unsigned weights of 8 bits, theirs"
    )
    calibrate_method: Literal["MinMax", "Entropy", "Percentile", "Distribution"] = Field(
        "MinMax", description="how a range follows from what the rows have shown"
    )

    @model_validator(mode="before")
    @classmethod
    def _as_weights(cls, values: Any) -> Any:
        """Onnxruntime has no operators for signed activations beside unsigned weights, so no other type is meant."""
        if not isinstance(values, Mapping) or "activation_type" in values:
            return values
        weights = plain_type(values.get("weight_type", values.get("precision")))
        return {**values, "activation_type": weights} if weights == "QUInt8" else values

    @field_validator("activation_type", mode="before")
    @classmethod
    def _activation(cls, value: Any) -> Any:
        return plain_type(value)

    @property
    def recipe(self) -> Recipe:
        """What the params ask for."""
        return Recipe(
            "static",
            weight_type=self.weight_type,
            activation_type=self.activation_type,
            quant_format=self.quant_format,
            calibrate_method=self.calibrate_method,
            per_channel=self.per_channel,
            reduce_range=self.reduce_range,
            op_types=self.op_types_to_quantize,
            included=self.nodes_to_quantize,
            excluded=self.nodes_to_exclude,
            options=self.extra_options,
        )


class StaticQuantization(Int8Pass):
    """Quantize the weights and activations of a graph to 8 or 16 bits, with ranges that rows have shown.

    Mask constants near minus infinity, which leave a range no steps, are replaced first. The outputs are held against
    those before; where they are too far away, it is mended, what is cheapest to run first, and the price is told.
    """

    Params = StaticParams
    aliases: ClassVar[tuple[str, ...]] = ("OnnxStaticQuantization",)
    example: ClassVar[Mapping[str, Any]] = {"data_config": "rows"}
    params: StaticParams

    def recipe(self) -> Recipe:
        """What the params ask for."""
        return self.params.recipe

"""Quantize the weights and activations of a model to 8 bits with nncf, with ranges that rows have shown."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from olivine.errors import ModelError
from olivine.models import Model
from olivine.passes.openvino._nncf import cosine, dataset, open_graph, outputs, session_of, words
from olivine.passes.openvino._quantizing import QuantizingParams, QuantizingPass, counted
from olivine.work import Context

_SCHEMES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("with the scheme for transformers", {"model_type": "TRANSFORMER"}),
    ("with the scheme for transformers and asymmetric activations", {"model_type": "TRANSFORMER", "preset": "MIXED"}),
)


class OpenVINOQuantization(QuantizingPass):
    """Quantize the weights and activations of a model to 8 bits with nncf, with ranges that rows have shown.

    A model of OpenVINO stays one, and so does a graph of ONNX. The outputs are held against those before: where they
    are too far away, nncf's scheme for transformers is taken, and asymmetric activations with it, and that is told.
    """

    class Params(QuantizingParams):
        """Names are those of Olive's OpenVINOQuantization."""

        mend: bool = Field(True, description="change the scheme where the outputs are further away than min_cosine")

    aliases: ClassVar[tuple[str, ...]] = ("OpenVINOQuantization",)
    example: ClassVar[Mapping[str, Any]] = {"data_config": "rows", "model_type": "TRANSFORMER"}
    params: Params

    def run(self, model: Model, context: Context) -> Model:
        """Quantize as asked, compare, mend, and write the first that holds."""
        import nncf

        rows = self.rows(model, context)
        before = open_graph(model)
        expected = outputs(before, rows)
        tried: list[tuple[str, float]] = []
        for name, changes in self._ways():
            with words("nncf does not quantize the model"):
                data = dataset(rows, before.input_names)
                result = nncf.quantize(self.opened(model), data, **self.arguments(nncf, changes), **self.advanced(nncf))
                after = session_of(result, context.scratch / f"way-{len(tried)}")
            tried.append((name, cosine(outputs(after, rows), expected)))
            if tried[-1][1] >= self.params.min_cosine:
                return self._told(model, result, tried, context)
        told = "; ".join(f"{name}: {found:.4g}" for name, found in tried)
        raise ModelError(
            f"quantized, the outputs are too far from those before (cosine {told}), and min_cosine asks for "
            f"{self.params.min_cosine}: leave more out (ignored_scope), name rows of your own (data_config), round the "
            "weights alone (OpenVINOWeightCompression), or lower it"
        )

    def _ways(self) -> list[tuple[str, Mapping[str, Any]]]:
        """As asked, then the schemes that are others."""
        asked = {"model_type": self.params.model_type, "preset": self.params.preset}
        others = [(name, way) for name, way in _SCHEMES if any(asked[key] != value for key, value in way.items())]
        return [("as asked", {}), *(others if self.params.mend else [])]

    def _told(self, model: Model, result: Any, tried: list[tuple[str, float]], context: Context) -> Model:
        counts = counted(result)
        name, found = tried[-1]
        context.report.record(
            ways=[{"way": one, "cosine": round(number, 5)} for one, number in tried],
            quantized=counts,
            summary=f"{counts['quantizers']} quantizers, {name}, cosine {found:.4g} to before",
        )
        if not counts["quantizers"]:
            context.report.warn(
                "nothing could be quantized: the model has no layers that nncf knows, or all are ignored"
            )
        if len(tried) > 1:
            steps = "; then ".join(f"{one}: cosine {number:.3f}" for one, number in tried)
            context.report.warn(f"as asked, the outputs were too far from those before, so it was mended: {steps}")
        return self.written(model, result, context)

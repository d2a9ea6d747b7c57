"""Passes that store weights in fewer bits.

One file a pass. What the quantizers of Hugging Face checkpoints share stands once: their params and what these ask for
(`_params`), the format of each weight (`_formats`), calibration that survives a kill (`_calibration`), and the
checkpoint that they write (`_checkpoint`).
"""

from typing import TYPE_CHECKING

from olivine import lazy

if TYPE_CHECKING:
    from olivine.passes.quantize._calibration import importances, tokens
    from olivine.passes.quantize._checkpoint import quantized
    from olivine.passes.quantize._formats import formats
    from olivine.passes.quantize._params import CalibratedParams, QuantizerParams

__all__ = ["CalibratedParams", "QuantizerParams", "formats", "importances", "quantized", "tokens"]

__getattr__ = lazy.names(
    __name__,
    {
        "_calibration": "importances tokens",
        "_checkpoint": "quantized",
        "_formats": "formats",
        "_params": "CalibratedParams QuantizerParams",
    },
)

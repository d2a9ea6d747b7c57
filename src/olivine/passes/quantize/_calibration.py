"""Calibration tokens and importances, kept in the scratch folder: a run that was killed goes on with the same ones."""

from typing import TYPE_CHECKING

from olivine.calibration.sizes import in_words
from olivine.calibration.tokens import TooFewTokens
from olivine.config.schema import DataConfig
from olivine.models.kept import keep, kept
from olivine.models.opened import Opened
from olivine.passes.quantize._params import CalibratedParams
from olivine.work import Context

if TYPE_CHECKING:
    import torch


def tokens(opened: Opened, params: CalibratedParams, context: Context) -> "torch.Tensor":
    """The calibration tokens, int64 [n_rows, length], from the data, the text or the model that the params name."""
    file = context.scratch / "tokens.safetensors"
    earlier = kept(file)
    if "tokens" in earlier:
        return earlier["tokens"]
    drawn = _draw(opened, params, context, context.data.get(params.data_config or ""))
    keep(file, {"tokens": drawn})
    return drawn


def _draw(opened: Opened, params: CalibratedParams, context: Context, data: DataConfig | None) -> "torch.Tensor":
    from olivine.runtimes.own_text import calibration_tokens

    try:
        drawn = calibration_tokens(
            opened.model,
            opened=opened,
            data=data,
            text=params.calibration_text,
            held_out=params.calibration_held_out if data is not None else None,
            n_tokens=params.calibration_tokens,
            seed=params.calibration_seed,
            device=context.machine.device,
            report=context.report,
        )
    except TooFewTokens as error:
        if data is None or not params.calibration_may_be_short:
            raise
        context.report.warn(f"calibrated with {in_words(params.calibration_text)}: {error.counted}")
        return _draw(opened, params, context, None)
    source = f"data config '{data.name}'" if data else in_words(params.calibration_text)
    context.report.record(calibration={"tokens": drawn.numel(), "source": source})
    return drawn


def importances(opened: Opened, tokens: "torch.Tensor", context: Context) -> "dict[str, torch.Tensor]":
    """The importance of every linear layer's inputs, float32 [n_inputs], by the weight's name."""
    from olivine.calibration.importances import importances as measure

    file = context.scratch / "importances.safetensors"
    by_weight = kept(file)
    if not by_weight:
        device, report = context.machine.device, context.report
        by_weight = measure(opened.model, tokens, device=device, report=report, source=opened.weights)
        keep(file, by_weight)
    return by_weight

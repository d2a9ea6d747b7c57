"""How much each input of a weight matters: the mean square of what reaches it, the diagonal of X'X / n_tokens."""

from typing import TYPE_CHECKING

from olivine import lazy
from olivine.calibration.decoder import HEAD
from olivine.calibration.layer_stream import LayerStream
from olivine.calibration.statistics import Kind
from olivine.models import Model
from olivine.models.tensors import Weights
from olivine.work import Reporter

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")


def importances(
    model: Model,
    tokens: "torch.Tensor",
    *,
    device: str = "cpu",
    report: Reporter | None = None,
    source: Weights | None = None,
    dtype: str | None = None,
    head: Kind = "diagonal",
    batch_tokens: int | None = None,
) -> dict[str, "torch.Tensor"]:
    """The importance of each input of each linear layer, float32 [n_inputs] on the CPU.

    Keyed by the weight's name in the checkpoint, with "lm_head.weight" for the head, tied or not. tokens: int64
    [n_rows, length] of full rows, without padding. head: "full" gives the head's X'X / n_tokens, [n_inputs, n_inputs].
    source, dtype and batch_tokens: as of LayerStream.
    """
    stream = LayerStream(
        model, tokens, device=device, report=report, source=source, dtype=dtype, batch_tokens=batch_tokens
    )
    by_weight: dict[str, torch.Tensor] = {}
    for layer in stream:
        for statistic in layer.run("diagonal"):
            by_weight |= dict.fromkeys(statistic.names, statistic.values.cpu())
    by_weight[HEAD] = stream.head(head).values.cpu()
    return by_weight


def token_counts(tokens: "torch.Tensor", vocab_size: int) -> "torch.Tensor":
    """How often each token occurs, float32 [vocab_size]: the importance of the embedding's rows."""
    return torch.bincount(tokens.flatten().cpu(), minlength=vocab_size).float()

"""The most accurate codes of a whole model, head included: GPTQ, then codes and scales mended in turn.

Layer by layer as in `gptq_layers`: each sees what the quantized layers before it give. A head that is the embedding is
quantized first, for both that it is: as a head with the Hessian H of what the decoder gives, as an embedding with an
error of its own, whose weight beside H follows from squared gradients (`calibration.sensitivity`):

    1/2 sum_n G[n] (d[n] H d[n]') + 1/2 mean_n sum_k E[k] d[n, k]^2      nats a token, for errors d [n_words, width]
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from olivine import lazy
from olivine.calibration.decoder import HEAD, linear_weights
from olivine.calibration.gptq_layers import Quantized, Sweep, gptq_layers, quantized_matrix
from olivine.calibration.layer_stream import LayerStream
from olivine.calibration.sensitivity import sensitivity
from olivine.models import Model
from olivine.models.tensors import LazyTensor, Weights
from olivine.work import Reporter

if TYPE_CHECKING:
    import torch

    from olivine.kernels.blockwise import Format
else:
    torch = lazy.module("torch")

SWEEP = Sweep(n_refinements=2)


def refined(
    model: Model,
    tokens: "torch.Tensor",
    fmt: "Format",
    folder: Path,
    *,
    head: bool = True,
    device: str = "cpu",
    report: Reporter | None = None,
    source: Weights,
) -> Quantized:
    """Codes of every linear layer and, with `head`, of the head under "lm_head.weight"; read again from `folder`.

    tokens: int64 [n_rows, length]. source: the weights to quantize. A run that was killed goes on from its last layer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    formats = dict.fromkeys(linear_weights(model, head=head), fmt)
    first: Quantized = {}
    if head and HEAD not in source:
        del formats[HEAD]
        first = _tied(model, tokens, fmt, folder, device=device, source=source)
        source = {**source, **_embedding(source, first)}
    stream = LayerStream(model, tokens, device=device, report=report, source=source)
    return {**gptq_layers(stream, formats, SWEEP, folder), **first}


def _tied(
    model: Model, tokens: "torch.Tensor", fmt: "Format", folder: Path, *, device: str, source: Weights
) -> Quantized:
    """The head that is the embedding, for the mean of its words: all rows share one Hessian."""
    stream = LayerStream(model, tokens, device=device, source=source)

    def hessian() -> "torch.Tensor":
        known = sensitivity(model, tokens, folder, device=device, source=source)
        for _ in stream:
            pass
        of_head = stream.head("full").values
        outputs = known.outputs[HEAD]
        of_embedding = known.embedding / len(outputs) / outputs.mean().clamp(min=1e-30)
        return of_head + torch.diag(of_embedding.to(of_head.device))

    return quantized_matrix(HEAD, source[stream.embedding_name], hessian, fmt, SWEEP, folder, device)


def _embedding(source: Weights, first: Quantized) -> Mapping[str, LazyTensor]:
    """The embedding as its codes have it, some rows at a time."""
    name = next(name for name in source if name.endswith("embed_tokens.weight"))
    blocks, stored = first[HEAD](), source[name]

    def rows(start: int, stop: int) -> "torch.Tensor":
        return blocks.rows(start, stop).dequantized()

    return {name: LazyTensor(name, stored.shape, "float32", partial(rows, 0, stored.shape[0]), rows)}

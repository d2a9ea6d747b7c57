"""The most accurate codes of a whole model, head included: bits and groups chosen, GPTQ, codes and scales mended.

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
from olivine.calibration.forms import chosen_formats, shares
from olivine.calibration.gptq_layers import Quantized, Sweep, gptq_layers, quantized_matrix
from olivine.calibration.layer_stream import LayerStream
from olivine.calibration.sensitivity import Sensitivity, sensitivity
from olivine.errors import Unsupported
from olivine.models import Model
from olivine.models.kept import keep, kept
from olivine.models.tensors import LazyTensor, Weights
from olivine.work import Reporter

if TYPE_CHECKING:
    import torch

    from olivine.kernels.blockwise import Format
else:
    torch = lazy.module("torch")

# Ten times GPTQ's usual damping: on text that was not calibrated on, mended codes then have a tenth less error than
# GPTQ's, and half of that gain with the usual (docs/decisions/0022).
SWEEP = Sweep(damping=0.1, n_refinements=2, led_back=0.5)


def refined(
    model: Model,
    tokens: "torch.Tensor",
    folder: Path,
    *,
    bits: float,
    symmetric: bool,
    head: bool = True,
    device: str = "cpu",
    report: Reporter | None = None,
    source: Weights,
) -> Quantized:
    """Codes of every linear layer and, with `head`, of the head under "lm_head.weight"; read again from `folder`.

    tokens: int64 [n_rows, length]. bits: a weight, scales and zero points included, that they have on the whole.
    source: the weights to quantize. A run that was killed goes on from its last
    layer. Raises Unsupported where no forms have so few bits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = _known(model, tokens, folder, device, source)
    names = [*linear_weights(model, head=head)]
    try:
        formats = chosen_formats(names, source, known, bits, symmetric=symmetric)
    except ValueError as error:
        raise Unsupported(f"mixed_bits {bits:g} cannot be met: {error}") from error
    if report is not None:
        report.record(mixed={"shares": shares(formats, source)})
    beside = LayerStream(model, tokens, device=device, source=source)
    first: Quantized = {}
    if head and HEAD not in source:
        first = _tied(model, tokens, formats.pop(HEAD), known, folder, device=device, source=source)
        source = {**source, **_embedding(source, first)}
    stream = LayerStream(model, tokens, device=device, report=report, source=source)
    return {**gptq_layers(stream, formats, SWEEP, folder, beside), **first}


def _known(model: Model, tokens: "torch.Tensor", folder: Path, device: str, source: Weights) -> Sensitivity:
    """The sensitivity, kept for a run that goes on."""
    file = folder / "sensitivity.safetensors"
    tensors = kept(file)
    if not tensors:
        known = sensitivity(model, tokens, folder, device=device, source=source)
        tensors = {f"outputs|{name}": values for name, values in known.outputs.items()}
        tensors |= {f"inputs|{name}": values for name, values in known.inputs.items()}
        tensors["embedding"] = known.embedding
        keep(file, tensors)
    parts: dict[str, dict[str, torch.Tensor]] = {"outputs": {}, "inputs": {}, "embedding": {}}
    for key, values in tensors.items():
        part, _, name = key.partition("|")
        parts[part][name] = values
    return Sensitivity(parts["outputs"], parts["inputs"], parts["embedding"][""])


def _tied(
    model: Model,
    tokens: "torch.Tensor",
    fmt: "Format",
    known: Sensitivity,
    folder: Path,
    *,
    device: str,
    source: Weights,
) -> Quantized:
    """The head that is the embedding, for the mean of its words: all rows share one Hessian."""
    stream = LayerStream(model, tokens, device=device, source=source)

    def hessian() -> "torch.Tensor":
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

"""How much the model's distribution changes with each output of each linear layer: squared gradients, layer by layer.

For a small change d of the outputs y of a layer, the divergence of the changed model from the model is d'F d / 2, with
F the Fisher information of y: the mean of g g' for the gradient g of log p(token) by y, over tokens drawn from the
model itself (Martens 2014, arXiv:1412.1193). Rounding errors of different weights hardly depend on each other, so that
the diagonal of F is enough: with G[n] the mean of g[n]^2 and A[k] that of x[k]^2,

    KL(model, model with W + dW)  ~  1/2 sum_nk dW[n, k]^2 G[n] A[k]    nats a token

Other scores of a tensor's damage (the share of its output that becomes noise) say nothing of what follows it.
The backward pass goes through the layers in reverse, each read again and run again on its kept inputs: one layer is in
memory, as in the forward pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.calibration.decoder import HEAD
from olivine.calibration.layer_stream import Layer, LayerStream
from olivine.models import Model
from olivine.models.kept import keep, kept
from olivine.models.tensors import LazyTensor, Weights
from olivine.work import Reporter

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

N_TOKENS = 2048  # the diagonal is a mean over tokens and, of a tensor, over its outputs: a few say it well
WORDS = 8192  # rows of the head that are multiplied at once


@dataclass(frozen=True)
class Sensitivity:
    """The diagonal of the Fisher information, per token.

    outputs: G float32 [n_rows] of each linear layer by its weight's name, the head's under "lm_head.weight". inputs: A
    float32 [n_inputs] alike, the mean squares of what each reads.
    embedding: float32 [hidden_size], of a word's row as it is stored.
    """

    outputs: "dict[str, torch.Tensor]"
    inputs: "dict[str, torch.Tensor]"
    embedding: "torch.Tensor"


def sensitivity(
    model: Model,
    tokens: "torch.Tensor",
    folder: Path,
    *,
    device: str = "cpu",
    report: Reporter | None = None,
    source: Weights | None = None,
    seed: int = 0,
    drawn: "torch.Tensor | None" = None,
) -> Sensitivity:
    """Of the model whose weights `source` are, on the first tokens of int64 [n_rows, length].

    folder: where what reaches each layer lies until the backward pass comes to it. seed: of the drawn tokens. drawn:
    the tokens whose likelihood is differentiated at each place of `tokens`; None to draw them from the model.
    """
    n_rows = max(1, N_TOKENS // tokens.shape[1])
    stream = LayerStream(model, tokens[:n_rows], device=device, source=source)
    files: list[Path] = []
    inputs: dict[str, torch.Tensor] = {}
    for layer in stream:
        for statistic in layer.run("diagonal"):
            inputs |= dict.fromkeys(statistic.names, statistic.values.cpu())
        files.append(folder / f"{layer.name}.inputs.safetensors")
        keep(files[-1], {str(batch): hidden for batch, hidden in enumerate(layer.inputs)})
    inputs[HEAD] = stream.head().values.cpu()
    chance = torch.Generator(device).manual_seed(seed)
    outputs, gradients = _of_head(stream, chance, None if drawn is None else drawn[:n_rows].flatten())
    for index, file in reversed(list(enumerate(files))):
        reached = kept(file)
        layer = stream.layer(index, [reached[str(batch)] for batch in range(len(reached))])
        of_layer, gradients = _of_layer(layer, gradients)
        outputs |= {name: total / stream.n_tokens for name, total in of_layer.items()}
        stream.release(index)
        file.unlink()
        if report is not None:
            report.progress(len(files) - index, len(files))
    return Sensitivity(outputs, inputs, _mean_square(gradients, stream.n_tokens) * stream.embedding_scale**2)


def _mean_square(gradients: "list[torch.Tensor]", n_tokens: int) -> "torch.Tensor":
    """Of each channel, [hidden_size], over the tokens of all batches."""
    squares = [gradient.float().square().sum(dim=(0, 1)) for gradient in gradients]
    return torch.stack(squares).sum(dim=0).cpu() / n_tokens


def _of_layer(layer: Layer, gradients: "list[torch.Tensor]") -> "tuple[dict[str, torch.Tensor], list[torch.Tensor]]":
    """Sums of squared gradients by the layer's linear outputs, and the gradients by what reaches the layer."""
    totals: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Any:
        def add(gradient: "torch.Tensor") -> None:
            squares = gradient.float().square().flatten(0, -2).sum(dim=0).cpu()
            totals[name] = totals[name] + squares if name in totals else squares

        def after(_: Any, __: Any, output: "torch.Tensor") -> None:
            output.register_hook(add)

        return after

    linears = [(n, m) for n, m in layer.module.named_modules() if isinstance(m, torch.nn.Linear)]
    handles = [module.register_forward_hook(watch(f"{layer.name}.{name}.weight")) for name, module in linears]
    before = []
    for batch, gradient in enumerate(gradients):
        hidden = layer.inputs[batch].requires_grad_()
        with torch.enable_grad():
            layer.forward(batch).backward(gradient)
        before.append(hidden.grad)
        layer.inputs[batch] = hidden.detach()
    for handle in handles:
        handle.remove()
    return totals, before


def _of_head(
    stream: LayerStream, chance: "torch.Generator", drawn: "torch.Tensor | None"
) -> "tuple[dict[str, torch.Tensor], list[torch.Tensor]]":
    """The head's own G, p (1 - p) at its mean, and the gradients by what the last layer gives, a tensor a batch."""
    head = _Head(stream)
    total, gradients, first = torch.zeros(head.weight.shape[0]), [], 0
    for hidden, output in stream.tail():
        rows = output.detach().flatten(0, -2).float()
        words = drawn[first : first + len(rows)].to(rows.device) if drawn is not None else None
        first += len(rows)
        of_head, gradient = head.gradient(rows, chance, words)
        total += of_head
        with torch.enable_grad():
            output.backward(gradient.view(output.shape).to(output.dtype))
        gradients.append(hidden.grad)
    return {HEAD: total / stream.n_tokens}, gradients


class _Head:
    """Logits of some words at a time: softcap(W x / divisor), as the configs of Gemma 2 and Granite have it."""

    def __init__(self, stream: LayerStream) -> None:
        self.weight: LazyTensor = stream.source[HEAD if HEAD in stream.source else stream.embedding_name]
        self._device = stream.device
        self._divisor = float(getattr(stream.config, "logits_scaling", None) or 1.0)
        self._cap = float(getattr(stream.config, "final_logit_softcapping", None) or 0.0)

    def gradient(
        self, rows: "torch.Tensor", chance: "torch.Generator", words: "torch.Tensor | None"
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Sums of the squared gradient by each logit, [n_words], and the gradient by the rows [n_rows, width].

        words: whose likelihood is differentiated, one a row; None draws them: the largest of the logits plus Gumbel
        noise, so that no more than some words' logits are in memory.
        """
        total = torch.full((len(rows),), -torch.inf, device=rows.device)
        best, drawn = total.clone(), torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        for first, _, logits, _ in self._parts(rows):
            total = torch.logaddexp(total, logits.logsumexp(dim=1))
            noise = torch.empty_like(logits).exponential_(generator=chance).log_().neg_()
            values, numbers = (logits + noise).max(dim=1)
            drawn = torch.where(values > best, numbers + first, drawn)
            best = torch.maximum(best, values)
        drawn = drawn if words is None else words
        squares, gradient = [], torch.zeros_like(rows)
        for first, weight, logits, slope in self._parts(rows):
            likelihood = (logits - total[:, None]).exp()
            squares.append((likelihood * (1 - likelihood) * slope.square()).sum(dim=0).cpu())
            inside = (drawn >= first) & (drawn < first + len(weight))
            likelihood[inside, drawn[inside] - first] -= 1
            gradient.addmm_(likelihood * slope, weight)
        return torch.cat(squares), gradient

    def _parts(self, rows: "torch.Tensor") -> "Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]":
        """The first word of a part, its weights, its logits [n_rows, n_words], and their slope by W x."""
        for first in range(0, self.weight.shape[0], WORDS):
            part = self.weight.rows(first, min(first + WORDS, self.weight.shape[0])).to(self._device, torch.float32)
            logits = rows @ part.T / self._divisor
            slope = torch.full_like(logits, 1 / self._divisor)
            if self._cap:
                logits = torch.tanh(logits / self._cap)
                slope *= 1 - logits.square()
                logits = logits * self._cap
            yield first, part, logits, slope

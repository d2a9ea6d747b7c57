"""A forward pass over the calibration tokens, one decoder layer in memory at a time; it tells what reaches each.

The modules are transformers' own. The model is built empty; its embedding is filled, then layer after layer, each with
what its predecessor gave for all tokens. The peak is one layer and the activations, whatever the size of the model.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.calibration.decoder import HEAD, decoder_layers, is_norm, skeleton
from olivine.calibration.sizes import BATCH_TOKENS, BF16_FROM
from olivine.calibration.statistics import Collector, Kind, Statistic, Total
from olivine.errors import ModelError
from olivine.kernels.precision import cpu_computes_in_bf16
from olivine.memory import give_back
from olivine.models import Model
from olivine.models.finite import NotFiniteError
from olivine.models.loading import assign, fill_buffers
from olivine.models.tensors import Weights
from olivine.models.weights import weights
from olivine.work import Reporter

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

# Rows of the embedding that are read at once.
ROWS = 4096


class LayerStream:
    """A model that runs decoder layer by decoder layer over tokens, int64 [n_rows, length].

    Iterating gives each layer with its weights filled in; `Layer.run` runs it, and what it gave last is the input of
    the next one. A layer that was not run by then is run as it is. Afterwards `final` and `head` say what left the
    decoder.

    source: the weights to use instead of the model's own (a folded or quantized mapping). dtype: of weights and
    activations; None for bfloat16 on a GPU and for large models on processors that multiply it, else float32.
    batch_tokens: tokens in one forward pass; None for what suits the device. It changes sums by rounding alone.
    Raises ModelError that names the layer when activations are not finite, and Unsupported for a model whose decoder
    layers are not a list.
    """

    def __init__(
        self,
        model: Model,
        tokens: "torch.Tensor",
        *,
        device: str = "cpu",
        dtype: str | None = None,
        source: Weights | None = None,
        report: Reporter | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self._path, self.device, self._report = model.path, device, report
        self.source = weights(model) if source is None else source
        self._module = skeleton(model, dtype or _dtype(self.source, device))
        self._decoder, self.layers, self.prefix = decoder_layers(self._module)
        n_rows = max(1, (batch_tokens or BATCH_TOKENS[device.partition(":")[0]]) // tokens.shape[1])
        self._batches: list[torch.Tensor] = list(tokens.split(n_rows))
        self.n_tokens = tokens.numel()
        self.embedding_name = f"{self.prefix.removesuffix('layers')}embed_tokens.weight"
        self.embedding_scale = 1.0  # what a word's row is multiplied by, known once the stream is iterated

    def __iter__(self) -> Iterator["Layer"]:
        with torch.no_grad():
            inputs, self._calls = self._embedded()
        for index in range(len(self.layers)):
            layer = self.layer(index, inputs)
            yield layer
            inputs = layer.outputs()
            self.release(index)
            if self._report is not None:
                self._report.progress(index + 1, len(self.layers))
        self._final = inputs

    def layer(self, index: int, inputs: "list[torch.Tensor]") -> "Layer":
        """A layer with its weights, on its inputs; once the stream has been iterated, any of them in any order."""
        name = f"{self.prefix}.{index}"
        self._fill(self.layers[index], f"{name}.")
        return Layer(name, self.layers[index], inputs, [of_batch[index] for of_batch in self._calls])

    def release(self, index: int) -> None:
        """Let the weights of a layer go, and what was freed beside them."""
        self.layers[index].to("meta")
        give_back()

    def tail(self) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        """What the last layer gave and what the decoder makes of it, batch by batch, to be differentiated."""
        self._fill_tail()
        for inputs in self._final:
            hidden = inputs.clone().requires_grad_()
            with torch.enable_grad(), _replaced(self.layers, _giving(hidden)):
                output = self._decoder(inputs_embeds=hidden, use_cache=False).last_hidden_state
            yield hidden, output

    @property
    def config(self) -> Any:
        """What transformers made the model of."""
        return self._module.config

    def final(self) -> Iterator["torch.Tensor"]:
        """What the decoder gives the head, batch by batch: [n_rows, length, n_inputs]; only after all layers were run.

        The decoder's own forward computes it, with layers that give what the last one gave: norms and scalings after
        the layers differ from model to model.
        """
        from olivine.kernels.blockwise import all_finite

        self._fill_tail()
        for hidden in self._final:
            with torch.inference_mode(), _replaced(self.layers, _giving(hidden)):
                output = self._decoder(inputs_embeds=hidden, use_cache=False).last_hidden_state
            if not all_finite(output):
                raise NotFiniteError("what the decoder gives is not finite: its last norm is damaged, or overflows")
            yield output

    def _fill_tail(self) -> None:
        """Read what comes after the layers."""
        for name, child in self._decoder.named_children():
            if name not in ("layers", "embed_tokens"):
                self._fill(child, f"{self.prefix.removesuffix('layers')}{name}.")
        fill_buffers(self._decoder, self.device)

    def head(self, kind: Kind = "diagonal", beside: "LayerStream | None" = None) -> Statistic:
        """The statistic of the head's input; only after all layers were run. beside: the model as it was, run too."""
        total = Total((HEAD,), kind)
        others = repeat(None) if beside is None else beside.final()
        for hidden, other in zip(self.final(), others, strict=False):
            total.add(hidden, other)
        return total.statistic()

    def _embedded(self) -> tuple[list["torch.Tensor"], list[list["_Call"]]]:
        """The input of the first layer for every batch, and how the model calls each layer for it."""
        embedding = self._module.get_input_embeddings()
        empty = embedding.weight.detach()
        numbers = self._fill_rows(embedding, self.embedding_name)
        fill_buffers(self._decoder, self.device)
        inputs: list[torch.Tensor] = []
        calls: list[list[_Call]] = []
        for batch in self._batches:
            recorded: list[_Call] = []

            def keep(hidden: "torch.Tensor", args: Any, kwargs: Any, into: list["_Call"] = recorded) -> "torch.Tensor":
                if not into:
                    inputs.append(hidden)
                into.append(_Call(args, kwargs))
                return hidden

            with _replaced(self.layers, keep), _identity(self._decoder):
                self._decoder(input_ids=numbers[batch].to(self.device), use_cache=False)
            # masks and positions depend on the shape alone: batches of one shape share them
            same = next((i for i, other in enumerate(self._batches) if other.shape == batch.shape), len(calls))
            calls.append(calls[same] if same < len(calls) else recorded)
        raw = embedding.weight[numbers[self._batches[0]].to(self.device)]
        self.embedding_scale = float(inputs[0].float().norm() / raw.float().norm().clamp(min=1e-30))
        assign(embedding, "weight", empty)
        return inputs, calls

    def _fill_rows(self, embedding: Any, name: str) -> "torch.Tensor":
        """Read the rows of those words alone that occur: a vocabulary may be larger than any layer.

        Gives the number of each word among the rows that were read, int64 [n_words].
        """
        self._check(name, embedding.weight.shape)
        words = torch.cat([batch.flatten() for batch in self._batches]).unique()
        if int(words[-1]) >= embedding.weight.shape[0]:
            raise ModelError(
                f"the tokenizer of {self._path} has the token {int(words[-1])}, and the model no such word"
            )
        rows = torch.empty((len(words), embedding.weight.shape[1]), dtype=embedding.weight.dtype)
        tensor = self.source[name]
        for first in range(0, tensor.shape[0], ROWS):
            inside = (words >= first) & (words < first + ROWS)
            if bool(inside.any()):
                part = tensor.rows(first, min(first + ROWS, tensor.shape[0]))
                rows[inside] = part[words[inside] - first].to(rows.dtype)
        embedding.padding_idx = None  # a number among all words
        assign(embedding, "weight", rows.to(self.device))
        numbers = torch.zeros(tensor.shape[0], dtype=torch.int64)
        numbers[words] = torch.arange(len(words))
        return numbers

    def _fill(self, module: Any, prefix: str) -> None:
        """Read the weights of a module whose names begin with `prefix`; each must be there, in its shape."""
        expected = module.state_dict()
        missing = [prefix + name for name in expected if prefix + name not in self.source]
        if missing:
            raise ModelError(f"{self._path} lacks the weights {', '.join(missing[:5])}{' ...' * (len(missing) > 5)}")
        for name, empty in expected.items():
            self._check(prefix + name, empty.shape)
            tensor = self.source[prefix + name].read()
            assign(module, name, tensor.to(device=self.device, dtype=empty.dtype))

    def _check(self, name: str, shape: Any) -> None:
        """Raise ModelError unless the weight is there, in its shape."""
        if name not in self.source:
            raise ModelError(f"{self._path} lacks the weights {name}")
        stored = self.source[name].shape
        if tuple(stored) != tuple(shape):
            raise ModelError(f"{self._path}: '{name}' is {list(stored)}, but the config asks for {list(shape)}")


@dataclass(frozen=True)
class _Call:
    """What a decoder layer gets beside the hidden states: masks, rotary embeddings, positions."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass
class Layer:
    """One decoder layer with its weights. name: "model.layers.0".

    inputs: its hidden states, a tensor [n_rows, length, hidden_size] for every batch; calls: the other arguments.
    """

    name: str
    module: Any
    inputs: list["torch.Tensor"]
    calls: list[_Call]
    _outputs: list["torch.Tensor"] | None = None

    def run(
        self, kind: Kind | None = None, names: Collection[str] | None = None, beside: "Layer | None" = None
    ) -> list[Statistic]:
        """Run it over all tokens with its present weights; gives a statistic for every input of linear layers.

        names: only of these weights. beside: this layer of the model as it was, which is run too.
        """
        from olivine.kernels.blockwise import all_finite

        collector = Collector(self.name, self.module, kind, names) if kind else None
        with torch.inference_mode():
            self._outputs = [self.forward(index, collector, beside) for index in range(len(self.inputs))]
        if not all(all_finite(hidden) for hidden in self._outputs):
            raise NotFiniteError(f"the activations of {self.name} are not finite: its weights are damaged, or overflow")
        return collector.finish() if collector else []

    def forward(self, index: int, collector: Collector | None = None, beside: "Layer | None" = None) -> "torch.Tensor":
        """The layer's output for one batch, [n_rows, length, hidden_size]."""
        if collector:
            collector.begin()
            collector.beside = beside.linear_inputs(index) if beside else {}
        output = self.module(self.inputs[index], *self.calls[index].args, **self.calls[index].kwargs)
        hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return hidden

    def linear_inputs(self, index: int) -> dict[str, "torch.Tensor"]:
        """What reaches each linear layer, by its weight's name, when one batch is run."""
        inputs: dict[str, torch.Tensor] = {}

        def noting(name: str) -> Callable[[Any, tuple[Any, ...]], None]:
            return lambda _, args: inputs.__setitem__(f"{self.name}.{name}.weight", args[0])

        linears = [(name, one) for name, one in self.module.named_modules() if isinstance(one, torch.nn.Linear)]
        handles = [module.register_forward_pre_hook(noting(name)) for name, module in linears]
        self.forward(index)
        for handle in handles:
            handle.remove()
        return inputs

    def outputs(self) -> list["torch.Tensor"]:
        """What the layer gave when it was last run; a layer that never was is run now."""
        if self._outputs is None:
            self.run()
        return self._outputs or []

    def parameter(self, name: str) -> Any:
        """The parameter of that full name."""
        return self.module.get_parameter(name.removeprefix(f"{self.name}."))

    def linear(self, weight_name: str) -> Any:
        """The module that holds the weight of that full name."""
        return self.module.get_submodule(weight_name.removeprefix(f"{self.name}.").removesuffix(".weight"))


def _dtype(source: Weights, device: str) -> str:
    if device.startswith("cuda"):
        return "bfloat16"
    n_weights = sum(tensor.shape[0] * tensor.shape[-1] for tensor in source.values() if tensor.shape)
    return "bfloat16" if n_weights >= BF16_FROM and cpu_computes_in_bf16() else "float32"


@contextmanager
def _replaced(layers: Any, run: Callable[[Any, Any, Any], Any]) -> Iterator[None]:
    """Let `run(hidden, args, kwargs)` stand for every layer, so that the model's own forward works round them."""
    for layer in layers:
        layer.forward = lambda hidden, *args, **kwargs: run(hidden, args, kwargs)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _giving(hidden: "torch.Tensor") -> Callable[[Any, Any, Any], "torch.Tensor"]:
    """Layers that give `hidden` whatever they get: some models scale the embeddings that they are given."""
    return lambda _, __, ___: hidden


@contextmanager
def _identity(decoder: Any) -> Iterator[None]:
    """Let the norms after the layers pass everything on: their weights are not filled in yet."""
    norms = [child for child in decoder.children() if is_norm(child)]
    for norm in norms:
        norm.forward = lambda hidden: hidden
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward

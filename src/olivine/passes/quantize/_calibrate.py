"""What reaches every linear layer: a forward pass over the calibration tokens, one decoder layer in memory at a time.

The modules are transformers' own. The model is built empty; its embedding is filled, then layer after layer, each with
what its predecessor gave for all tokens. The peak is one layer and the activations, whatever the size of the model.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from olivine import lazy
from olivine.errors import ModelError, Unsupported
from olivine.models import Model
from olivine.models.loading import _assign, _fill_buffers
from olivine.models.weights import Weights, weights
from olivine.passes._base import Reporter

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

Kind = Literal["diagonal", "full"]
HEAD = "lm_head.weight"
# Tokens in one forward pass: enough to fill the matrix units, few enough that attention and the MLP stay small.
BATCH_TOKENS = {"cpu": 2048, "cuda": 8192}
# From this many weights on, products dominate and bfloat16 pays where the processor has it.
BF16_FROM = 1_000_000_000


@dataclass(frozen=True)
class Statistic:
    """What reached the linear layers `names` (weights' names), which all read one input X [n, K].

    values: X'X / n, float32 [K, K]; or its diagonal, float32 [K]. source: the weight of the norm that made X, None when
    X comes from elsewhere.
    """

    names: tuple[str, ...]
    values: "torch.Tensor"
    source: str | None = None


class LayerStream:
    """A model that runs decoder layer by decoder layer over tokens [rows, length].

    Iterating gives each layer with its weights in place; `Layer.run` runs it, and what it gave last is the input of the
    next one. A layer that was not run by then is run as it is. Afterwards `final` and `head` say what left the decoder.

    source: the weights to use in place of the model's own (a folded or quantized mapping). dtype: of weights and
    activations; None for bfloat16 on a GPU and for large models on processors that multiply it, else float32.
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
    ) -> None:
        self._path, self.device, self._report = model.path, device, report
        self.source = weights(model) if source is None else source
        self._module = skeleton(model, dtype or _dtype(self.source, device))
        self._decoder, self.layers, self.prefix = _decoder_layers(self._module)
        n_rows = max(1, BATCH_TOKENS[device.partition(":")[0]] // tokens.shape[1])
        self._batches: list[torch.Tensor] = list(tokens.split(n_rows))
        self.n_tokens = tokens.numel()

    def __iter__(self) -> Iterator["Layer"]:
        with torch.inference_mode():
            inputs, calls = self._embedded()
        for index, module in enumerate(self.layers):
            name = f"{self.prefix}.{index}"
            self._fill(module, f"{name}.")
            layer = Layer(name, module, inputs, [shape[index] for shape in calls])
            yield layer
            inputs = layer.outputs()
            module.to("meta")
            if self._report is not None:
                self._report.progress(index + 1, len(self.layers))
        self._final = inputs

    def final(self) -> Iterator["torch.Tensor"]:
        """What the decoder gives the head, batch by batch: [rows, length, K]; only after all layers were run."""
        tail = [name for name, _ in self._decoder.named_children() if name not in ("layers", "embed_tokens")]
        for name in tail:
            self._fill(getattr(self._decoder, name), f"{self.prefix.removesuffix('layers')}{name}.")
        _fill_buffers(self._decoder, self.device)
        for hidden in self._final:
            with torch.inference_mode(), _replaced(self.layers, _giving(hidden)):
                yield self._decoder(inputs_embeds=hidden, use_cache=False).last_hidden_state

    def head(self, kind: Kind = "diagonal") -> Statistic:
        """The statistic of the head's input; only after all layers were run."""
        total = _Total((HEAD,), kind)
        for hidden in self.final():
            total.add(hidden)
        return total.statistic()

    def _embedded(self) -> tuple[list["torch.Tensor"], list[list["_Call"]]]:
        """The input of the first layer for every batch, and how the model calls each layer for it."""
        embedding = self._module.get_input_embeddings()
        self._fill(embedding, f"{self.prefix.removesuffix('layers')}embed_tokens.")
        _fill_buffers(self._decoder, self.device)
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
                self._decoder(input_ids=batch.to(self.device), use_cache=False)
            # masks and positions depend on the shape alone: batches of one shape share them
            same = next((i for i, other in enumerate(self._batches) if other.shape == batch.shape), len(calls))
            calls.append(calls[same] if same < len(calls) else recorded)
        embedding.to("meta")
        return inputs, calls

    def _fill(self, module: Any, prefix: str) -> None:
        wanted = module.state_dict()
        missing = [prefix + name for name in wanted if prefix + name not in self.source]
        if missing:
            raise ModelError(f"{self._path} lacks the weights {', '.join(missing[:5])}{' ...' * (len(missing) > 5)}")
        for name, empty in wanted.items():
            tensor = self.source[prefix + name].read()
            if tensor.shape != empty.shape:
                raise ModelError(
                    f"{self._path}: '{prefix}{name}' is {list(tensor.shape)}, but the config asks for "
                    f"{list(empty.shape)}"
                )
            _assign(module, name, tensor.to(device=self.device, dtype=empty.dtype))


@dataclass(frozen=True)
class _Call:
    """What a decoder layer gets beside the hidden states: masks, rotary embeddings, positions."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass
class Layer:
    """One decoder layer with its weights, and its input for every batch. name: "model.layers.0"."""

    name: str
    module: Any
    inputs: list["torch.Tensor"]
    calls: list[_Call]
    _outputs: list["torch.Tensor"] | None = None

    def run(self, kind: Kind | None = None, names: Collection[str] | None = None) -> list[Statistic]:
        """Run it over all tokens with its present weights; gives a statistic for every input of linear layers.

        names: only of these weights.
        """
        from olivine.kernels.blockwise import all_finite

        collector = _Collector(self.name, self.module, kind, names) if kind else None
        with torch.inference_mode():
            self._outputs = [self.forward(index, collector) for index in range(len(self.inputs))]
        if not all(all_finite(hidden) for hidden in self._outputs):
            raise ModelError(f"the activations of {self.name} are not finite: its weights are damaged, or overflow")
        return collector.finish() if collector else []

    def forward(self, index: int, collector: "_Collector | None" = None) -> "torch.Tensor":
        """The layer's output for one batch."""
        if collector:
            collector.begin()
        given = self.module(self.inputs[index], *self.calls[index].args, **self.calls[index].kwargs)
        hidden: torch.Tensor = given[0] if isinstance(given, tuple) else given
        return hidden

    def outputs(self) -> list["torch.Tensor"]:
        """What it gave when it was last run."""
        if self._outputs is None:
            self.run()
        return self._outputs or []

    def parameter(self, name: str) -> Any:
        """The parameter of that full name."""
        return self.module.get_parameter(name.removeprefix(f"{self.name}."))

    def linear(self, weight_name: str) -> Any:
        """The module that holds the weight of that full name."""
        return self.module.get_submodule(weight_name.removeprefix(f"{self.name}.").removesuffix(".weight"))


@dataclass
class _Total:
    """X'X of one input, summed up batch by batch."""

    names: tuple[str, ...]
    kind: Kind
    source: str | None = None
    sums: "torch.Tensor | None" = None
    n_tokens: int = 0

    def add(self, hidden: "torch.Tensor") -> None:
        rows = hidden.reshape(-1, hidden.shape[-1]).float()
        self.n_tokens += rows.shape[0]
        if self.kind == "diagonal":
            squares = rows.square_().sum(dim=0) if rows.data_ptr() != hidden.data_ptr() else rows.square().sum(dim=0)
            self.sums = squares if self.sums is None else self.sums + squares
        elif self.sums is None:
            self.sums = rows.T @ rows
        else:
            self.sums.addmm_(rows.T, rows)

    def statistic(self) -> Statistic:
        if self.sums is None:
            raise ModelError(f"no token reached {', '.join(self.names)}")
        return Statistic(self.names, self.sums / self.n_tokens, self.source)


@dataclass
class _Collector:
    """Hooks on the linear layers of a decoder layer; layers that read the very same tensor share one statistic."""

    name: str
    module: Any
    kind: Kind
    names: Collection[str] | None = None
    totals: dict[str, _Total] = field(default_factory=dict)
    _inputs: dict[int, tuple[str, Any]] = field(default_factory=dict)
    _norms: dict[int, tuple[str, Any]] = field(default_factory=dict)
    _handles: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, module in self.module.named_modules():
            weight = f"{self.name}.{name}.weight"
            if isinstance(module, torch.nn.Linear) and (self.names is None or weight in self.names):
                self._handles.append(module.register_forward_pre_hook(self._reader(weight)))
            elif is_norm(module):
                self._handles.append(module.register_forward_hook(self._maker(weight)))

    def begin(self) -> None:
        """A new batch. The tensors of the last one were kept until now, so that none could take another's identity."""
        self._inputs.clear()
        self._norms.clear()

    def finish(self) -> list[Statistic]:
        self.begin()
        for handle in self._handles:
            handle.remove()
        return [total.statistic() for total in self.totals.values()]

    def _reader(self, name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        def read(_: Any, args: tuple[Any, ...]) -> None:
            hidden = args[0]
            leader = self._inputs.setdefault(id(hidden), (name, hidden))[0]
            if leader != name:
                if name not in self.totals[leader].names:
                    self.totals[leader].names += (name,)
                return
            source = self._norms.get(id(hidden), (None, None))[0]
            self.totals.setdefault(name, _Total((name,), self.kind, source)).add(hidden)

        return read

    def _maker(self, name: str) -> Callable[[Any, Any, Any], None]:
        def made(_: Any, __: Any, output: Any) -> None:
            self._norms[id(output)] = (name, output)

        return made


def importances(
    model: Model,
    tokens: "torch.Tensor",
    *,
    device: str = "cpu",
    report: Reporter | None = None,
    source: Weights | None = None,
    dtype: str | None = None,
    head: Kind = "diagonal",
) -> dict[str, "torch.Tensor"]:
    """How much each input of each linear layer matters: the mean square of what reaches it, float32 [K] on the CPU.

    Keyed by the weight's name in the checkpoint, with "lm_head.weight" for the head, tied or not. tokens: [rows,
    length] of full rows, without padding. head: "full" gives the head's X'X / n, [K, K].
    """
    stream = LayerStream(model, tokens, device=device, report=report, source=source, dtype=dtype)
    found: dict[str, torch.Tensor] = {}
    for layer in stream:
        for statistic in layer.run("diagonal"):
            found |= dict.fromkeys(statistic.names, statistic.values.cpu())
    found[HEAD] = stream.head(head).values.cpu()
    return found


def token_counts(tokens: "torch.Tensor", vocab_size: int) -> "torch.Tensor":
    """How often each token occurs, float32 [vocab_size]: the importance of the embedding's rows."""
    return torch.bincount(tokens.flatten().cpu(), minlength=vocab_size).float()


def is_norm(module: Any) -> bool:
    """Whether the module normalises the hidden states and scales them by a vector."""
    weight = getattr(module, "weight", None)
    return type(module).__name__.endswith("Norm") and weight is not None and weight.dim() == 1


def skeleton(model: Model, dtype: str = "float32") -> Any:
    """The model as a transformers module without weights, its linear layers plain ones."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    if getattr(config, "quantization_config", None) is not None:  # weights() dequantizes: plain linear layers are meant
        del config.quantization_config
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), trust_remote_code=model.trust_remote_code
        )
    return empty.eval()


def _dtype(source: Weights, device: str) -> str:
    from olivine.passes.finetune._precision import cpu_computes_in_bf16

    if device.startswith("cuda"):
        return "bfloat16"
    n_weights = sum(tensor.shape[0] * tensor.shape[-1] for tensor in source.values() if tensor.shape)
    return "bfloat16" if n_weights >= BF16_FROM and cpu_computes_in_bf16() else "float32"


def linear_weights(model: Model, *, head: bool = False) -> dict[str, int]:
    """The weights of the decoder's linear layers, which are what is quantized, with the width of their input."""
    module = skeleton(model)
    _, layers, prefix = _decoder_layers(module)
    found = {
        f"{prefix}.{name}.weight": layer.in_features
        for name, layer in layers.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    return found | ({HEAD: module.get_output_embeddings().in_features} if head else {})


def _decoder_layers(module: Any) -> tuple[Any, Any, str]:
    """The decoder, its list of layers, and the list's name in the checkpoint."""
    decoder = module.base_model
    for name, child in decoder.named_children():
        if isinstance(child, torch.nn.ModuleList) and len(child):
            return decoder, child, f"{module.base_model_prefix}.{name}"
    raise Unsupported(f"{type(module).__name__} cannot be calibrated: it has no list of decoder layers")


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
    """Layers that give `hidden` whatever they get: some models scale what they are given in place of embeddings."""
    return lambda _, __, ___: hidden


@contextmanager
def _identity(decoder: Any) -> Iterator[None]:
    """Skip what comes after the layers: its weights are not there yet."""
    norms = [child for child in decoder.children() if is_norm(child)]
    for norm in norms:
        norm.forward = lambda hidden: hidden
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward

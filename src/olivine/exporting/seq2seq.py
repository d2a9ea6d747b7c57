"""An encoder-decoder of transformers as three modules, each of which an exporter takes; names are those of Optimum.

    encoder_model             input_ids or input_features, attention_mask   -> last_hidden_state
    decoder_model             input_ids, encoder_hidden_states              -> logits, present.0.decoder.key ...
    decoder_with_past_model   input_ids (one token), past_key_values.0 ...  -> logits, present.0.decoder.key ...

Layer by layer, `decoder` keys and values are those of the tokens that were written, `encoder` ones of the source: these
do not change after the first step. Where texts are read, both decoders take `encoder_attention_mask` too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.models.sample_inputs import made_up
from olivine.models.seq2seq import DECODER, DECODER_IDS, ENCODER, HIDDEN, LOGITS, PAST, PRESENT, WITH_PAST
from olivine.models.signature import Signature, Size, TensorSpec

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")

_MASK = "encoder_attention_mask"
_READ, _WRITTEN = "encoder_sequence", "past_sequence"  # sizes: of the source, of the tokens written so far


@dataclass(frozen=True)
class Part:
    """A module and what goes into it."""

    name: str
    module: Any
    signature: Signature


def parts_of(module: Any, signature: Signature) -> Iterator[Part]:
    """The three parts of a model. signature: of the whole, with `decoder_input_ids`.

    How many layers and heads there are, and how long a source is after the encoder, is seen in a run of each part.
    """
    own = replace(signature, inputs=tuple(spec for spec in signature.inputs if spec.name != DECODER_IDS))
    encoder = Part(ENCODER, _encoder(module), own)
    yield encoder
    sample = _sample(own, next(module.parameters()).dtype)
    with torch.no_grad():
        hidden = encoder.module(**sample)["last_hidden_state"]
    length = _source_length(own, sample, hidden)
    ids = next(spec for spec in signature.inputs if spec.name == DECODER_IDS)
    written = replace(ids, name="input_ids", shape=("batch", "decoder_sequence"))
    masks = (TensorSpec(_MASK, "int64", ("batch", length)),) if "attention_mask" in sample else ()
    states = TensorSpec(HIDDEN, "float32", ("batch", length, int(hidden.shape[-1])))
    decoder = Part(DECODER, _decoder(module), Signature((written, *masks, states), ()))
    yield decoder
    first = {"input_ids": torch.zeros((hidden.shape[0], 1), dtype=torch.int64), HIDDEN: hidden}
    if masks:
        first[_MASK] = sample["attention_mask"]
    with torch.no_grad():
        presents = {name: value for name, value in decoder.module(**first).items() if name != LOGITS}
    pasts = tuple(
        TensorSpec(
            name.replace(PRESENT, PAST, 1),
            "float32",
            ("batch", value.shape[1], length if ".encoder." in name else _WRITTEN, value.shape[3]),
        )
        for name, value in presents.items()
    )
    one = replace(written, shape=("batch", 1))
    yield Part(WITH_PAST, _with_past(module, int(hidden.shape[-1])), Signature((one, *masks, *pasts), ()))


def _sample(signature: Signature, dtype: Any) -> dict[str, Any]:
    """A row. dtype: of the module's numbers."""
    (row,) = made_up(signature, 1, 0)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in row.items()}
    return {name: one.to(dtype) if one.is_floating_point() else one for name, one in tensors.items()}


def _source_length(signature: Signature, sample: Mapping[str, Any], hidden: Any) -> Size:
    """The length of a source after the encoder: open where that of the inputs is."""
    spec = signature.inputs[0]
    is_open = any(isinstance(size, str) for size in (spec.shape or ())[1:])
    return _READ if is_open or "attention_mask" in sample else int(hidden.shape[1])


def _encoder(module: Any) -> Any:
    class Encoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, return_dict: bool = True, **inputs: Any) -> dict[str, Any]:  # noqa: ARG002 - as transformers
            return {"last_hidden_state": self.inner.get_encoder()(**inputs, return_dict=True).last_hidden_state}

    return Encoder().eval()


def _decoder(module: Any) -> Any:
    class Decoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, return_dict: bool = True, **inputs: Any) -> dict[str, Any]:  # noqa: ARG002 - as transformers
            outputs = _written(self.inner, inputs, inputs[HIDDEN], None)
            cache = outputs.past_key_values
            both = zip(cache.self_attention_cache.layers, cache.cross_attention_cache.layers, strict=True)
            told = {LOGITS: outputs.logits}
            for number, (own, source) in enumerate(both):
                told |= _named(number, "decoder", own) | _named(number, "encoder", source)
            return told

    return Decoder().eval()


def _with_past(module: Any, width: int) -> Any:
    """width: of a hidden state. Zeros stand for those of the source: its keys and values are there, and are read."""

    class WithPast(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, return_dict: bool = True, **inputs: Any) -> dict[str, Any]:  # noqa: ARG002 - as transformers
            cache = _cache(inputs)
            keys = inputs[f"{PAST}.0.encoder.key"]
            hidden = torch.zeros((keys.shape[0], keys.shape[2], width), dtype=keys.dtype)
            outputs = _written(self.inner, inputs, hidden, cache)
            told = {LOGITS: outputs.logits}
            for number, own in enumerate(outputs.past_key_values.self_attention_cache.layers):
                told |= _named(number, "decoder", own)
            return told

    return WithPast().eval()


def _written(module: Any, inputs: Mapping[str, Any], hidden: Any, cache: Any) -> Any:
    from transformers.modeling_outputs import BaseModelOutput

    mask = {"attention_mask": inputs[_MASK]} if _MASK in inputs else {}
    return module(
        decoder_input_ids=inputs["input_ids"],
        encoder_outputs=BaseModelOutput(hidden),
        past_key_values=cache,
        use_cache=True,
        return_dict=True,
        **mask,
    )


def _cache(inputs: Mapping[str, Any]) -> Any:
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    caches = {"decoder": DynamicCache(), "encoder": DynamicCache()}
    n_layers = sum(name.endswith(".encoder.key") for name in inputs)
    for number in range(n_layers):
        for which, cache in caches.items():
            start = f"{PAST}.{number}.{which}"
            cache.update(inputs[f"{start}.key"], inputs[f"{start}.value"], number)
    return EncoderDecoderCache(caches["decoder"], caches["encoder"])


def _named(number: int, which: str, layer: Any) -> dict[str, Any]:
    return {f"{PRESENT}.{number}.{which}.key": layer.keys, f"{PRESENT}.{number}.{which}.value": layer.values}

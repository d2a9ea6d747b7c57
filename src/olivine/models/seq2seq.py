"""Which parts of a model are an encoder, its decoder, and the decoder of the steps after the first one.

They are known by what they take and give, as Optimum names it: the decoder takes `encoder_hidden_states`, the one after
it `past_key_values.0.decoder.key` and so on, and both give `logits`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from olivine.models.signature import Signature, TensorSpec

HIDDEN, PAST, PRESENT, LOGITS = "encoder_hidden_states", "past_key_values", "present", "logits"
DECODER_IDS = "decoder_input_ids"
ENCODER, DECODER, WITH_PAST = "encoder_model", "decoder_model", "decoder_with_past_model"
"""What Optimum calls the parts."""
_IDS = ("input_ids", DECODER_IDS)


@dataclass(frozen=True)
class Seq2Seq:
    """Names of the parts, and the signature of what they are together. with_past: None where there is none."""

    encoder: str
    decoder: str
    with_past: str | None
    signature: Signature


def seq2seq(parts: Mapping[str, Signature]) -> Seq2Seq | None:
    """The encoder-decoder that the parts are together; None where they are none, or one that cannot go on writing."""
    roles: dict[str, str] = {}
    for name, signature in parts.items():
        role = _role(signature)
        if role is None or role in roles:
            return None
        roles[role] = name
    if not {ENCODER, DECODER} <= roles.keys():
        return None
    encoder, decoder = parts[roles[ENCODER]], parts[roles[DECODER]]
    ids = _ids(decoder)
    if ids is None or not _is_open(ids, 1):
        return None
    words = replace(ids, name=DECODER_IDS, shape=("batch", "decoder_sequence"))
    logits = tuple(spec for spec in decoder.outputs if spec.name == LOGITS)
    remembers = any(spec.name.startswith((f"{PRESENT}.", f"{PRESENT}_", f"{PAST}.")) for spec in decoder.outputs)
    with_past = roles.get(WITH_PAST) if remembers else None
    return Seq2Seq(roles[ENCODER], roles[DECODER], with_past, Signature((*encoder.inputs, words), logits))


def _role(signature: Signature) -> str | None:
    takes, gives = {spec.name for spec in signature.inputs}, {spec.name for spec in signature.outputs}
    if LOGITS not in gives:
        return None if HIDDEN in takes or not any("hidden" in name for name in gives) else ENCODER
    if _ids(signature) is None:
        return None
    pasts = [spec for spec in signature.inputs if spec.name.startswith(f"{PAST}.")]
    if not pasts:
        return DECODER if HIDDEN in takes else None
    return WITH_PAST if any(_is_open(spec, 2) for spec in pasts) else None


def _ids(signature: Signature) -> TensorSpec | None:
    return next((spec for spec in signature.inputs if spec.name in _IDS), None)


def _is_open(spec: TensorSpec, axis: int) -> bool:
    return spec.shape is None or (len(spec.shape) > axis and not isinstance(spec.shape[axis], int))

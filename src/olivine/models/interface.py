"""What any model takes and gives, whatever its format: its facts, and its signature with the sizes of its config."""

from olivine.models._model import Model
from olivine.models.facts import ModelFacts
from olivine.models.inspect import read_facts
from olivine.models.onnx_files import onnx_facts, told_signature
from olivine.models.sample_inputs import fitted
from olivine.models.signature import Signature, TensorSpec


def facts_of(model: Model) -> ModelFacts:
    """The facts of a model of any format; those of an adapter are its base's."""
    if model.format == "onnx":
        return onnx_facts(model)
    return facts_of(model.base) if model.format == "adapter" and model.base else read_facts(model.path)


def signature_of(model: Model) -> Signature | None:
    """Inputs and outputs of a model, as far as graph and config tell; None where neither does."""
    facts = facts_of(model)
    if facts.decoder is not None:
        return text_signature(facts.decoder.vocab_size)
    return fitted(facts.signature, told_signature(model)) if facts.signature is not None else None


def text_signature(n_tokens: int) -> Signature:
    """Of a decoder that reads whole texts and keeps no cache."""
    shape = ("batch", "sequence")
    ids, mask = TensorSpec("input_ids", "int64", shape, n_tokens), TensorSpec("attention_mask", "int64", shape)
    return Signature((ids, mask), (TensorSpec("logits", "float32", (*shape, n_tokens)),))

"""What any model takes and gives, whatever its format: its facts, and its signature with the sizes of its config."""

from olivine.errors import ModelError
from olivine.models._model import Model
from olivine.models.facts import ModelFacts
from olivine.models.inspect import read_facts
from olivine.models.io_config import signature_by
from olivine.models.onnx_files import onnx_facts, told_signature
from olivine.models.sample_inputs import fitted
from olivine.models.scripted import IO_CONFIG, SCRIPT
from olivine.models.signature import Signature, TensorSpec


def facts_of(model: Model) -> ModelFacts:
    """The facts of a model of any format; those of an adapter are its base's."""
    if model.format == "onnx":
        return onnx_facts(model)
    if model.format == "script":
        name = str(model.attributes[SCRIPT].get("model_loader", ""))
        return ModelFacts(name, 0, kind="script", task=model.task, signature=_of_script(model))
    return facts_of(model.base) if model.format == "adapter" and model.base else read_facts(model.path)


def signature_of(model: Model) -> Signature | None:
    """Inputs and outputs of a model, as far as graph and config tell; None where neither does."""
    facts = facts_of(model)
    if model.format == "script":
        return facts.signature
    own = text_signature(facts.decoder.vocab_size) if facts.decoder is not None else facts.signature
    if facts.decoder is None and own is not None:
        own = fitted(own, told_signature(model))
    return signature_by(own, model.attributes.get(IO_CONFIG)) if model.format == "hf" else own


def _of_script(model: Model) -> Signature | None:
    """What its config says of the module; with a function of the script for that, only a run tells."""
    told = model.attributes.get(IO_CONFIG)
    try:
        return signature_by(None, told) if told else None
    except ModelError:
        return None


def text_signature(n_tokens: int) -> Signature:
    """Of a decoder that reads whole texts and keeps no cache."""
    shape = ("batch", "sequence")
    ids, mask = TensorSpec("input_ids", "int64", shape, n_tokens), TensorSpec("attention_mask", "int64", shape)
    return Signature((ids, mask), (TensorSpec("logits", "float32", (*shape, n_tokens)),))

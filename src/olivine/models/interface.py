"""What any model takes and gives, whatever its format: its facts, and its signature with the sizes of its config."""

from collections.abc import Mapping
from dataclasses import replace

from olivine.errors import ModelError
from olivine.models._model import Model
from olivine.models.chained import chained
from olivine.models.diffusion import diffusion_facts
from olivine.models.facts import ModelFacts
from olivine.models.inspect import read_facts
from olivine.models.io_config import signature_by
from olivine.models.onnx_files import onnx_facts, told_signature
from olivine.models.openvino_files import openvino_facts
from olivine.models.sample_inputs import fitted
from olivine.models.scripted import IO_CONFIG, SCRIPT
from olivine.models.seq2seq import seq2seq
from olivine.models.signature import Signature, TensorSpec


def facts_of(model: Model) -> ModelFacts:
    """The facts of a model of any format; those of an adapter are its base's."""
    if model.format == "onnx":
        return onnx_facts(model)
    if model.format == "composite":
        return composite_facts({name: facts_of(part) for name, part in model.parts.items()}, model.task)
    if model.format == "diffusers":
        return diffusion_facts(model)
    if model.format == "openvino":
        return openvino_facts(model)
    if model.format == "script":
        name = str(model.attributes[SCRIPT].get("model_loader", ""))
        return ModelFacts(name, 0, kind="script", task=model.task, signature=_of_script(model))
    return facts_of(model.base) if model.format == "adapter" and model.base else read_facts(model.path)


def composite_facts(parts: Mapping[str, ModelFacts], task: str = "") -> ModelFacts:
    """The facts of a model of several parts: sizes are those of all together."""
    n_parameters = sum(part.n_parameters for part in parts.values())
    n_bytes = sum(part.weight_bytes for part in parts.values())
    return ModelFacts(
        " + ".join(parts),
        n_parameters,
        kind="composite",
        task=task,
        bytes_per_weight=n_bytes / n_parameters if n_bytes and n_parameters else 2.0,
        weight_bytes=n_bytes,
        parts=parts,
    )


def signature_of(model: Model) -> Signature | None:
    """Inputs and outputs of a model, as far as graph and config tell; None where neither does.

    Those of a model of several parts are named PART/NAME, unless they are an encoder-decoder together, see
    `olivine.models.seq2seq`, or follow each other, see `olivine.models.chained`; None where nothing is known of one of
    them.
    """
    if model.format == "composite":
        known = signatures_of(model)
        together = chained(model, known) or (seq2seq(known) if len(known) == len(model.parts) else None)
        return together.signature if together is not None else _of_parts(model, known)
    facts = facts_of(model)
    if model.format == "script":
        return facts.signature
    own = text_signature(facts.decoder.vocab_size) if facts.decoder is not None else facts.signature
    if facts.decoder is None and own is not None:
        own = fitted(own, told_signature(model))
    return signature_by(own, model.attributes.get(IO_CONFIG)) if model.format == "hf" else own


def signatures_of(model: Model) -> dict[str, Signature]:
    """Inputs and outputs of each part of a model by its name; those of which nothing is known are left out."""
    told = {name: signature_of(part) for name, part in model.parts.items()}
    return {name: one for name, one in told.items() if one is not None}


def _of_parts(model: Model, known: Mapping[str, Signature]) -> Signature | None:
    if len(known) < len(model.parts):
        return None
    return Signature(
        tuple(replace(spec, name=f"{part}/{spec.name}") for part, one in known.items() for spec in one.inputs),
        tuple(replace(spec, name=f"{part}/{spec.name}") for part, one in known.items() for spec in one.outputs),
    )


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

"""How many tokens a model reads, the bound of every sample, and how many it knows."""

from olivine.errors import ModelError
from olivine.models import Model
from olivine.models.inspect import read_facts


def context_of(model: Model) -> int | None:
    """Tokens that the model reads, as the config of its base says; None where that does not say it."""
    while model.base is not None:
        model = model.base
    try:
        decoder = read_facts(model.path).decoder
    except ModelError:  # a plan has said what is wrong
        return None
    return decoder.context_length or None if decoder is not None else None


def vocabulary_of(model: Model) -> int | None:
    """Tokens that the embedding of a checkpoint has; None where the config does not say it, or an adapter adds some."""
    if model.format != "hf" or model.base is not None:
        return None
    try:
        decoder = read_facts(model.path).decoder
    except ModelError:  # a plan has said what is wrong
        return None
    return decoder.vocab_size or None if decoder is not None else None

"""How many tokens a model reads: the bound of every sample."""

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

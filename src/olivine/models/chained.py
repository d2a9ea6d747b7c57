"""A model whose parts follow each other: what one gives, those after it take by the same name.

The parts' record says what the whole takes and gives. Passes that work on each part keep it; where one of them renames
what the whole has, the parts are looked at one by one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from olivine.models._model import Model
from olivine.models.signature import Signature, TensorSpec

CHAIN = "chain"  # the attribute of a composite: {"inputs": names, "outputs": names} of the whole
GENAI = "genai_config"  # of a chain that a folder for onnxruntime-genai was split into: the content of that file


@dataclass(frozen=True)
class Chained:
    """The order of the parts, and the signature of what they are together."""

    parts: tuple[str, ...]
    signature: Signature


def chained(model: Model, parts: Mapping[str, Signature]) -> Chained | None:
    """The chain that the parts of a model are; None where they are none, or do not fit each other any more.

    parts: the signatures of all of them.
    """
    told = model.attributes.get(CHAIN)
    if not told or parts.keys() != model.parts.keys():
        return None
    taken: dict[str, TensorSpec] = {}
    given: dict[str, TensorSpec] = {}
    for name in model.parts:
        for spec in parts[name].inputs:
            if spec.name not in given:
                taken.setdefault(spec.name, spec)
        given |= {spec.name: spec for spec in parts[name].outputs}
    if not {*taken} <= {*told["inputs"]} or not {*told["outputs"]} <= given.keys():
        return None
    inputs = tuple(taken[name] for name in told["inputs"] if name in taken)
    return Chained(tuple(model.parts), Signature(inputs, tuple(given[name] for name in told["outputs"])))

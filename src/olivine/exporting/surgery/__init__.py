"""Small changes of a graph by name, each a class with its params: what GraphSurgeries of a config asks for."""

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from olivine.exporting.surgery._base import (
    NoPlaceError,
    Surgeon,
    all_nodes,
    constant_of,
    forget_unused,
    free,
    names_in,
    number,
    put,
    replace,
    stored,
)
from olivine.exporting.surgery._forms import (
    ExposeOutputs,
    InferShapes,
    QDQToClip,
    QuickGeluToSigmoid,
    RemoveInitializerFromInputs,
    RemoveQDQ,
    RemoveShapes,
    ReplaceErfWithTanh,
)
from olivine.exporting.surgery._names import RenameInputDims, RenameInputs, RenameOutputDims, RenameOutputs
from olivine.exporting.surgery._nodes import (
    DeduplicateNodes,
    DeduplicateSubgraphInitializers,
    RemoveMemcpy,
    ReplaceAttentionMaskValue,
)
from olivine.exporting.surgery._products import (
    GemmToMatMulAdd,
    MatMulAddToGemm,
    PowReduceSumPowDiv2LpNorm,
    ReciprocalMulToDiv,
    SimplifiedLayerNormToL2Norm,
)
from olivine.exporting.surgery._sequences import (
    AttentionMaskToSequenceLengths,
    PackedAttentionToLoopMHA,
    RemoveRopeMultiCache,
)
from olivine.exporting.surgery._weights import (
    QuantizeEmbeddingInt8,
    RemoveGidxFromMatMulNBits,
    ShareEmbeddingLmHead,
    TieWordEmbeddings,
)

SURGEONS: Mapping[str, type[Surgeon]] = {
    one.__name__.lower(): one
    for one in (
        *(AttentionMaskToSequenceLengths, DeduplicateNodes, DeduplicateSubgraphInitializers, ExposeOutputs),
        *(GemmToMatMulAdd, InferShapes, MatMulAddToGemm, PackedAttentionToLoopMHA, PowReduceSumPowDiv2LpNorm),
        *(QDQToClip, QuantizeEmbeddingInt8, QuickGeluToSigmoid, ReciprocalMulToDiv, RemoveGidxFromMatMulNBits),
        *(RemoveInitializerFromInputs, RemoveMemcpy, RemoveQDQ, RemoveRopeMultiCache, RemoveShapes, RenameInputDims),
        *(RenameInputs, RenameOutputDims, RenameOutputs, ReplaceAttentionMaskValue, ReplaceErfWithTanh),
        *(ShareEmbeddingLmHead,),
        *(SimplifiedLayerNormToL2Norm, TieWordEmbeddings),
    )
}


def surgeon_of(record: Mapping[str, Any]) -> Surgeon:
    """The surgeon that an entry of a config means; ValueError, with what there is, for one that is none."""
    name = record.get("surgeon")
    kind = SURGEONS.get(str(name).lower())
    if kind is None:
        close = difflib.get_close_matches(str(name).lower(), SURGEONS, n=1)
        known = ", ".join(one.__name__ for one in SURGEONS.values())
        hint = f"did you mean '{SURGEONS[close[0]].__name__}'?" if close else f"there are {known}"
        raise ValueError(f"there is no surgeon '{name}'; {hint}")
    try:
        return kind.model_validate({key: value for key, value in record.items() if key != "surgeon"})
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "its params"
        raise ValueError(f"surgeon {kind.__name__}: {where}: {fault['msg'].lower()}") from None


__all__ = [
    "SURGEONS",
    "NoPlaceError",
    "Surgeon",
    "all_nodes",
    "constant_of",
    "forget_unused",
    "free",
    "names_in",
    "number",
    "put",
    "replace",
    "stored",
    "surgeon_of",
]

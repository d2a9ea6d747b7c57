"""Which matrix of a graph is stored how: bits, group, zero points, and what its scales are searched with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from olivine.errors import ModelError, Unsupported
from olivine.exporting.mixed import Goal, mixed
from olivine.exporting.quantize_graph import Choice, Matrix
from olivine.kernels.blockwise import GROUPS, Blockwise, Format, quantize
from olivine.kernels.gptq import gptq
from olivine.models.blockwise import StoredBlocks

HEAD = "/lm_head/MatMul"
EMBEDDINGS = ("/model/embed_tokens/Gather", "/model/preprocessing/Gather_1")  # of decoders, and of Whisper's
HEAD_WEIGHT = "lm_head.weight"
# Where a scale of 16 bits beside a Cast is folded by the runtime when it loads the model.
_HALF_SCALES = ("cpu",)


@dataclass(frozen=True)
class Settings:
    """What the params of the export come to.

    bits, group, symmetric: of every matrix that is not named below. search: importance-weighted scales, else to
    nearest. importance: mean square of each input by the name of the checkpoint's tensor; where that of the head is its
    whole X'X / n [K, K], a head in 4 bits is rounded by GPTQ. head_bits: of the head
    (and of the embedding where it is tied to it). embedding_bits: of an embedding of its own, None to leave it alone.
    int8_share: share of the weights of all layers that are promoted to 8 bits, those with the largest error first.
    half_scales: store scales in 16 bits. excluded: nodes that stay float. padded: a block size that does not divide the
    inputs of a matrix fills its last block with zeros; else it is refused. mixed: what chooses bits and group of each
    matrix that is multiplied, in place of `bits`, `group` and `int8_share`. given: codes that were found for tensors of
    the checkpoint, by name; those of one matrix in one format.
    """

    bits: int = 4
    group: int = 32
    symmetric: bool = True
    search: bool = False
    importance: Mapping[str, torch.Tensor] | None = None
    head_bits: int | None = None
    embedding_bits: int | None = None
    int8_share: float = 0.0
    half_scales: bool = False
    excluded: frozenset[str] = frozenset()
    padded: bool = False
    mixed: Goal | None = None
    given: Mapping[str, Callable[[], Blockwise]] | None = None

    @property
    def format(self) -> Format:
        """Of a matrix without a rule of its own."""
        return Format(self.bits, self.group, self.symmetric)


def choices(settings: Settings, matrices: Mapping[str, Matrix]) -> Mapping[str, Choice]:
    """The choice of every matrix that is quantized, by its name."""
    chosen = {}
    for name, matrix in matrices.items():
        taken = _taken_over(settings, matrix) or _given(settings, matrix)
        choice = taken or (_embedding(settings, matrix) if matrix.node in EMBEDDINGS else _matmul(settings, matrix))
        if choice is not None:
            chosen[name] = choice
    if settings.mixed is not None:
        return chosen | mixed(settings.mixed, matrices, _free(matrices, chosen))
    for name in _promoted(settings, matrices, chosen):
        chosen[name] = _in_8_bits(settings, matrices[name], chosen[name])
    return chosen


def _free(matrices: Mapping[str, Matrix], chosen: Mapping[str, Choice]) -> dict[str, Choice]:
    """The choices that may still change: not those of codes that are taken over, of lookups, of a head in 8 bits."""
    return {
        name: choice
        for name, choice in chosen.items()
        if choice.fmt.bits == 4 and choice.given is None and matrices[name].node not in EMBEDDINGS
    }


def _matmul(settings: Settings, matrix: Matrix) -> Choice:
    statistic = _importance(settings, matrix)
    importance = statistic.diagonal() if statistic is not None and statistic.dim() == 2 else statistic
    choice = Choice(
        settings.format,
        importance=importance,
        search=settings.search,
        half_scales=settings.half_scales,
    )
    if not settings.padded and settings.mixed is None:
        _refuse_width(choice.fmt, matrix)
    if matrix.node == HEAD and settings.head_bits == 8:
        return _in_8_bits(settings, matrix, choice)
    if statistic is not None and statistic.dim() == 2 and settings.search and settings.bits == 4:
        return replace(choice, given=_swept(settings, matrix, statistic))
    return choice


def _swept(settings: Settings, matrix: Matrix, hessian: torch.Tensor) -> Callable[[], Blockwise]:
    """Codes of GPTQ, which needs the whole matrix."""

    def read() -> Blockwise:
        weight = matrix.rows.read(0, matrix.n_rows)
        try:
            return gptq(weight, hessian, settings.format, half_scales=settings.half_scales)
        except ValueError as error:
            raise ModelError(f"'{matrix.rows.names[0]}' cannot be quantized: {error}") from error

    return read


def _embedding(settings: Settings, matrix: Matrix) -> Choice | None:
    """A row is read alone: no input is more important than another."""
    if settings.embedding_bits is None:
        return None
    group = widest_group(matrix.width, settings.group)
    fmt = Format(settings.embedding_bits, group, symmetric=False) if group else None
    return Choice(fmt, half_scales=settings.half_scales) if fmt else None


def _in_8_bits(settings: Settings, matrix: Matrix, choice: Choice) -> Choice:
    """With 256 codes a wide group loses nothing that could be measured, and is read faster."""
    group = max(settings.group, widest_group(matrix.width, 128) or settings.group)
    return replace(choice, fmt=Format(8, group, settings.symmetric), search=False)


def widest_group(width: int, limit: int) -> int | None:
    """The largest group up to `limit` that divides a width; None when not even 16 does."""
    return max((group for group in GROUPS if group <= limit and width % group == 0), default=None)


def _refuse_width(fmt: Format, matrix: Matrix) -> None:
    if matrix.width % fmt.group:
        fitting = widest_group(matrix.width, 256)
        hint = f"; use {fitting}" if fitting else ""
        raise Unsupported(
            f"the block size {fmt.group} does not divide the {matrix.width} inputs of '{matrix.rows.names[0]}'{hint}"
        )


def _importance(settings: Settings, matrix: Matrix) -> torch.Tensor | None:
    """Pieces of one matrix share their input, and so its importance. A tied head has the embedding's name."""
    known = settings.importance or {}
    names = [HEAD_WEIGHT] if matrix.node == HEAD else matrix.rows.names
    return next((known[name] for name in names if name in known), None)


def _promoted(settings: Settings, matrices: Mapping[str, Matrix], chosen: Mapping[str, Choice]) -> list[str]:
    """The matrices with the largest relative error of their outputs, up to the share of all weights."""
    if settings.int8_share <= 0:
        return []
    own = (name for name, choice in chosen.items() if choice.fmt.bits == 4 and choice.given is None)
    candidates = [name for name in own if matrices[name].node not in EMBEDDINGS]
    sizes = {name: matrices[name].n_rows * matrices[name].width for name in candidates}
    budget = settings.int8_share * sum(sizes.values())
    promoted = []
    errors = {name: relative_error(matrices[name], chosen[name]) for name in candidates}
    for name in sorted(candidates, key=lambda name: -errors[name]):
        if sizes[name] <= budget:
            promoted.append(name)
            budget -= sizes[name]
    return promoted


def relative_error(matrix: Matrix, choice: Choice) -> float:
    """Squared error of the outputs over their square, for uncorrelated inputs: tr(dW D dW') / tr(W D W')."""
    weight = matrix.rows.read(0, matrix.n_rows).float()
    stored = quantize(weight, choice.fmt, "search" if choice.search else "rtn", choice.importance).dequantized()
    weights = choice.importance.float() if choice.importance is not None else torch.ones(matrix.width)
    return float((((stored - weight) ** 2) @ weights).sum() / ((weight**2) @ weights).sum().clamp(min=1e-30))


def _taken_over(settings: Settings, matrix: Matrix) -> Choice | None:
    """Codes that the checkpoint already holds go on as they are, when all pieces are stored alike."""
    sources: list[Any] = [piece.source for piece in matrix.rows.pieces]
    readers = [source.blockwise for source in sources if getattr(source, "blockwise", None) is not None]
    if not readers or len(readers) < len(sources):
        return None
    fmt = _format_of(readers[0])
    if any(_format_of(reader) != fmt for reader in readers[1:]):
        raise Unsupported(
            f"{', '.join(matrix.rows.names)} are stored in different formats, and the graph joins them; "
            "set extra_options: {fuse_qkv: false}"
        )
    exact = all(isinstance(reader, StoredBlocks) and reader.half_scales for reader in readers)
    return Choice(fmt, given=_joined(matrix, readers, fmt), half_scales=settings.half_scales and exact)


def _given(settings: Settings, matrix: Matrix) -> Choice | None:
    """Codes that were found beforehand for all pieces of the matrix. A tied head has the embedding's name."""
    known = settings.given or {}
    names = [HEAD_WEIGHT] if matrix.node == HEAD else matrix.rows.names
    if matrix.node in EMBEDDINGS or not all(name in known for name in names):
        return None
    readers = [known[name] for name in names]
    fmt = _format_of(readers[0])
    return Choice(fmt, given=_joined(matrix, readers, fmt), half_scales=settings.half_scales)


def _format_of(reader: Callable[[], Blockwise]) -> Format:
    if isinstance(reader, StoredBlocks):
        return reader.format()
    stored = reader()
    return Format(stored.bits, stored.group, stored.symmetric)


def _joined(matrix: Matrix, readers: list[Any], fmt: Format) -> Callable[[], Blockwise]:
    def read() -> Blockwise:
        parts = [
            reader().rows(piece.start, piece.stop) for reader, piece in zip(readers, matrix.rows.pieces, strict=True)
        ]
        zeros = None if fmt.symmetric else torch.cat([part.zero_points for part in parts])
        codes, scales = torch.cat([part.codes for part in parts]), torch.cat([part.scales for part in parts])
        return Blockwise(fmt.bits, fmt.group, codes, scales, zeros)

    return read


def half_scales(provider: str) -> bool:
    """Whether scales of 16 bits cost nothing at run time."""
    return provider in _HALF_SCALES

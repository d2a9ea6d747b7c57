"""A graph run a few layers at a time: what is in memory are the weights of one piece, whatever the size of the model.

    graph ─ cut ─> pieces: consecutive nodes whose weights together are no more than so many bytes
    tokens ─> piece ─ all steps ─> what the next piece needs of each step ─> piece ─ ... ─> logits of each step

Each piece is opened by onnxruntime once, with the kernels that the whole graph gets: weights are packed for them, and
scales unfolded. All steps go through it before the next is opened, as the tokens of every step are known beforehand.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError
from olivine.exporting.sizes import PIECE_BYTES
from olivine.memory import give_back
from olivine.runtimes.decoder_inputs import DecoderInputs, Input
from olivine.runtimes.session import last_word

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir
    import onnxruntime
else:
    np, ir, onnxruntime = lazy.module("numpy"), lazy.module("onnx_ir"), lazy.module("onnxruntime")

LOGITS = "logits"


@dataclass(frozen=True)
class Piece:
    """Nodes that follow each other. inputs, outputs: names of what crosses its borders, the graph's own among it."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def proto(self, model: "ir.Model") -> bytes:
        """It as a model of its own, whose weights stay where they lie."""
        graph = ir.convenience.extract(model.graph, self.inputs, self.outputs)
        for value in (*graph.inputs, *graph.outputs):
            value.shape = None  # sizes that have names are not the same in every step
        part = ir.Model(graph, ir_version=model.ir_version, functions=[*model.functions.values()])
        proto: bytes = ir.serde.serialize_model(part).SerializeToString()
        return proto


def weight_bytes(model: "ir.Model") -> int:
    """Bytes of all weights of a graph."""
    return sum(_bytes_of(value) for value in model.graph.initializers.values())


def cut(model: "ir.Model", piece_bytes: int = PIECE_BYTES) -> list[Piece]:
    """The pieces of a graph, each with weights of at most `piece_bytes`, or with one node whose weights are more.

    What is computed of weights alone, such as scales that are unfolded, crosses no border: a piece computes what it
    needs of it.
    """
    constant, initializers = _constants(model.graph), model.graph.initializers
    groups: list[list[ir.Node]] = [[]]
    weights: set[str] = set()
    for node in model.graph:
        if all(value in constant for value in node.outputs):
            continue
        own = {name for value in read_by(node) if value in constant for name in constant[value]}
        if groups[-1] and sum(_bytes_of(initializers[name]) for name in weights | own) > piece_bytes:
            groups, weights = [*groups, []], set()
        groups[-1].append(node)
        weights |= own
    return [piece for piece in _bordered(model.graph, groups, constant) if piece.outputs]


def _bordered(
    graph: "ir.Graph", groups: "Sequence[Sequence[ir.Node]]", constant: "Collection[ir.Value]"
) -> Iterator[Piece]:
    """The groups as pieces: what each reads of those before it, and what of it is read after it."""
    last_use = {str(value.name): len(groups) for value in graph.outputs}
    for number, group in enumerate(groups):
        for value in (value for node in group for value in read_by(node)):
            last_use[str(value.name)] = max(last_use.get(str(value.name), 0), number)
    for number, group in enumerate(groups):
        made = [str(value.name) for node in group for value in node.outputs]
        read = [str(value.name) for node in group for value in read_by(node) if value not in constant]
        inputs = tuple(name for name in dict.fromkeys(read) if name not in set(made))
        yield Piece(inputs, tuple(name for name in made if last_use.get(name, -1) > number))


def _constants(graph: "ir.Graph") -> "dict[ir.Value, frozenset[str]]":
    """Values that are weights or computed of weights alone, with the names of the weights that each is made of."""
    sources = {value: frozenset([name]) for name, value in graph.initializers.items()}
    for node in graph:
        read = list(read_by(node))
        if all(value in sources for value in read):
            sources |= dict.fromkeys(node.outputs, frozenset(name for value in read for name in sources[value]))
    return sources


def read_by(node: "ir.Node") -> "Iterator[ir.Value]":
    """What a node reads of the graph that it is in; the graphs in a node (branches) read of it too."""
    graphs = [
        attribute.as_graph() for attribute in node.attributes.values() if attribute.type == ir.AttributeType.GRAPH
    ]
    for one in (node, *(inner for graph in graphs for inner in graph.all_nodes())):
        yield from (value for value in one.inputs if value is not None and (one is node or value.graph is node.graph))


def _bytes_of(value: "ir.Value") -> int:
    return int(value.const_value.nbytes) if value.const_value is not None else 0


class Run:
    """Texts that go through the pieces of a folder's graph."""

    def __init__(self, model: "ir.Model", folder: Path, piece_bytes: int = PIECE_BYTES) -> None:
        inputs = [Input(str(one.name), _dtype(one), _shape(one)) for one in model.graph.inputs]
        self._model, self._folder, self._inputs = model, folder, DecoderInputs(folder, inputs)
        self._values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
        self.pieces = cut(model, piece_bytes)

    @property
    def is_possible(self) -> bool:
        """Whether every input is served, and each cache leaves the piece that it enters.

        Else a step would wait there for the one before it.
        """
        of_input = {name: piece for piece in self.pieces for name in piece.inputs}
        pasts = [name for name in self._inputs.pasts if name in of_input]
        alike = all(self._inputs.presents[name] in of_input[name].outputs for name in pasts)
        return alike and not self._inputs.unserved and all(map(self._has_type, of_input))

    def _has_type(self, name: str) -> bool:
        return self._values[name].dtype is not None

    def logits(self, steps: Sequence[Sequence[int]]) -> "list[npt.NDArray[np.float32]]":
        """Of the last token of each step, [1, vocabulary]; steps: tokens, each after those before.

        Raises ModelError that names the values which are not numbers, or says what onnxruntime refuses.
        """
        starts = [sum(map(len, steps[:number])) for number in range(len(steps))]
        rows = [np.asarray([step], dtype=np.int64) for step in steps]
        values = [self._inputs.feed(of_step, start, {}) for of_step, start in zip(rows, starts, strict=True)]
        for number, piece in enumerate(self.pieces):
            self._through(piece, values)
            later = {name for other in self.pieces[number + 1 :] for name in other.inputs} | {LOGITS}
            values = [{name: value for name, value in of_step.items() if name in later} for of_step in values]
            give_back()
        return [of_step[LOGITS][:, -1].astype(np.float32) for of_step in values]

    def _through(self, piece: Piece, values: "list[dict[str, npt.NDArray[Any]]]") -> None:
        """Add what a piece gives for each step."""
        graph = piece.proto(self._model)
        with _told():
            session = _session(graph, self._folder)
        for number, of_step in enumerate(values):
            if number:
                before = values[number - 1]
                pasts = {name: self._inputs.presents[name] for name in self._inputs.pasts if name in piece.inputs}
                of_step |= {past: before[present] for past, present in pasts.items()}
            given = {name: of_step[name] for name in piece.inputs}
            with _told():
                results = session.run(list(piece.outputs), given)
            of_step |= dict(zip(piece.outputs, results, strict=True))
        for of_step in values:
            if broken := [name for name in piece.outputs if _is_broken(name, of_step[name])]:
                raise ModelError(f"the built model does not run: '{broken[0]}' in its graph holds what is no number")


@contextmanager
def _told() -> Iterator[None]:
    """What onnxruntime refuses, as a sentence."""
    try:
        yield
    except Exception as error:  # onnxruntime's errors have no class in common
        raise ModelError(f"the built model does not run: onnxruntime says: {last_word(error)}") from error


def _session(graph: bytes, folder: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # it keeps what the largest piece took
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _is_broken(name: str, value: "npt.NDArray[Any]") -> bool:
    """Whether it holds NaN, or logits hold infinity; a mask may hold that."""
    if value.dtype.kind != "f":
        return False
    return not np.isfinite(value).all() if name == LOGITS else bool(np.isnan(value).any())


def _dtype(value: "ir.Value") -> str:
    return str(value.dtype.numpy().name) if value.dtype is not None else ""


def _shape(value: "ir.Value") -> list[int | str]:
    return [size if isinstance(size, int) else str(size.value) for size in value.shape or ()]

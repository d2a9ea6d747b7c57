"""Float MatMul, Gemm and Gather nodes of a graph become their quantized operators, whose data is computed later.

Names, order and attributes are those that ONNX Runtime's own quantizer gives, so that with the same rounding the files
are the same byte for byte. A weight is known by its value, wherever it is used: in the bodies of If, Loop and Scan too,
by nodes without a name or with that of another; it is quantized once. One that something still uses as it was stays.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common

from olivine.errors import ModelError
from olivine.exporting.graph_files import open_graph
from olivine.exporting.lazy_weights import Piece, Rows
from olivine.exporting.streaming import Job, Write, lazy_weight_of
from olivine.kernels.blockwise import TILE, Array, Blockwise, Format, importance_of, pack, quantize_rows
from olivine.models.finite import NotFiniteError
from olivine.models.tensors import LazyTensor

# rows of a matrix that one job does, in weights: enough jobs for all cores, few enough to cost nothing
CHUNK = 1 << 24
EMBEDDING_GATHER = "GatherBlockQuantized"


@dataclass(frozen=True)
class Choice:
    """How one matrix is stored.

    importance: [K] for the search, None to round to nearest. half_scales: scales are stored in 16 bits and cast to the
    graph's type, which onnxruntime does once when it loads the model.
    """

    fmt: Format
    importance: torch.Tensor | None = None
    search: bool = False
    half_scales: bool = False
    given: Callable[[], Blockwise] | None = None


@dataclass(frozen=True)
class Matrix:
    """A weight [N, K] of the graph, with the nodes that use it and the checkpoint's tensors that it is made of.

    node: what the first of the users is called.
    """

    node: str
    weight: str
    rows: Rows
    users: tuple[ir.Node, ...] = ()

    @property
    def n_rows(self) -> int:
        """N: outputs, or words of an embedding."""
        return self.rows.n_rows

    @property
    def width(self) -> int:
        """K: inputs, or the width of an embedding."""
        return self.rows.pieces[0].source.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """[N, K]"""
        return self.n_rows, self.width


def label(node: ir.Node) -> str:
    """What a node is called: by its name, or else by that of what it gives."""
    return node.name or str(node.outputs[0].name)


def load_graph(path: Path) -> ir.Model:
    """A finished graph whose external data was checked, with all weights in its outermost graph."""
    model = open_graph(path)
    gather_weights(model)
    return model


def gather_weights(model: ir.Model) -> None:
    """Bring every weight of a finished graph into its outermost graph, where they are found and streamed from.

    Large constants become initializers; those of inner graphs move out, under a name that nothing else has; those that
    old files list among the inputs, so that they could be replaced, are no inputs any more.
    """
    names = _Names(model)
    common.RemoveInitializersFromInputsPass()(model)
    common.LiftConstantsToInitializersPass()(model)
    for graph in model.graph.subgraphs():
        for name, value in list(graph.initializers.items()):
            if value.is_graph_output():  # it stays, and must not refer to a file beside the old graph
                value.const_value = ir.tensor(value.const_value.numpy(), name=name)
            else:
                value.name = names.free(name)
    common.LiftSubgraphInitializersToMainGraphPass()(model)


class _Names:
    """Names of values and nodes that a model has, in whichever graph of it."""

    def __init__(self, model: ir.Model) -> None:
        graphs = [model.graph, *model.graph.subgraphs()]
        values = [value for graph in graphs for value in (*graph.inputs, *graph.initializers.values())]
        values += [value for node in model.graph.all_nodes() for value in node.outputs]
        self._taken = {value.name for value in values} | {node.name for node in model.graph.all_nodes()}

    def free(self, name: str) -> str:
        """The name, or one like it, that nothing has; it is taken from now on."""
        spellings = (name, *(f"{name}_{n}" for n in range(1, len(self._taken) + 2)))
        chosen = next(one for one in spellings if one not in self._taken)
        self._taken.add(chosen)
        return chosen


def matrices(model: ir.Model, excluded: Collection[str] = ()) -> dict[str, Matrix]:
    """Every weight of a MatMul, a Gemm or an embedding's Gather that is a matrix of floats, by its name.

    Where some of its users read it as [N, K] and others as [K, N], it is quantized for those that come first.

    excluded: what nodes are called that go on using it as it is; a weight that only such nodes use is left out.
    """
    users: dict[str, list[ir.Node]] = {}
    for node in model.graph.all_nodes():
        value = _weight_of(node)
        is_own = value is not None and model.graph.initializers.get(str(value.name)) is value
        if is_own and value is not None and not value.is_graph_input() and label(node) not in excluded:
            users.setdefault(str(value.name), []).append(node)
    by_name = {}
    for name, nodes in users.items():
        for use in dict.fromkeys(map(_use_of, nodes)):
            rows = _rows_of(model.graph.initializers[name], use)
            if rows is not None:
                alike = tuple(node for node in nodes if _use_of(node) == use)
                by_name[name] = Matrix(label(alike[0]), name, rows, alike)
                break
    return by_name


class _Use(NamedTuple):
    """How a node reads its weight. flipped: as [K, N], not as [N, K]."""

    is_product: bool
    flipped: bool


def _use_of(node: ir.Node) -> _Use:
    if node.op_type == "Gemm":
        return _Use(is_product=True, flipped=not _number(node, "transB", 0))
    is_product = node.op_type == "MatMul"
    return _Use(is_product, flipped=is_product)


def _number(node: ir.Node, key: str, default: float) -> float:
    """An attribute of a node that is a number."""
    attribute = node.attributes.get(key)
    return default if attribute is None else float(attribute.value)


def _is_plain_gemm(node: ir.Node) -> bool:
    """Whether a Gemm is A B + C, with B as it is or transposed: what torch makes of a linear layer."""
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    scaled = _number(node, "alpha", 1) != 1 or (has_bias and _number(node, "beta", 1) != 1)
    return not scaled and not _number(node, "transA", 0) and "broadcast" not in node.attributes  # of opset 6


def _weight_of(node: ir.Node) -> ir.Value | None:
    """The input of a node that may be a weight; None of a product of vectors, which its quantized form has not."""
    place = {"MatMul": 1, "Gemm": 1, "Gather": 0}.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if place is None or len(node.inputs) <= place or (node.op_type == "Gemm" and not _is_plain_gemm(node)):
        return None
    given = node.inputs[0]
    is_vector = place == 1 and given is not None and given.shape is not None and given.shape.rank() == 1
    return None if is_vector else node.inputs[place]


def _rows_of(value: ir.Value, use: _Use) -> Rows | None:
    """The matrix [N, K] of a parameter, or of a float weight that the products of a finished graph read."""
    tensor = value.const_value
    lazy = lazy_weight_of(tensor)
    if lazy is not None:
        return lazy.rows if lazy.rows is not None and lazy.flipped == use.flipped else None
    if not use.is_product or tensor.dtype not in _TORCH or len(tensor.shape) != 2:
        return None
    n_rows, width = reversed(tensor.shape.numpy()) if use.flipped else tensor.shape.numpy()
    dtype = _TORCH[tensor.dtype]

    def read() -> torch.Tensor:
        raw = torch.frombuffer(bytearray(tensor.tobytes()), dtype=dtype)
        return raw.view(width, n_rows).T if use.flipped else raw.view(n_rows, width)

    source = LazyTensor(str(value.name), (n_rows, width), str(dtype).removeprefix("torch."), read)
    return Rows((Piece(source, 0, n_rows, dtype),))


def quantize_graph(model: ir.Model, chosen: Iterable[tuple[Matrix, Choice]], accuracy_level: int) -> list[Job]:
    """Replace the matrices by their formats; gives the jobs that compute the new initializers."""
    jobs: list[Job] = []
    graph, names = model.graph, _Names(model)
    graph.opset_imports.setdefault("com.microsoft", 1)
    tied = next((node for node in graph if node.op_type == EMBEDDING_GATHER), None)
    for matrix, choice in chosen:
        stored = _Stored(model, matrix, choice, names)
        for node in matrix.users:
            if _use_of(node).is_product:
                _replace_product(node, stored, accuracy_level, names)
            else:
                _replace_gather(node, stored, names)
        if tied is not None and matrix.node == "/lm_head/MatMul":
            _share(graph, tied, stored)
        jobs += stored.jobs()
    _drop_unused(graph)
    return jobs


def _replace_product(node: ir.Node, stored: "_Stored", accuracy_level: int, names: _Names) -> None:
    fmt = stored.choice.fmt
    attributes: dict[str, Any] = {
        "K": stored.matrix.width,
        "N": stored.matrix.n_rows,
        "bits": fmt.bits,
        "block_size": fmt.group,
    }
    if accuracy_level:
        attributes["accuracy_level"] = accuracy_level
    if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        node = _with_bias_apart(node, node.inputs[2], names)
    name = names.free(f"{label(node)}_Q{fmt.bits}")
    _replace(node, "MatMulNBits", name, [node.inputs[0], *stored.inputs()], attributes)


def _with_bias_apart(node: ir.Node, bias: ir.Value, names: _Names) -> ir.Node:
    """Put a product and an Add in the place of a Gemm; gives the product."""
    output, graph = node.outputs[0], node.graph
    if graph is None:
        raise ValueError(f"'{label(node)}' stands in no graph")
    product = ir.node("Gemm", inputs=node.inputs[:2], num_outputs=1, name=label(node))
    result = product.outputs[0]
    result.name, result.type, result.shape = names.free(f"{output.name}_product"), output.type, output.shape
    graph.insert_before(node, product)
    _replace(node, "Add", names.free(f"{label(node)}_bias"), [result, bias], {}, domain="")
    return product


def _replace_gather(node: ir.Node, stored: "_Stored", names: _Names) -> None:
    weight, *rest = stored.inputs(flat=True)
    fmt = stored.choice.fmt
    attributes = {"bits": fmt.bits, "block_size": fmt.group, "gather_axis": 0, "quantize_axis": 1}
    inputs = [weight, node.inputs[1], *rest]
    _replace(node, EMBEDDING_GATHER, names.free(f"{label(node)}_Q{fmt.bits}"), inputs, attributes)


def _share(graph: ir.Graph, gather: ir.Node, stored: "_Stored") -> None:
    """Let the embedding that the builder tied to the head read the head's bytes, whatever their format."""
    fmt, matrix = stored.choice.fmt, stored.matrix
    reshape = gather.inputs[0].producer()
    weight, *rest = stored.inputs()
    width = matrix.width * fmt.bits // 8
    if reshape is None or weight is None:
        raise ModelError("the builder's tied embedding has another form than expected")
    reshape.replace_input_with(0, weight)
    if list(reshape.outputs[0].shape or ()) != [matrix.n_rows, width]:
        constant = ir.node("Constant", [], {"value": ir.tensor(np.array([matrix.n_rows, width], np.int64))})
        constant.name = constant.outputs[0].name = f"{gather.name}/flat_shape"
        graph.insert_before(reshape, constant)
        reshape.replace_input_with(1, constant.outputs[0])
        reshape.outputs[0].shape = ir.Shape([matrix.n_rows, width])
    gather.resize_inputs(2 + len(rest))
    for place, value in enumerate(rest):
        gather.replace_input_with(2 + place, value)
    for key, number in (("bits", fmt.bits), ("block_size", fmt.group)):
        gather.attributes[key] = ir.AttrInt64(key, number)


def _replace(
    node: ir.Node,
    op_type: str,
    name: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any],
    domain: str = "com.microsoft",
) -> None:
    """Put a node in the place of another, in whichever graph that stands; its result keeps its name."""
    output, graph = node.outputs[0], node.graph
    if graph is None:
        raise ValueError(f"'{label(node)}' stands in no graph")
    ordered = dict(sorted(attributes.items()))
    new = ir.node(op_type, inputs=inputs, attributes=ordered, domain=domain, num_outputs=1, name=name)
    result = new.outputs[0]
    result.name, result.shape, result.type = output.name, output.shape, output.type
    graph.insert_after(node, new)
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def n_blocks(width: int, group: int) -> int:
    """Blocks of a row: MatMulNBits wants the last one whole, so that it is filled with zeros where it is not."""
    return -(-width // group)


class _Stored:
    """The initializers of one quantized matrix, declared by name, type and shape."""

    def __init__(self, model: ir.Model, matrix: Matrix, choice: Choice, names: _Names) -> None:
        self.matrix, self.choice = matrix, choice
        self._graph, self._free_names = model.graph, names
        fmt = choice.fmt
        self._n_blocks = n_blocks(matrix.width, fmt.group)
        self._row_bytes = self._n_blocks * fmt.group * fmt.bits // 8
        self._zero_bytes = (self._n_blocks * fmt.bits + 7) // 8
        self._float = model.graph.initializers[matrix.weight].const_value.dtype
        self._scale_type = ir.DataType.FLOAT16 if choice.half_scales else self._float
        self._declared: dict[str, ir.Value] = {}  # by their part: "weight", "scales", "zeros"
        self._inputs: list[ir.Value | None] = []

    def inputs(self, *, flat: bool = False) -> list[ir.Value | None]:
        """Weight, scales and zero points as values of the graph, declared on the first call.

        flat: the weight as [N, bytes] (an embedding) rather than [N, blocks, bytes of a block].
        """
        if not self._inputs:
            blocks = [self._n_blocks, self._row_bytes // self._n_blocks]
            shape = [self.matrix.n_rows, self._row_bytes] if flat else [self.matrix.n_rows, *blocks]
            name = f"{self.matrix.weight}_Q{self.choice.fmt.bits}"
            self._inputs = [self._declare("weight", name, ir.DataType.UINT8, shape), self._scales()]
            if not self.choice.fmt.symmetric:
                name, shape = f"{self.matrix.weight}_zero_points", [self.matrix.n_rows, self._zero_bytes]
                self._inputs.append(self._declare("zeros", name, ir.DataType.UINT8, shape))
        return list(self._inputs)

    def _scales(self) -> ir.Value:
        name, shape = f"{self.matrix.weight}_scales", [self.matrix.n_rows, self._n_blocks]
        if self._scale_type == self._float:
            return self._declare("scales", name, self._float, shape)
        stored = self._declare("scales", f"{name}_16", self._scale_type, shape)
        cast = ir.node(
            "Cast", inputs=[stored], attributes={"to": int(self._float)}, num_outputs=1, name=f"/{name}/Cast"
        )
        result = cast.outputs[0]
        result.name = self._free_names.free(name)
        result.shape, result.type = ir.Shape(shape), ir.TensorType(self._float)
        self._graph.insert_before(self._graph[0], cast)
        return result

    def _declare(self, part: str, name: str, dtype: ir.DataType, shape: list[int]) -> ir.Value:
        name = self._free_names.free(name)
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        value.const_value = ir.LazyTensor(_never, dtype=dtype, shape=ir.Shape(shape), name=name)
        self._graph.register_initializer(value)
        self._declared[part] = value
        return value

    def jobs(self) -> list[Job]:
        """The work, in parts of whole rows where the checkpoint can be read so."""
        n_rows = self.matrix.n_rows
        tiled = self.choice.given is None and all(piece.source.read_rows for piece in self.matrix.rows.pieces)
        step = max(1, CHUNK // self.matrix.width) if tiled else n_rows
        return [QuantizeRows(self, start, min(start + step, n_rows), tiled=tiled) for start in range(0, n_rows, step)]

    @property
    def names(self) -> tuple[str, ...]:
        """Initializers of weight, scales and, of a format that has them, zero points."""
        return tuple(str(value.name) for value in self._declared.values())

    def write(self, write: Write, start: int, codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> None:
        """Write rows from `start` on."""
        fmt = self.choice.fmt
        weight_name, scales_name, *zeros_name = self.names
        stored = scales.to(_TORCH[self._scale_type])
        write(weight_name, start * self._row_bytes, pack(codes, fmt.bits).numpy())
        write(scales_name, start * self._n_blocks * stored.element_size(), stored.view(torch.uint8).numpy())
        if not fmt.symmetric:
            write(zeros_name[0], start * self._zero_bytes, pack(zeros, fmt.bits).numpy())


_TORCH = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
}


def _never() -> Any:
    raise AssertionError("a declared initializer is written by its job")


@dataclass(frozen=True)
class QuantizeRows:
    """Some rows of one matrix, quantized tile by tile."""

    stored: _Stored
    start: int
    stop: int
    tiled: bool

    @property
    def fills(self) -> Sequence[str]:
        """Weight, scales and zero points."""
        return self.stored.names

    @property
    def n_bytes(self) -> int:
        """A tile as it is read, in float32 and as codes; or the whole matrix where it cannot be read in parts."""
        return (TILE if self.tiled else self.n_weights) * 8

    @property
    def n_weights(self) -> int:
        """Weights of these rows, which share the work of an export."""
        return (self.stop - self.start) * self.stored.matrix.width

    def announce(self) -> None:
        """Let the system read these rows."""
        if self.stored.choice.given is None:
            self.stored.matrix.rows.announce(self.start, self.stop)

    def run(self, write: Write) -> None:
        """Read the rows, choose or take over their codes, pack them, and write codes, scales and zero points."""
        choice, matrix = self.stored.choice, self.stored.matrix
        if choice.given is not None:
            self._take_over(write, choice.given())
            return
        importance = self._importance() if choice.search else None
        step = max(1, TILE // matrix.width)
        whole = None if self.tiled else matrix.rows.read(self.start, self.stop)
        work = _Buffers.of(min(step, self.stop - self.start), matrix.width, choice.fmt.group)
        for start in range(self.start, self.stop, step):
            stop = min(start + step, self.stop)
            part = work.first(stop - start)
            inputs = part.weight[:, : matrix.width]  # what fills the last block stays zero
            if whole is None:
                matrix.rows.read_into(inputs, start, stop)
            else:
                inputs.copy_(whole[start - self.start : stop - self.start])
            if not bool(torch.isfinite(part.weight.sum())):
                _refuse_unusable(matrix.rows, start, part.weight)
            self._quantize(write, start, part, importance)

    def _importance(self) -> Array:
        """That of every column of a row, the zeros that fill its last block included: these are right in any case."""
        choice, width = self.stored.choice, self.stored.matrix.width
        n_filled = n_blocks(width, choice.fmt.group) * choice.fmt.group - width
        return np.pad(importance_of(choice.importance, width), (0, n_filled), constant_values=1)

    def _quantize(self, write: Write, start: int, part: "_Buffers", importance: Any) -> None:
        """Quantize the rows of `part` and write them."""
        weight, codes, scales, zeros = (tensor.numpy() for tensor in part)
        choice = self.stored.choice
        quantize_rows(weight, choice.fmt, importance, codes, scales, zeros, half_scales=choice.half_scales)
        self.stored.write(write, start, part.codes, part.scales, part.zeros)

    def _take_over(self, write: Write, given: Blockwise) -> None:
        zeros = given.zero_points
        if zeros is None:
            zeros = torch.full(given.scales.shape, self.stored.choice.fmt.middle, dtype=torch.uint8)
        self.stored.write(write, 0, given.codes, given.scales, zeros)


class _Buffers(NamedTuple):
    """Memory of one tile, used again for the next: fresh pages would cost more than the arithmetic."""

    weight: torch.Tensor
    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor

    @classmethod
    def of(cls, n_rows: int, width: int, group: int) -> "_Buffers":
        """For up to `n_rows` rows, each of whole blocks."""
        blocks = n_blocks(width, group)
        return cls(
            torch.zeros((n_rows, blocks * group), dtype=torch.float32),
            torch.empty((n_rows, blocks * group), dtype=torch.uint8),
            torch.empty((n_rows, blocks), dtype=torch.float32),
            torch.empty((n_rows, blocks), dtype=torch.uint8),
        )

    def first(self, n_rows: int) -> "_Buffers":
        """The same memory for fewer rows."""
        return _Buffers(*(tensor[:n_rows] for tensor in self))


def _refuse_unusable(rows: Rows, start: int, tile: torch.Tensor) -> None:
    """Raise ModelError that names the tensor with the first NaN or infinity, when there is one."""
    bad = (~torch.isfinite(tile)).any(dim=1).nonzero()
    if len(bad):
        raise NotFiniteError(f"the weight '{_owner(rows, start + int(bad[0]))}' holds NaN or infinity")


def _owner(rows: Rows, row: int) -> str:
    """The checkpoint's tensor that a row belongs to."""
    for piece in rows.pieces:
        row -= piece.stop - piece.start
        if row < 0:
            return piece.source.name
    raise IndexError(row)


def _drop_unused(graph: ir.Graph) -> None:
    """Forget the float weights that no node uses any more, in this graph or those in it."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]

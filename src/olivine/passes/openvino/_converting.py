"""From a checkpoint, a script's module or an ONNX graph to a model of openvino in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.interface import text_signature
from olivine.models.io_config import Example
from olivine.models.onnx_files import check_onnx, graph_of
from olivine.models.signature import Signature
from olivine.passes.graph.convert import told_of
from olivine.passes.openvino._shapes import Shapes, fixed, named_shapes
from olivine.work import Context


@dataclass(frozen=True)
class Wishes:
    """What a config says of a conversion.

    shapes: of inputs, as they are in the result. sizes: of an example that is traced, by the names of inputs. example:
    inputs that a script gives. outputs: those that are kept.
    """

    shapes: Shapes = field(default_factory=dict)
    sizes: Shapes = field(default_factory=dict)
    example: Mapping[str, Example] = field(default_factory=dict)
    outputs: Sequence[str] | None = None


def converted(model: Model, context: Context, wishes: Wishes) -> tuple[Any, Mapping[str, Any]]:
    """The model, and facts of how it was made."""
    ir, facts = _of_graph(model, wishes) if model.format == "onnx" else _of_module(model, context, wishes)
    return ir, facts


def _of_graph(model: Model, wishes: Wishes) -> tuple[Any, Mapping[str, Any]]:
    from olivine.exporting import openvino_ir
    from olivine.models.interface import signature_of

    check_onnx(model)
    ir = openvino_ir.from_onnx(graph_of(model))
    openvino_ir.name_ends(ir)
    if wishes.outputs is not None:
        ir = openvino_ir.keep_outputs(ir, wishes.outputs)
    signature = signature_of(model)
    if wishes.shapes and signature is not None:
        openvino_ir.reshaped(ir, named_shapes(signature, wishes.shapes))
    return ir, {"from": "onnx"}


def _of_module(model: Model, context: Context, wishes: Wishes) -> tuple[Any, Mapping[str, Any]]:
    from olivine.exporting import openvino_ir
    from olivine.exporting.torch_export import OPENVINO, Request, export
    from olivine.models.io_config import sizes_by
    from olivine.models.loading import load_module

    shown = wishes.example if model.format == "script" else None  # of others it is known what they take
    told = told_of(model, context.models.get("input"), shown)
    signature = fixed(told.signature, named_shapes(told.signature, wishes.shapes))
    traced = named_shapes(signature, wishes.sizes)
    sizes = {**told.sizes, **sizes_by(signature, None, {**_as_examples(traced), **wishes.example})}
    module = load_module(model, attention=told.load.get("attn_implementation", "eager"))
    request = Request(module, signature, wishes.outputs or told.outputs, 0, sizes=sizes)
    exported = export(request, context.scratch, OPENVINO, context.report.note)
    facts = {"exporter": exported.exporter, "largest_difference": exported.difference}
    return openvino_ir.read(exported.path), facts


def _as_examples(shapes: Mapping[str, list[int]]) -> dict[str, Example]:
    return {name: Example(tuple(max(1, size) for size in sizes), "") for name, sizes in shapes.items()}


def signature_before(facts: ModelFacts) -> Signature | None:
    """What the model takes, as far as a plan knows it."""
    return facts.signature or (text_signature(facts.decoder.vocab_size) if facts.decoder else None)

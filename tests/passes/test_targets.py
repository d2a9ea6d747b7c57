"""What the int4 export writes for each execution provider: the forms that its kernels run fast."""

from dataclasses import replace

import onnx_ir
import pytest

from olivine.models import Model
from olivine.passes import Context, Machine, passes
from olivine.work import Silent
from tiny import tiny_model

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
FLOAT, HALF = onnx_ir.DataType.FLOAT, onnx_ir.DataType.FLOAT16
# provider -> accuracy level, whether blocks have zero points, type of the activations and of the scales beside them
FORMS = {
    "CPUExecutionProvider": (4, True, FLOAT),
    "CUDAExecutionProvider": (0, False, HALF),
    "DmlExecutionProvider": (0, False, HALF),
    "WebGpuExecutionProvider": (4, False, HALF),
}


@pytest.fixture(scope="module", params=FORMS)
def built(request, tmp_path_factory):
    """The provider, and the graph of a model whose head is in 8 bits and whose embedding is its own."""
    folder = tmp_path_factory.mktemp("targets")
    model = Model("hf", tiny_model(folder / "model", hidden_size=128))
    step = passes.classes["build"](
        passes.classes["build"].Params(precision="int4", head_bits=8, calibration_tokens=512)
    )
    context = Context(
        folder / "built", folder / "scratch", replace(MACHINE, execution_provider=request.param), Silent()
    )
    for made in (context.output, context.scratch):
        made.mkdir()
    step.ensures(step.run(model, context))
    return request.param, onnx_ir.load(context.output / "model.onnx").graph


def test_matrices_have_the_form_that_the_provider_runs_fast(built):
    provider, graph = built
    level, has_zeros, dtype = FORMS[provider]
    nodes = [node for node in graph.all_nodes() if node.op_type == "MatMulNBits"]
    assert {node.attributes.get_int("bits", 0) for node in nodes} == {4, 8}
    for node in nodes:
        activations, codes, scales, *rest = node.inputs
        assert node.attributes.get_int("accuracy_level", 0) == level
        assert node.attributes.get_int("block_size", 0) == (32 if node.attributes.get_int("bits", 0) == 4 else 128)
        assert (activations.dtype, codes.dtype, scales.dtype) == (dtype, onnx_ir.DataType.UINT8, dtype)
        assert [value.dtype for value in rest] == ([onnx_ir.DataType.UINT8] if has_zeros else [])
        assert "weight_prepacked" not in node.attributes  # a layout of one GPU generation; the runtime packs by itself


def test_scales_are_stored_in_16_bits_everywhere(built):
    """On CPUs, which compute in float32, beside a Cast that the runtime folds; GPUs take them as they are."""
    provider, graph = built
    scales = [value for name, value in graph.initializers.items() if "_scales" in name]
    assert scales
    assert {value.dtype for value in scales} == {HALF}
    casts = [node for node in graph if node.op_type == "Cast" and "scales" in str(node.name)]
    assert len(casts) == (len(scales) if provider == "CPUExecutionProvider" else 0)


def test_an_embedding_of_its_own_is_quantized_where_its_kernel_is(built):
    provider, graph = built
    node = next(node for node in graph if "Gather" in node.op_type and "embed_tokens" in str(node.name))
    assert node.op_type == ("GatherBlockQuantized" if provider == "CPUExecutionProvider" else "Gather")

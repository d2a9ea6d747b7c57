"""Small ONNX graphs that are no decoders, made in milliseconds."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

N_TOKENS, WIDTH, N_CLASSES = 40, 32, 3


def value(name, shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def weight(name, *shape, seed=0):
    array = np.random.default_rng([seed, *name.encode()]).normal(size=shape).astype(np.float32)
    return numpy_helper.from_array(array / np.float32(np.sqrt(shape[0])), name)


def save(path: Path, nodes, inputs, outputs, stored, **external) -> Path:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, stored)
    path.parent.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path, **external)
    return path


def text_classifier(path: Path, *, last="classify", **external) -> Path:
    """Token ids to the scores of three classes: the mean of the tokens that are no padding, a layer, the classes."""
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["states"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["states", "column"], ["kept"]),
        helper.make_node("ReduceMean", ["kept", "middle"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "layer"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "classes"], ["logits"], name=last),
    ]
    inputs = [value(name, ["batch", "sequence"], TensorProto.INT64) for name in ("input_ids", "attention_mask")]
    stored = [
        *(weight("embedding", N_TOKENS, WIDTH), weight("layer", WIDTH, WIDTH), weight("classes", WIDTH, N_CLASSES)),
        *(numpy_helper.from_array(np.array([axis]), name) for name, axis in (("last", -1), ("middle", 1))),
    ]
    return save(path, nodes, inputs, [value("logits", ["batch", N_CLASSES])], stored, **external)


def logits_of(path: Path, ids):
    """The oracle, in numpy."""
    stored = {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
    pooled = stored["embedding"][ids].mean(axis=-2)
    return np.tanh(pooled @ stored["layer"]) @ stored["classes"]

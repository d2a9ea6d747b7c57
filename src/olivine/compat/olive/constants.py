"""Names of frameworks, as scripts compare them."""

from enum import StrEnum


class Framework(StrEnum):
    """What runs a model."""

    ONNX = "ONNX"
    PYTORCH = "PyTorch"
    OPENVINO = "OpenVINO"
    QNN = "QNN"
    TENSORFLOW = "TensorFlow"


class ModelFileFormat(StrEnum):
    """How the files of a model lie."""

    ONNX = "ONNX"
    PYTORCH_ENTIRE_MODEL = "PyTorch.EntireModel"
    PYTORCH_STATE_DICT = "PyTorch.StateDict"
    PYTORCH_TORCH_SCRIPT = "PyTorch.TorchScript"

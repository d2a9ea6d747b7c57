"""Handlers of models, by which scripts annotate their arguments; what they are given has these attributes."""

from typing import Any


class OliveModelHandler:
    """A model as a script gets it."""

    def __init__(self, model_path: str = "", **attributes: Any) -> None:
        self.model_path = model_path
        self.model_attributes: dict[str, Any] = attributes.pop("model_attributes", None) or {}
        self.__dict__.update(attributes)


class PyTorchModelHandler(OliveModelHandler):
    """A model of PyTorch."""


class HfModelHandler(OliveModelHandler):
    """A model of transformers."""


class ONNXModelHandler(OliveModelHandler):
    """A graph."""


class CompositeModelHandler(OliveModelHandler):
    """A model of several parts."""


OliveModel, PyTorchModel, ONNXModel = OliveModelHandler, PyTorchModelHandler, ONNXModelHandler

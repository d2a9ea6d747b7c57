"""What flows between steps: the record of a model, its facts, its weights by name."""

from olivine.models._model import ONNX_FILE, Format, Model

__all__ = ["ONNX_FILE", "Format", "Model"]

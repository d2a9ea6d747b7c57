"""What flows between steps: the record of a model, its facts, its weights by name."""

from olivine.models._model import GENAI_CONFIG, ONNX_FILE, OPENVINO_FILE, Format, Model

__all__ = ["GENAI_CONFIG", "ONNX_FILE", "OPENVINO_FILE", "Format", "Model"]

"""The tensors of a GGUF file by their Hugging Face names, each dequantized when it is read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError
from olivine.models.config import load_config
from olivine.models.gguf_header import GgufHeader, GgufTensor
from olivine.models.quantized.gguf import gguf_blockwise
from olivine.models.tensors import LazyTensor, Weights

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np, torch = lazy.module("numpy"), lazy.module("torch")


def gguf_weights(file: Path, config_folder: Path) -> Weights:
    """The tensors of a GGUF file under their Hugging Face names, dequantized to float32 when read.

    The names and the layout changes of llama.cpp's converter are undone with transformers' own tables.
    """
    header = GgufHeader.read(file)
    config, hf_names, processor = _gguf_names(config_folder)
    tensors: dict[str, LazyTensor] = {}
    for tensor in header.tensors.values():
        name = hf_names.get(tensor.name)
        if name is not None:
            blockwise = gguf_blockwise(file, tensor, processor)
            read = _gguf_reader(file, tensor, processor)
            tensors[name] = LazyTensor(name, tensor.shape, "float32", read, blockwise=blockwise)
    absent_if_tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    missing = sorted(set(hf_names.values()) - set(tensors) - absent_if_tied)
    if missing:
        raise ModelError(f"{file} lacks the weights {', '.join(missing[:5])}")
    return tensors


def _gguf_names(config_folder: Path) -> tuple[Any, dict[str, str], Any]:
    from transformers import AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    config = load_config(config_folder)
    processor = TENSOR_PROCESSORS.get(config.model_type, TensorProcessor)(config=config.to_dict())
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    return config, get_gguf_hf_weights_map(_Flat(config, skeleton.state_dict()), processor), processor


@dataclass(frozen=True)
class _Flat:
    """A model without submodules: transformers builds llama.cpp's table of names anew for each one, which is slow."""

    config: Any
    tensors: Mapping[str, Any]

    def state_dict(self) -> Mapping[str, Any]:
        """Every tensor by its full name."""
        return self.tensors

    def named_children(self) -> tuple[()]:
        """Nothing, so that its one table of names is that of the whole model."""
        return ()


def _gguf_reader(file: Path, tensor: GgufTensor, processor: Any) -> Callable[[], "torch.Tensor"]:
    def read() -> "torch.Tensor":
        from gguf import GGMLQuantizationType, dequantize

        raw = np.fromfile(file, dtype=np.uint8, count=tensor.n_bytes, offset=tensor.offset)
        kind = GGMLQuantizationType(tensor.type_number)
        values = dequantize(raw, kind).reshape(tensor.shape)
        values = processor.process(
            weights=values, name=tensor.name, tensor_key_mapping={}, parsed_parameters={}
        ).weights
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))

    return read

"""The weights of an adapter that are inputs of a graph: the file beside it that holds them, written and read.

`adapter_inputs.json` names the file and the inputs, so that a plan knows which inputs no row has to give.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError
from olivine.models.onnx_files import ADAPTER_INPUTS

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime
else:
    np, onnxruntime = lazy.module("numpy"), lazy.module("onnxruntime")

SUFFIXES: Mapping[str, str] = {"onnx_adapter": ".onnx_adapter", "numpy": ".npz", "safetensors": ".safetensors"}


def write(weights: Mapping[str, Any], folder: Path, form: str, *, are_inputs: bool) -> Path:
    """Write arrays in that form beside a graph. are_inputs: the graph takes them as inputs, which is noted."""
    path = folder / f"adapter_weights{SUFFIXES[form]}"
    if form == "onnx_adapter":
        adapter = onnxruntime.AdapterFormat()
        adapter.set_adapter_version(1)
        adapter.set_model_version(1)
        adapter.set_parameters({name: onnxruntime.OrtValue.ortvalue_from_numpy(one) for name, one in weights.items()})
        adapter.export_adapter(str(path))
    elif form == "numpy":
        np.savez(path, **weights)
    else:
        from safetensors.numpy import save_file

        save_file(dict(weights), path)
    if are_inputs:
        told = {name: {"shape": list(one.shape), "dtype": one.dtype.name} for name, one in weights.items()}
        content = {"file": path.name, "inputs": told}
        (folder / ADAPTER_INPUTS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> dict[str, Any]:
    """The arrays of a file, by their names; ModelError when it is none of these."""
    try:
        if path.suffix == SUFFIXES["onnx_adapter"]:
            adapter = onnxruntime.AdapterFormat.read_adapter(str(path))  # whose memory its values look at
            return {name: np.array(value.numpy()) for name, value in adapter.get_parameters().items()}
        if path.suffix == SUFFIXES["numpy"]:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        from safetensors.numpy import load_file

        return dict(load_file(path))
    except Exception as error:  # three libraries, none with a class of its own for what it cannot read
        raise ModelError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error

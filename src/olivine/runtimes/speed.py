"""How fast a model is as people run it: onnxruntime-genai for ONNX, transformers for the rest; one sequence at once."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from olivine import lazy
from olivine.models import Model
from olivine.models.config import load_config
from olivine.runtimes._base import timed
from olivine.runtimes.genai import GenaiRuntime
from olivine.runtimes.torch import TorchRuntime, default_device

if TYPE_CHECKING:
    import onnxruntime_genai
    import torch
else:
    torch, onnxruntime_genai = lazy.module("torch"), lazy.module("onnxruntime_genai")

_ROUNDS = 3  # the first warms up; of the others the best counts: a busy machine only ever slows down


def measure(model: Model, device: str | None, dtype: str, prompt: Sequence[int], n_new: int) -> dict[str, float]:
    """load_seconds, prefill_tokens_per_second (the prompt) and decode_tokens_per_second (`n_new` tokens after it)."""
    load_seconds, runtime = timed(_loader(model, device, dtype))
    rounds = [runtime.time(prompt, n_new) for _ in range(_ROUNDS)]
    prefill, decode = (min(seconds) for seconds in zip(*rounds[1:], strict=True))
    return {
        "load_seconds": load_seconds,
        "prefill_tokens_per_second": len(prompt) / prefill,
        "decode_tokens_per_second": n_new / decode,
    }


def _loader(model: Model, device: str | None, dtype: str) -> Callable[[], GenaiRuntime | TorchRuntime]:
    """What loads the model; everything is imported before, since an import is no part of a load."""
    if model.format == "onnx":
        _ = onnxruntime_genai.Model
        return lambda: GenaiRuntime(model.path)
    _import_code(model)
    place = device or default_device()
    return lambda: TorchRuntime(model, place, dtype)


def _import_code(model: Model) -> None:
    """Import the Python of the architecture and of adapters, which is otherwise imported when first used."""
    from transformers import AutoModelForCausalLM

    while model.format == "adapter" and model.base:
        import peft  # noqa: F401

        model = model.base
    config = load_config(model.path, trust_remote_code=model.trust_remote_code)
    with torch.device("meta"):
        AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)

"""How fast a model is as people run it: onnxruntime-genai for ONNX, transformers for the rest; one sequence at once."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.evaluate.parity._steppers import TorchStepper, torch_device
from olivine.models import Model
from olivine.models.config import load_config
from olivine.runtime import cache_length

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime_genai
    import torch
else:
    np, torch = lazy.module("numpy"), lazy.module("torch")
    onnxruntime_genai = lazy.module("onnxruntime_genai")

_ROUNDS = 3  # the first warms up; of the others the best counts: a busy machine only ever slows down


def measure(model: Model, device: str | None, dtype: str, prompt: Sequence[int], n_new: int) -> dict[str, float]:
    """load_seconds, prefill_tokens_per_second (the prompt) and decode_tokens_per_second (`n_new` tokens after it)."""
    if model.format == "onnx":
        _ = onnxruntime_genai.Model  # the import is not the load
        load_seconds, loaded = _timed(lambda: onnxruntime_genai.Model(str(model.path)))
        n_most = cache_length(model.path, len(prompt) + n_new + 1)
        rounds = [_genai_round(loaded, prompt, n_new, n_most) for _ in range(_ROUNDS)]
    else:
        _import_code(model)
        place = device or torch_device()
        load_seconds, stepper = _timed(lambda: TorchStepper(model, place, dtype))
        rounds = [_torch_round(stepper, prompt, n_new) for _ in range(_ROUNDS)]
    prefill, decode = (min(times) for times in zip(*rounds[1:], strict=True))
    return {
        "load_seconds": load_seconds,
        "prefill_tokens_per_second": len(prompt) / prefill,
        "decode_tokens_per_second": n_new / decode,
    }


def _import_code(model: Model) -> None:
    """The Python of the architecture and of adapters, which is imported when first used, is no part of a load."""
    from transformers import AutoModelForCausalLM

    while model.format == "adapter" and model.base:
        import peft  # noqa: F401

        model = model.base
    config = load_config(model.path, trust_remote_code=model.trust_remote_code)
    with torch.device("meta"):
        AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)


def _timed(action: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def _torch_round(stepper: TorchStepper, prompt: Sequence[int], n_new: int) -> tuple[float, float]:
    prefill, logits = _timed(lambda: stepper.feed([prompt], fresh=True, last_only=True))
    token = int(logits[0, -1].argmax())

    def write() -> None:
        nonlocal token
        for _ in range(n_new):
            token = int(stepper.feed([[token]], fresh=False)[0, -1].argmax())

    return prefill, _timed(write)[0]


def _genai_round(model: Any, prompt: Sequence[int], n_new: int, n_most: int) -> tuple[float, float]:
    params = onnxruntime_genai.GeneratorParams(model)
    # min_length: an end token must not cut the measurement short
    params.set_search_options(max_length=n_most, min_length=n_most, do_sample=False, num_beams=1)
    generator = onnxruntime_genai.Generator(model, params)
    ids = np.asarray(prompt, dtype=np.int32)
    prefill, _ = _timed(lambda: generator.append_tokens(ids))
    generator.generate_next_token()  # picks from the prompt's logits; those after it run the model

    def write() -> None:
        for _ in range(n_new):
            generator.generate_next_token()

    return prefill, _timed(write)[0]

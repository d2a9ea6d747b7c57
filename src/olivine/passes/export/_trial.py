"""The delivered folder, tried in onnxruntime-genai as a stranger would run it: in its own configuration."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir
    import onnxruntime_genai
else:
    np, onnx_ir = lazy.module("numpy"), lazy.module("onnx_ir")
    onnxruntime_genai = lazy.module("onnxruntime_genai")

N_PROMPT, N_WRITTEN = 5, 4
# a prompt longer than any window that is longer than this would take minutes for a large model
LONGEST_PROMPT = 1100


def check_generates(folder: Path, execution_provider: str) -> None:
    """Read a prompt and write tokens, then the same with a prompt beyond the attention window.

    Length and search are those of the folder. Skipped for a provider that is not here. Raises ModelError when the
    runtime refuses, or gives logits that are not numbers.
    """
    if execution_provider != "CPUExecutionProvider" and not _provider_is_here(execution_provider):
        return
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    model = onnxruntime_genai.Model(str(folder))
    longest = config["search"]["max_length"] - N_WRITTEN - 1
    lengths = [min(N_PROMPT, longest)]
    window = attention_window(folder / config["model"]["decoder"]["filename"])
    if 0 < window < min(longest, LONGEST_PROMPT):
        lengths.append(window + 1)
    for n_tokens in lengths:
        try:
            _write(model, config["model"], max(1, n_tokens))
        except RuntimeError as error:
            raise ModelError(
                f"the built model does not run: with a prompt of {n_tokens} tokens onnxruntime-genai says: {error}"
            ) from error


def _write(model: Any, config: dict[str, Any], n_tokens: int) -> None:
    """Read a prompt, then token after token, and choose one more as the folder's search does."""
    generator = onnxruntime_genai.Generator(model, onnxruntime_genai.GeneratorParams(model))
    begin = config.get("bos_token_id") or 0
    prompt = [begin, *((begin + 1 + place) % config["vocab_size"] for place in range(n_tokens - 1))]
    for part in [prompt, *([token] for token in prompt[:1] * (N_WRITTEN - 1))]:
        generator.append_tokens(np.asarray(part, dtype=np.int32))
        if not np.isfinite(np.asarray(generator.get_logits(), dtype=np.float32)).all():
            raise ModelError(f"the built model does not run: its logits after {n_tokens} tokens are not numbers")
    generator.generate_next_token()


def attention_window(graph: Path) -> int:
    """Tokens that the widest of the local attention layers sees; 0 without such layers."""
    nodes = onnx_ir.load(graph).graph.all_nodes()
    return max((node.attributes.get_int("local_window_size", 0) for node in nodes), default=0)


def _provider_is_here(execution_provider: str) -> bool:
    import onnxruntime

    return execution_provider in onnxruntime.get_available_providers()

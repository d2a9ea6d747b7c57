"""The delivered folder, tried in onnxruntime-genai as a stranger would run it: in its own configuration."""

from pathlib import Path
from typing import TYPE_CHECKING

from olivine import lazy
from olivine.errors import ModelError
from olivine.runtimes.genai import GenaiRuntime

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir
else:
    np = lazy.module("numpy")

N_PROMPT, N_WRITTEN = 5, 4
# a prompt longer than any window that is longer than this would take minutes for a large model
LONGEST_PROMPT = 1100


def check_generates(folder: Path, graph: "onnx_ir.Model", execution_provider: str) -> None:
    """Read a prompt and write tokens, then the same with a prompt beyond the attention window.

    Length and search are those of the folder. Skipped for a provider that is not here. Raises ModelError when the
    runtime refuses, or gives logits that are not numbers.
    """
    if execution_provider != "CPUExecutionProvider" and not _provider_is_here(execution_provider):
        return
    runtime = GenaiRuntime(folder)
    longest = runtime.config["search"]["max_length"] - N_WRITTEN - 1
    lengths = [min(N_PROMPT, longest)]
    window = attention_window(graph)
    if 0 < window < min(longest, LONGEST_PROMPT):
        lengths.append(window + 1)
    for n_tokens in lengths:
        try:
            _write(runtime, max(1, n_tokens))
        except RuntimeError as error:
            raise ModelError(
                f"the built model does not run: with a prompt of {n_tokens} tokens onnxruntime-genai says: {error}"
            ) from error


def _write(runtime: GenaiRuntime, n_tokens: int) -> None:
    """Read a prompt, then token after token, and choose one more as the folder's search does."""
    writing, config = runtime.begin(), runtime.config["model"]
    begin = config.get("bos_token_id") or 0
    prompt = [begin, *((begin + 1 + place) % config["vocab_size"] for place in range(n_tokens - 1))]
    for part in [prompt, *([token] for token in prompt[:1] * (N_WRITTEN - 1))]:
        writing.read(part)
        if not np.isfinite(writing.logits()).all():
            raise ModelError(f"the built model does not run: its logits after {n_tokens} tokens are not numbers")
    writing.write()


def attention_window(graph: "onnx_ir.Model") -> int:
    """Tokens that the widest of the local attention layers sees; 0 without such layers."""
    windows = (node.attributes.get_int("local_window_size", 0) for node in graph.graph.all_nodes())
    return max(windows, default=0)


def _provider_is_here(execution_provider: str) -> bool:
    import onnxruntime

    return execution_provider in onnxruntime.get_available_providers()

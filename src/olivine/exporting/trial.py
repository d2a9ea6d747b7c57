"""The delivered folder, tried on the runtime: whole as a stranger would run it, or a few layers at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from olivine import lazy
from olivine.errors import ModelError
from olivine.exporting import pieces
from olivine.exporting.sizes import PIECE_BYTES
from olivine.runtimes.genai import GenaiRuntime

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir
else:
    np = lazy.module("numpy")

N_PROMPT, N_WRITTEN = 5, 4
# a prompt longer than any window that is longer than this would take minutes for a large model
LONGEST_PROMPT = 1100
CPU = "CPUExecutionProvider"


def check_generates(
    folder: Path, graph: "onnx_ir.Model", execution_provider: str, piece_bytes: int = PIECE_BYTES
) -> None:
    """Read a prompt and go on with tokens, then the same with a prompt beyond the attention window.

    On CPUs, a graph whose weights are more than `piece_bytes` goes through onnxruntime in pieces of that size; then
    onnxruntime-genai opens the folder, whose weights are mapped and not read. Any other is run by onnxruntime-genai,
    with the folder's own search. The cache is as long as the text. Skipped for a provider that is not here. Raises
    ModelError when the runtime refuses, or gives logits that are not numbers.
    """
    if execution_provider != CPU and not _provider_is_here(execution_provider):
        return
    run = None
    if execution_provider == CPU and pieces.weight_bytes(graph) > piece_bytes:
        run = pieces.Run(graph, folder, piece_bytes)
    in_pieces = run is not None and run.is_possible
    runtime = GenaiRuntime(folder, only_to_look=in_pieces)
    for n_tokens in _lengths(runtime, graph):
        steps = _steps(runtime, n_tokens)
        try:
            writing = runtime.begin(max_length=runtime.cache_length(n_tokens + N_WRITTEN + 1))
            if run is not None and in_pieces:
                run.logits(steps)
                continue
            for step in steps:
                writing.read(step)
                if not np.isfinite(writing.logits()).all():
                    raise ModelError(f"the built model does not run: its logits after {n_tokens} tokens are no numbers")
            writing.write()
        except RuntimeError as error:
            raise ModelError(
                f"the built model does not run: with a prompt of {n_tokens} tokens onnxruntime-genai says: {error}"
            ) from error


def _lengths(runtime: GenaiRuntime, graph: "onnx_ir.Model") -> list[int]:
    """Tokens of the prompts to try."""
    longest = runtime.config["search"]["max_length"]
    if longest > runtime.context_length:
        context = runtime.context_length
        raise ModelError(
            f"the built model does not run: its max_length {longest} is more than its context of {context}"
        )
    room, window = max(1, longest - N_WRITTEN - 1), attention_window(graph)
    beyond = [window + 1] if 0 < window < min(room, LONGEST_PROMPT) else []
    return [min(N_PROMPT, room), *beyond]


def _steps(runtime: GenaiRuntime, n_tokens: int) -> list[Sequence[int]]:
    """A prompt of so many tokens, and tokens after it one by one."""
    config = runtime.config["model"]
    begin = config.get("bos_token_id") or 0
    prompt = [begin, *((begin + 1 + place) % config["vocab_size"] for place in range(n_tokens - 1))]
    return [prompt, *([begin] for _ in range(N_WRITTEN - 1))]


def attention_window(graph: "onnx_ir.Model") -> int:
    """Tokens that the widest of the local attention layers sees; 0 without such layers."""
    windows = (node.attributes.get_int("local_window_size", 0) for node in graph.graph.all_nodes())
    return max(windows, default=0)


def _provider_is_here(execution_provider: str) -> bool:
    import onnxruntime

    return execution_provider in onnxruntime.get_available_providers()

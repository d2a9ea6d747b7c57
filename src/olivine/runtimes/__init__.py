"""The one place that opens, feeds, decodes and times a model.

    path ─ opening.open_model ─> Model ─ opening.open_runtime ─┬─ torch ─> a checkpoint or adapter, in transformers
                                                              └─ onnx ──> the graph of an ONNX folder, in onnxruntime
                                         genai ─> an ONNX folder as it is delivered: its tokenizer, search and caches

`_base.Runtime` is what both give: logits of whole texts or going on from what was fed, text (greedy or sampled), and
times. `process` runs one in a process of its own, `chat` talks to a folder, `own_text` lets a model write what it is
calibrated with, `speed` says what it costs.
"""

from olivine.runtimes._base import Runtime, draw, until_end

__all__ = ["Runtime", "draw", "until_end"]

"""A checkpoint as an ONNX graph: what onnxruntime-genai's builder is given, how weights are rounded and written.

    genai_graph ─ builder_input, lazy_weights ─> nodes alone ─ quantize_graph, rounding ─> jobs ─ streaming ─> files
    proving: a small random model goes through the same; trial: the folder writes a token; delivered_*: its tokenizer

The passes that export say which of it is done; nothing here knows of passes.
"""

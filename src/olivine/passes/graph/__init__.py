"""Passes that make an ONNX graph, or another graph of one."""

"""Formats of quantized checkpoints, one file each."""

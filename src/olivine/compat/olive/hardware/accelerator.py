"""Where earlier releases had these names."""

from olive.hardware import AcceleratorSpec, Device  # type: ignore[import-not-found]

__all__ = ["AcceleratorSpec", "Device"]

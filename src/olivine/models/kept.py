"""Tensors that a killed step leaves for its next run: on the disk before they are named, and doubted when read."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from olivine.errors import ModelError
from olivine.models.json_files import is_file
from olivine.models.safetensors_header import read_safetensors_header

if TYPE_CHECKING:
    import torch


def keep(file: Path, tensors: "Mapping[str, torch.Tensor]", metadata: Mapping[str, str] | None = None) -> None:
    """Write the file whole or not at all, power loss included."""
    from safetensors.torch import save_file

    partial = file.with_suffix(".partial")
    separate = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(separate, partial, metadata=dict(metadata) if metadata is not None else None)
    with partial.open("rb+") as written:
        os.fsync(written.fileno())
    partial.replace(file)


def is_whole(file: Path) -> bool:
    """Whether the file is there and reads as what `keep` writes; one that is damaged counts as none."""
    try:
        return is_file(file) and bool(read_safetensors_header(file))
    except (ModelError, OSError):
        return False


def kept(file: Path) -> "dict[str, torch.Tensor]":
    """What `keep` wrote, nothing when that is not there or damaged: then it is computed again."""
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = load_file(file) if is_whole(file) else {}
    return tensors

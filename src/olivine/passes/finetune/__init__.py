"""Passes that train."""

from olivine.passes.finetune._training_arguments import split_seed

__all__ = ["split_seed"]

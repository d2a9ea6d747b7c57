"""Passes that train a model or an adapter of it, and the merge of the two."""

from olivine.training.training_arguments import split_seed

__all__ = ["split_seed"]

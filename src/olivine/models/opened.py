"""An input model that a job opens once, however many of its parts read it."""

from functools import cached_property
from typing import Any

from olivine.models._model import Model
from olivine.models.loading import load_tokenizer
from olivine.models.tensors import Weights
from olivine.models.weights import weights


class Opened:
    """A model with its tensors and its tokenizer, each opened when it is first asked for."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @cached_property
    def weights(self) -> Weights:
        """The lazy tensors, see `weights`."""
        return weights(self.model)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's own, or its base's, as `load_tokenizer` gives it."""
        return load_tokenizer(self.model)

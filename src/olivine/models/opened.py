"""An input model that a job opens once, however many of its parts read it."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from olivine.models._model import Model

if TYPE_CHECKING:
    from olivine.models.tensors import Weights


class Opened:
    """A model with its tensors and its tokenizer, each opened when it is first asked for."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @cached_property
    def weights(self) -> "Weights":
        """The lazy tensors, see `weights`."""
        from olivine.models.weights import weights

        return weights(self.model)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's own, or its base's, as `load_tokenizer` gives it."""
        from olivine.models.loading import load_tokenizer

        return load_tokenizer(self.model)

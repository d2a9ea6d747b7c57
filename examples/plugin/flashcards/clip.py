"""Clip: weights that lie far out are cut, so that those between them keep more of 4 bits."""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from olivine import lazy
from olivine.models import Model
from olivine.models.materialize import copy_companions, write_weights
from olivine.models.tensors import LazyTensor
from olivine.models.weights import weights
from olivine.passes import Context, Pass, PassParams

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")


class Clip(Pass):
    """Cut the weights of every matrix at a number of standard deviations."""

    class Params(PassParams):
        """Where to cut."""

        deviations: float = Field(4.0, gt=0, description="standard deviations of a matrix at which its weights are cut")

    params: Params
    example: ClassVar = {"deviations": 4.0}
    accepts = frozenset({"hf"})
    produces = "hf"
    libraries = ("torch",)

    def run(self, model: Model, context: Context) -> Model:
        """Each tensor is computed when it is written: the model is never in memory as a whole."""
        copy_companions(model.path, context.output)
        write_weights([self._clipped(tensor) for tensor in weights(model).values()], context.output)
        return Model("hf", context.output)

    def _clipped(self, tensor: LazyTensor) -> LazyTensor:
        if len(tensor.shape) != 2:  # norms and biases stay
            return tensor

        def read() -> "torch.Tensor":
            values = tensor.read()
            most = self.params.deviations * values.float().std().item()
            return values.clamp(-most, most)

        return replace(tensor, read=read, read_rows=None, blockwise=None, announce=None)

"""What LoHa and LoKr share: PEFT's layers as they are, which write the update of a layer out as a matrix."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.errors import Problem
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.passes.finetune import _adapters, _checks
from olivine.passes.finetune._params import LycorisParams
from olivine.passes.finetune._training import Training
from olivine.training.precision import choose_dtype
from olivine.work import Context, Estimate, Machine

if TYPE_CHECKING:
    from olivine.passes.finetune import _session
else:
    _session = lazy.module("olivine.passes.finetune._session")


class Lycoris(Training):
    """Fine-tune with an adapter of PEFT's that writes the update of a layer out.

    A subclass brings its params, its docstring and the config that it has in PEFT. factors: matrices of the rank that
    it has a layer.
    """

    Params: ClassVar[type[LycorisParams]] = LycorisParams
    factors: ClassVar[int]
    params: LycorisParams

    @abstractmethod
    def config(self, trained_modules: Mapping[str, Any]) -> Any:
        """PEFT's config of the adapter; trained_modules: its fields that say which modules are trained."""

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """training_args by name and type, and target modules against the layers that the model has."""
        yield from _checks.check_adapter(self.params, facts, machine, self.name)
        yield from _checks.check_lycoris(self.params, facts, self.name)

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:
        """As LoRA's, with `factors` matrices a layer and the update of every layer as a matrix."""
        return _adapters.estimate(self.params, facts, machine, data, factors=self.factors, writes_update=True)

    def run(self, model: Model, context: Context) -> Model:
        """Train and save the adapter beside the tokenizer it was trained with."""
        params = self.params
        if params.compile == "auto":
            # PEFT asks for a random number in the middle of each layer, which breaks a compiled layer into pieces
            params = params.model_copy(update={"compile": False})
        return _session.run(self, self.params, model, context, lambda *given: self._ready(params, *given))

    def _ready(self, params: LycorisParams, model: Model, context: Context) -> "_session.Ready":
        from olivine.training.setup import Settings

        dtype = choose_dtype(params.torch_dtype, model, context.machine)
        base = _adapters.load_base(params, model, context, dtype)
        adapted = _adapters.put_on(base, self.config(_adapters.trained_modules(params, base)))
        adapted = _adapters.make_ready(adapted, params, context, dtype)
        given = _session.base_settings(params, context)

        def save(tokenizer: Any) -> None:
            _adapters.save(adapted, tokenizer, context)

        sharded = _adapters.is_sharded(params, context)
        return _session.Ready(adapted, _adapters.result(model, context), save, Settings(**given, sharded=sharded))


def settings(params: LycorisParams) -> dict[str, Any]:
    """The fields that both of PEFT's configs have under the names of our params."""
    names = ("r", "alpha", "rank_dropout", "module_dropout", "use_effective_conv2d", "init_weights")
    given = {name: getattr(params, name) for name in (*names, "layers_to_transform", "layers_pattern")}
    return given | {"rank_pattern": dict(params.rank_pattern), "alpha_pattern": dict(params.alpha_pattern)}

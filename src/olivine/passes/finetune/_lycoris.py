"""What LoHa and LoKr share: PEFT's layers as they are, which write the update of a layer out as a matrix."""

from collections.abc import Callable, Mapping
from typing import Any

from olivine.config.schema import DataConfig
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.passes.finetune import _adapters, _session
from olivine.passes.finetune._params import LycorisParams
from olivine.passes.finetune._precision import choose_dtype
from olivine.work import Context, Estimate, Machine


def settings(params: LycorisParams) -> dict[str, Any]:
    """The fields that both of PEFT's configs have under the names of our params."""
    names = ("r", "alpha", "rank_dropout", "module_dropout", "use_effective_conv2d", "init_weights")
    given = {name: getattr(params, name) for name in (*names, "layers_to_transform", "layers_pattern")}
    return given | {"rank_pattern": dict(params.rank_pattern), "alpha_pattern": dict(params.alpha_pattern)}


def maker(
    params: LycorisParams, config: Callable[[Mapping[str, Any]], Any]
) -> Callable[[Model, Context], _session.Ready]:
    """What makes a model ready to train; config: PEFT's, given the fields that say which modules are trained."""
    if params.compile == "auto":
        # PEFT asks for a random number in the middle of each layer, which breaks a compiled layer into pieces
        params = params.model_copy(update={"compile": False})

    def make(model: Model, context: Context) -> _session.Ready:
        from olivine.passes.finetune._setup import Settings

        dtype = choose_dtype(params.torch_dtype, model, context.machine)
        base = _adapters.load_base(params, model, context, dtype)
        adapted = _adapters.put_on(base, config(_adapters.places(params, base)))
        adapted = _adapters.make_ready(adapted, params, context, dtype)
        given = _session.base_settings(params, context)

        def save(tokenizer: Any) -> None:
            _adapters.save(adapted, tokenizer, context)

        sharded = _adapters.is_sharded(params, context)
        return _session.Ready(adapted, _adapters.result(model, context), save, Settings(**given, sharded=sharded))

    return make


def estimate(
    params: LycorisParams, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig], *, factors: int
) -> Estimate:
    """LoRA's, with `factors` matrices of the rank a layer, and the update of every layer."""
    return _adapters.estimate(params, facts, machine, data, factors=factors, writes_update=True)

"""What the passes that quantize activations have in common: params of nncf.quantize, and how they are handed on."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from olivine.config.schema import DataConfig
from olivine.errors import Problem
from olivine.models.facts import ModelFacts
from olivine.passes.openvino._nncf import RoundingParams, RoundingPass, ignored, record_of
from olivine.work import Estimate, Machine

_ADVANCED = "advanced_quantization_parameters"
_PLAIN = ("subset_size", "fast_bias_correction")


class QuantizingParams(RoundingParams):
    """Names are those of Olive's OpenVINOQuantization, of all years."""

    model_type: Literal["TRANSFORMER"] | None = Field(
        None, description="TRANSFORMER: nncf's scheme for attention, which text encoders need"
    )
    preset: Literal["PERFORMANCE", "MIXED"] = Field(
        "PERFORMANCE", description="PERFORMANCE: symmetric; MIXED: asymmetric activations, more accurate and slower"
    )
    extra_configs: dict[str, Any] | None = Field(
        None, description="subset_size, fast_bias_correction and advanced_quantization_parameters of nncf.quantize"
    )

    @field_validator("model_type", "preset", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _older_forms(cls, values: Any) -> Any:
        """A list of settings is one; what Olive handed to openvino's older tool are params of today."""
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        extra = values.get("extra_configs")
        if isinstance(extra, list) and all(isinstance(one, Mapping) for one in extra):
            values["extra_configs"] = {key: value for one in extra for key, value in one.items()} or None
        engine = values.pop("engine_config", None)
        if isinstance(engine, Mapping) and engine.get("device"):
            values.setdefault("target_device", engine["device"])
        algorithms = values.pop("algorithms", None)
        for one in algorithms if isinstance(algorithms, list) else []:
            values = _of_algorithm(one, values)
        return values


_OLD = {"DefaultQuantization": ("preset", "target_device", "stat_subset_size", "model_type", "use_fast_bias")}


def _of_algorithm(one: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The params of an algorithm of openvino's older tool, as they are called today."""
    name = one.get("name") if isinstance(one, Mapping) else None
    if name not in _OLD:
        raise ValueError(
            f"the algorithm {name!r:.40} is not served; DefaultQuantization is, and "
            "OpenVINOQuantizationWithAccuracy is the pass that holds an accuracy"
        )
    given = one.get("params") or {}
    if unknown := next((key for key in given if key not in _OLD[name]), None):
        raise ValueError(f"'{unknown}' of {name} is not served; served are {', '.join(_OLD[name])}")
    renamed = {"stat_subset_size": "max_samples"}
    for key, value in given.items():
        if key == "use_fast_bias":
            values["extra_configs"] = {"fast_bias_correction": value, **(values.get("extra_configs") or {})}
        else:
            values.setdefault(renamed.get(key, key), value)
    return values


class QuantizingPass(RoundingPass):
    """A pass to a model that computes in 8 bits."""

    Params: ClassVar[type[QuantizingParams]] = QuantizingParams
    served: ClassVar[tuple[str, ...]] = (*_PLAIN, _ADVANCED)
    params: QuantizingParams

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:
        """Settings that are not served."""
        yield from super().check(facts, machine, data)
        for key in self.params.extra_configs or {}:
            if key not in self.served:
                message = f"'{key}' of extra_configs is not served."
                fix = f"Served are {', '.join(self.served)}."
                yield Problem("unsupported", self.name, message, fix, ("extra_configs",))

    def notes(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[str]:
        """That made-up rows tell little of the ranges of real ones."""
        yield from super().notes(facts, machine, data)
        if self.params.data_config is None:
            yield "calibrated on made-up rows: name rows of your own as data_config, whose ranges are those that count"

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """The libraries, the weights before, and those of what nncf works on."""
        weights = 4 * facts.n_parameters
        return Estimate(memory_bytes=int(1.2e9 + 4 * weights), disk_bytes=int(0.3 * weights))

    def forecast(self, facts: ModelFacts) -> ModelFacts:
        """A graph with weights of 8 bits."""
        return facts.as_graph(facts.signature, 1.1)

    def arguments(self, nncf: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
        """What nncf is asked for. changes: params that are others than the config's."""
        model_type = changes.get("model_type", self.params.model_type)
        preset = changes.get("preset", self.params.preset)
        extra = {key: value for key, value in (self.params.extra_configs or {}).items() if key in _PLAIN}
        return {
            "preset": nncf.QuantizationPreset(preset.lower()),
            "model_type": nncf.ModelType.TRANSFORMER if model_type else None,
            "target_device": nncf.TargetDevice(self.params.target_device.upper()),
            "ignored_scope": ignored(self.params.scopes),
            "subset_size": self.params.max_samples,
            **extra,
        }

    def advanced(self, nncf: Any, key: str = "advanced_parameters") -> dict[str, Any]:
        """Nncf's advanced settings under the name that the function has for them."""
        given = (self.params.extra_configs or {}).get(_ADVANCED)
        return {key: record_of(nncf.AdvancedQuantizationParameters, given, _ADVANCED)} if given else {}


def counted(result: Any) -> dict[str, int]:
    """How many quantizers a model has."""
    if hasattr(result, "graph"):
        return {"quantizers": sum(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in result.graph.node)}
    kinds = [one.get_type_name() for one in result.get_ops()]
    return {"quantizers": sum(kind in ("FakeQuantize", "FakeConvert") for kind in kinds)}

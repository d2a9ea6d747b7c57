"""The ladder of `olivine optimize`: what can be done to a model on this machine, the cheapest first, as a plain search.

    rtn ─> search ─> mixed ─> gptq ─> best ─> larger groups, back down in size ─> 6 bits ─> 8 bits ─> 16 bits

A rung is a chain of passes, and what is known of its result beforehand. All rungs become the alternatives of a config
whose sampler is `ladder`; the search measures what ships, and ends with the first rung that meets every goal.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from olivine.errors import RequestError
from olivine.models.facts import ModelFacts
from olivine.passes import Pass, passes
from olivine.systems import CPU
from olivine.workflow.steps import Plan
from olivine.workflow.units import readable_bytes

GROUPS = (32, 64, 128)  # of weights that share a scale; smaller ones where none of these divides a layer's width
PRECISIONS = ("int4", "int8", "fp16", "bf16", "fp32")
EVALUATOR = "goals"
_SMALLEST_GROUP = 16
_SCALE, _ZERO_POINT = 32, 4  # bits of a group
_MIXED_SHARE = 0.06  # of the weights, in 8 bits
_BETWEEN = 6.0  # bits of a weight, some of them in 4 and some in 8
_BITS = {"int4": 4, "int8": 8, "fp16": 16, "bf16": 16, "fp32": 32}
_RTN, _SEARCH, _MIXED, _GPTQ, _BEST, _MORE_BITS = range(6)  # effort: what has more is no worse at as many bits


@dataclass(frozen=True)
class Aim:
    """What the result must be; None where nothing is asked.

    max_drop: label accuracy that may be lost, as a share of 1. min_speedup: as a multiple of the input model's speed.
    precision: of weights, one of PRECISIONS; None: as few bits as do.
    """

    max_drop: float
    min_tokens_per_second: float | None = None
    min_speedup: float | None = None
    max_latency_ms: float | None = None
    max_size_bytes: float | None = None
    max_memory_bytes: float | None = None
    precision: str | None = None
    budget_seconds: float | None = None


@dataclass(frozen=True)
class Rung:
    """A chain of passes by the names of their steps, each with its params.

    bits: of a weight. effort, size: as of the sampler; a size of None is not foreseen.
    """

    name: str
    steps: Mapping[str, Mapping[str, Any]]
    bits: float
    effort: int
    size: float | None = None


@dataclass(frozen=True)
class Ladder:
    """Sections of the config that climbs. notes: what was chosen, in sentences."""

    sections: Mapping[str, Any]
    notes: Sequence[str] = field(default_factory=tuple)


def ladder(plan: Plan, aim: Aim) -> Ladder:
    """The passes, evaluator and search for the input model of a plan, which has no passes and names the scored rows.

    Raises RequestError where nothing gives the precision that is asked for.
    """
    rungs = list(_rungs(plan, aim))
    if not rungs:
        raise RequestError(f"nothing here makes a model in {aim.precision} of {_in_words(plan)}")
    slots = list(dict.fromkeys(name for rung in rungs for name in rung.steps))
    slots.sort(key=_SLOTS.index)
    metrics, note = _metrics(plan, aim)
    sections: dict[str, Any] = {
        "passes": {slot: _alternatives(slot, rungs) for slot in slots},
        "evaluators": {EVALUATOR: {"metrics": metrics}},
        "evaluator": EVALUATOR,
    }
    if len(rungs) > 1:
        sections["search_strategy"] = _strategy(sections["passes"], rungs, aim)
    return Ladder(sections, (note, *_too_large(rungs, aim.max_size_bytes)))


def _too_large(rungs: Sequence[Rung], max_bytes: float | None) -> Iterator[str]:
    """That no rung is foreseen to be as small as it must be: what is foreseen are the weights, without other files."""
    sized = [(rung.size, rung.name) for rung in rungs if rung.size is not None]
    if max_bytes is not None and sized and min(sized)[0] > max_bytes:
        size, name = min(sized)
        least, most = readable_bytes(size), readable_bytes(max_bytes)
        yield f"no rung is as small as {most}: the weights of the smallest, {name}, take about {least}"


_SLOTS = ("merge", "export", "quantize", "build")


def _alternatives(slot: str, rungs: Sequence[Rung]) -> Any:
    """What stands under the name of a step: one pass, or those of all rungs, None where one does without."""
    steps = {_label(rung, slot): rung.steps.get(slot) for rung in rungs}
    if len(steps) == 1:
        (only,) = steps.values()
        return {key: value for key, value in (only or {}).items() if key != "label"}
    return list(steps.values())


def _label(rung: Rung, slot: str) -> str:
    step = rung.steps.get(slot)
    return str(step["label"]) if step is not None else "none"


def _strategy(configs: Mapping[str, Any], rungs: Sequence[Rung], aim: Aim) -> dict[str, Any]:
    """How the rungs are climbed."""
    open_slots = [slot for slot, config in configs.items() if isinstance(config, list)]
    told: dict[str, Any] = {}
    for rung in rungs:
        point = {slot: _label(rung, slot) for slot in open_slots}
        told[rung.name] = {"point": point, "bits": round(rung.bits, 3), "effort": rung.effort}
        told[rung.name] |= {"size": round(rung.size)} if rung.size is not None else {}
    strategy = {
        "sampler": "ladder",
        "sampler_config": {"rungs": told, "sized": list(_SIZED)},
        "stop_when_goals_met": True,
        "include_pass_params": False,
    }
    if aim.budget_seconds is not None:
        strategy |= {"max_time": aim.budget_seconds, "end_at_max_time": True}
    return strategy


_SIZED = ("size_bytes", "peak_memory_bytes", "decode_tokens_per_second", "rows_per_second", "latency_p50")


def _metrics(plan: Plan, aim: Aim) -> tuple[list[dict[str, Any]], str]:
    """What is measured of each rung, with the goals; and by what worse is told, in a sentence."""
    quality, note = _quality(plan, aim.max_drop)
    rate = "rows" if _is_graph(plan) else "decode"
    size: dict[str, Any] = {"name": "size", "type": "size_on_disk", "priority": 2}
    if aim.max_size_bytes is not None:
        size["goal"] = {"type": "threshold", "value": aim.max_size_bytes}
    metrics = [quality, size]
    goals: list[dict[str, Any]] = []
    if aim.min_tokens_per_second is not None:
        goals.append({"type": "threshold", "value": aim.min_tokens_per_second})
    if aim.min_speedup is not None:
        goals.append({"type": "percent-min-improvement", "value": round(100 * (aim.min_speedup - 1), 9)})
    if goals:
        sub_types: list[dict[str, Any]] = [{"name": rate, "goal": goal} for goal in goals]
        sub_types[0]["priority"] = 3
        metrics.append({"name": "throughput", "type": "throughput", "sub_types": sub_types})
    if aim.max_latency_ms is not None:
        goal = {"type": "threshold", "value": aim.max_latency_ms}
        metrics.append({"name": "latency", "type": "latency", "sub_types": [{"name": "p50", "goal": goal}]})
    if aim.max_memory_bytes is not None:
        goal = {"type": "threshold", "value": aim.max_memory_bytes}
        metrics.append({"name": "memory", "type": "memory", "goal": goal})
    return metrics, note


def _quality(plan: Plan, max_drop: float) -> tuple[dict[str, Any], str]:
    """The number by which a model is worse, with its goal, and that in a sentence."""
    rows = plan.score
    has_labels = rows is not None and rows.data is not None and not rows.on_text
    if _is_graph(plan) and rows is not None:
        has_labels = bool(rows.target)
    if has_labels:
        goal = {"type": "max-degradation", "value": max_drop}
        told = f"label accuracy may be {100 * max_drop:g}pp less than the input model's at most"
        return _one("accuracy", "accuracy_score", goal), told
    if _is_graph(plan):
        told = f"no rows have labels: each step's outputs have a cosine of {1 - max_drop:g} at least to those before it"
        return _one("output_agreement", "cosine", {"type": "threshold", "value": round(1 - max_drop, 9)}), told
    goal = {"type": "percent-max-degradation", "value": 100 * max_drop}
    told = (
        f"no rows have answers: worse is told by perplexity, at most {100 * max_drop:g} % more than the input model's"
    )
    return _one("perplexity", "perplexity", goal), told


def _one(kind: str, sub_type: str, goal: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": kind, "type": kind, "sub_types": [{"name": sub_type, "priority": 1, "goal": dict(goal)}]}


def _in_words(plan: Plan) -> str:
    return plan.facts.in_words if plan.facts is not None else "that model"


def _is_graph(plan: Plan) -> bool:
    """Whether the result is a graph that gives numbers, not a model that writes text."""
    if plan.input_model is not None and plan.input_model.format == "onnx":
        return plan.input_model.packaging == "plain"
    return plan.facts is not None and plan.facts.kind != "decoder"


def _rungs(plan: Plan, aim: Aim) -> Iterator[Rung]:
    """What there is for the kind of model, in the order in which it is tried."""
    exporter = exporter_of(plan.facts) if plan.form != "onnx" else None
    asked = [aim.precision] if aim.precision is not None else _usual(plan, is_exported=exporter is not None)
    before = {"merge": {"type": "merge", "label": "merge"}} if plan.form == "adapter" else {}
    if exporter is not None:
        before = {**before, "export": {"type": exporter.name, "label": "export"}}
    is_graph = plan.form == "onnx" or exporter is not None
    rungs = _of_graphs(plan, asked, is_exported=exporter is not None) if is_graph else _of_decoders(plan, asked)
    for rung in rungs:
        yield Rung(rung.name, {**before, **rung.steps}, rung.bits, rung.effort, rung.size)


def _usual(plan: Plan, *, is_exported: bool) -> list[str]:
    """The precisions that are tried where none is asked for, by what there is and what the result runs on."""
    whole = ["fp16"] if plan.machine.execution_provider != CPU else []
    return ["int4", "int8", *whole, *(["fp32"] if is_exported else [])]


def exporter_of(facts: ModelFacts | None) -> type[Pass] | None:
    """The usual pass that makes a graph of a model that is no decoder; None where there is none, or it is one."""
    if facts is None or facts.kind == "decoder":
        return None
    fitting = (one for one in passes.classes.values() if one.produces == "onnx" and "hf" in one.accepts)
    return next((one for one in fitting if facts.kind in one.kinds), None)


def _of_decoders(plan: Plan, asked: Sequence[str]) -> Iterator[Rung]:
    """What ModelBuilder makes of a decoder, with and without a quantizing pass before it."""
    sizes = _Sizes(plan)
    if "int4" in asked:
        group, *larger = _groups(plan.facts)
        bits, gptq_mixed = _bits(group), _bits(group) + 4 * _MIXED_SHARE
        yield Rung(f"rtn-{group}", _int4("rtn", group, algorithm="default"), bits, _RTN)
        yield sizes.rung(f"search-{group}", _int4("search", group), bits, _SEARCH)
        yield sizes.rung(f"mixed-{group}", _int4("mixed", group), bits, _MIXED)
        yield sizes.rung(f"gptq-{group}", _rounded(group), bits, _GPTQ)
        yield sizes.rung(f"gptq-mixed-{group}", _rounded(group, int8_share=_MIXED_SHARE), gptq_mixed, _GPTQ)
        yield sizes.rung(f"best-{group}", _int4("best", group), bits, _BEST)
        for name, effort in (("search", _SEARCH), ("mixed", _MIXED), ("gptq", _GPTQ), ("best", _BEST)):
            for wide in larger:
                steps = _rounded(wide) if name == "gptq" else _int4(name, wide)
                yield sizes.rung(f"{name}-{wide}", steps, _bits(wide), effort)
        yield sizes.rung("6-bits", _int4("6-bits", group, algorithm="mixed", mixed_bits=_BETWEEN), _BETWEEN, _MIXED)
    for precision in ("int8", "fp16", "bf16", "fp32"):
        if precision in asked:
            yield sizes.rung(precision, _built(precision, precision=precision), _BITS[precision], _MORE_BITS)


def _of_graphs(plan: Plan, asked: Sequence[str], *, is_exported: bool) -> Iterator[Rung]:
    """What is made of the weights of a graph. is_exported: it is made on the way, and may ship as it is."""
    n = plan.facts.n_parameters if plan.facts is not None else 0

    def rung(name: str, effort: int, group: int, bits: int, **params: Any) -> Rung:
        step = {"type": "quantize_onnx", "label": name, "bits": bits, "block_size": group, **params}
        per_weight = bits + (_SCALE + (_ZERO_POINT if params.get("is_symmetric") is False else 0)) / group
        return Rung(name, {"quantize": step}, per_weight, effort, n * per_weight / 8 or None)

    if "int4" in asked:
        first, *larger = GROUPS
        yield rung(f"rtn-{first}", _RTN, first, 4, algorithm="RTN")
        yield rung(f"search-{first}", _SEARCH, first, 4, algorithm="search", is_symmetric=False)
        yield rung(f"search-{_SMALLEST_GROUP}", _SEARCH, _SMALLEST_GROUP, 4, algorithm="search", is_symmetric=False)
        for wide in larger:
            yield rung(f"search-{wide}", _SEARCH, wide, 4, algorithm="search", is_symmetric=False)
    if "int8" in asked:
        if plan.machine.execution_provider == CPU and _is_graph(plan):  # what reaches a product is rounded as well
            step = {"type": "OnnxDynamicQuantization", "label": "dynamic-int8"}
            yield Rung("dynamic-int8", {"quantize": step}, _BITS["int8"], _RTN, float(n) or None)
        yield rung("int8", _MORE_BITS, 32, 8, algorithm="RTN")
    if "fp16" in asked and _is_graph(plan):
        step = {"type": "OnnxFloatToFloat16", "label": "fp16"}
        yield Rung("fp16", {"quantize": step}, _BITS["fp16"], _MORE_BITS, 2.0 * n or None)
    if "fp32" in asked and is_exported:
        yield Rung("fp32", {}, 32, _MORE_BITS, 4.0 * n or None)


@dataclass(frozen=True)
class _Sizes:
    """Sizes that are foreseen: those of weights in layers, and of an embedding and head in 8 bits, or 16 on a GPU."""

    plan: Plan

    def rung(self, name: str, steps: Mapping[str, Mapping[str, Any]], bits: float, effort: int) -> Rung:
        """A rung with the size that it will have, where the model's own is known."""
        facts = self.plan.facts
        if facts is None or facts.decoder is None or not facts.n_parameters:
            return Rung(name, steps, bits, effort)
        least = 8 if self.plan.machine.execution_provider == CPU else 16
        outside = (facts.n_parameters - facts.n_in_layers) * max(least, bits)
        return Rung(name, steps, bits, effort, (facts.n_in_layers * bits + outside) / 8)


def _bits(group: int) -> float:
    """Of a weight in 4 bits, with its share of scale and zero point."""
    return 4 + (_SCALE + _ZERO_POINT) / group


def _int4(name: str, group: int, algorithm: str = "", **params: Any) -> dict[str, dict[str, Any]]:
    """What ModelBuilder rounds itself; `mixed` and `best` take the bytes that groups of that size would."""
    label = name if params else f"{name}-{group}"
    config = {"precision": "int4", "int4_block_size": group, "int4_algo_config": algorithm or name, **params}
    return {"build": {"type": "ModelBuilder", "label": label, **config}}


def _built(label: str, **params: Any) -> dict[str, dict[str, Any]]:
    return {"build": {"type": "ModelBuilder", "label": label, **params}}


def _rounded(group: int, **params: Any) -> dict[str, dict[str, Any]]:
    """A checkpoint that GPTQ rounded, whose codes ModelBuilder takes over."""
    name = f"gptq-mixed-{group}" if params else f"gptq-{group}"
    step = {"type": "gptq", "label": name, "bits": 4, "group_size": group, **params}
    return {"quantize": step, **_built("as-it-is", precision="int4")}


def _groups(facts: ModelFacts | None) -> list[int]:
    """Sizes of groups that divide the widths of a decoder's layers; the smallest of all where none does."""
    decoder = facts.decoder if facts is not None else None
    if decoder is None:
        return list(GROUPS)
    widths = [width for width in (decoder.hidden_size, decoder.intermediate_size) if width]
    return [size for size in GROUPS if not any(width % size for width in widths)] or [_SMALLEST_GROUP]

"""What the quantizing passes on Hugging Face models share: params, which weight gets which format, calibration."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from olivine import lazy
from olivine.calibration import eight_bits
from olivine.config.schema import DataConfig
from olivine.errors import DataError, ModelError, Problem, RequestError, Unsupported
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.kept import keep, kept
from olivine.models.weights import LazyTensor, Weights
from olivine.passes._base import Context, Estimate, PassParams
from olivine.passes.finetune import split_seed

if TYPE_CHECKING:
    import torch

    from olivine.calibration.gptq_layers import Quantized
    from olivine.kernels.blockwise import Blockwise, Format
    from olivine.models.quantized.write import ScaleType
else:
    torch = lazy.module("torch")

GroupSize = Literal[16, 32, 64, 128, 256]
GROUP_SIZES = (16, 32, 64, 128, 256)
WIDEST_DEFAULT = 128
HEAD = "lm_head.weight"


class Override(BaseModel):
    """What differs for the modules of one name or pattern."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bits: Literal[4, 8] | None = None
    group_size: GroupSize | None = None
    symmetric: bool | None = Field(None, validation_alias=AliasChoices("symmetric", "sym"))


class QuantizerParams(PassParams):
    """Names are those of Olive's quantizers."""

    bits: Literal[4, 8] = 4
    group_size: GroupSize | None = Field(
        None, description="weights that share one scale; 128, or the widest below it that divides every layer's width"
    )
    sym: bool = Field(False, description="no zero points; a little smaller and less accurate")
    lm_head: bool = Field(False, description="quantize the head as well, where it is not the embedding")
    embeds: bool = Field(False, description="quantize the embedding: ModelBuilder does, a checkpoint keeps it")
    modules_to_not_convert: list[str] | None = Field(
        None, description="modules to leave as they are: a part of their names, or 're:' and a pattern for all of it"
    )
    overrides: Mapping[str, Override] = Field(
        default_factory=dict,
        description="bits, group_size and symmetric for modules by their full name, or 're:' and a pattern",
    )
    mixed_precision: str | None = Field(
        None, description="algorithm of a SelectiveMixedPrecision before this pass, which picks weights for 8 bits"
    )


class CalibratedParams(QuantizerParams):
    """What a pass takes that has to see what reaches each layer."""

    data_config: str | None = Field(
        None, description="data to calibrate with; else the training data of an earlier step, else the model's own text"
    )
    calibration_text: Path | None = Field(None, description="a text file to calibrate with")
    calibration_tokens: int = Field(8192, ge=512, description="tokens to calibrate with")
    calibration_seed: int = Field(0, description="of the split, the order of rows, and the text that the model writes")
    calibration_held_out: float | None = Field(
        None, gt=0, description="rows of the data that are left out, as eval_dataset_size of the training step"
    )
    calibration_may_be_short: bool = Field(
        False, description="with too little of that data, calibrate with text of the model's own, and say so"
    )
    int8_share: float = Field(
        0.0, ge=0, le=1, description="share of the weights that go up to 8 bits, those with the largest error first"
    )


def inherited(earlier: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Calibrate with what was trained on, without the rows that were held out; keep in 8 bits what was picked."""
    picked = eight_bits.inherited(earlier, ranks=True)
    training = next((params for params in reversed(earlier) if params.get("train_data_config")), None)
    if training is None:
        return picked
    return picked | {
        "data_config": training["train_data_config"],
        "calibration_held_out": training.get("eval_dataset_size"),
        "calibration_may_be_short": True,
        "calibration_seed": split_seed(training.get("training_args", {})),
    }


def check(name: str, params: QuantizerParams, facts: ModelFacts) -> Iterator[Problem]:
    """What can be known to fail from the config alone."""
    widths = (("hidden_size", facts.hidden_size), ("intermediate_size", facts.intermediate_size))
    for key, width in widths:
        size = params.group_size
        if size is not None and width % size:
            fitting = [str(other) for other in GROUP_SIZES if width % other == 0]
            fix = f"Use {' or '.join(fitting)}." if fitting else "This model cannot be quantized in groups."
            message = f"group_size {size} does not divide the model's {key} {width}."
            yield Problem("invalid-value", name, message, fix, ("group_size",))
    if params.mixed_precision not in (None, *eight_bits.BY_PLACE):
        message = f"'{params.mixed_precision}' of SelectiveMixedPrecision ranks weights, which this pass does not."
        fix = "Use kquant, awq or gptq, or a high_precision algorithm there."
        yield Problem("unsupported", name, message, fix, ("mixed_precision",))
    if params.embeds:
        message = "embeds: true asks for a quantized embedding, which a checkpoint does not hold."
        yield Problem(
            "unsupported", name, message, "Remove it: ModelBuilder stores the embedding in 8 bits.", ("embeds",)
        )
    if params.lm_head and facts.tied_embeddings:
        message = "lm_head: true asks for a quantized head, but this model's head is its embedding."
        yield Problem("unsupported", name, message, "Remove it: ModelBuilder quantizes the two together.", ("lm_head",))
    for key in ("modules_to_not_convert", "overrides"):
        for pattern in getattr(params, key) or ():
            if pattern.startswith("re:") and not _compiles(pattern[3:]):
                message = f"the module pattern {pattern!r} is no regular expression."
                yield Problem("invalid-value", name, message, "Mend or remove it.", (key,))


def estimate(facts: ModelFacts, params: QuantizerParams, *, full: bool, on_cuda: bool) -> Estimate:
    """One layer, its statistics, and the activations of all tokens before and after it; the result on the disk."""
    embedding = facts.vocab_size * facts.hidden_size
    layer = (facts.n_parameters - embedding) / max(1, facts.n_layers) * 4
    size = 2 * embedding * 2 + facts.n_parameters * (0.63 if params.bits == 4 else 1.13)
    if not isinstance(params, CalibratedParams):
        return Estimate(memory_bytes=int(0.9e9 + 4 * layer), disk_bytes=int(size))
    activations = 3 * params.calibration_tokens * facts.hidden_size * 4
    hessians = 4 * max(facts.hidden_size, facts.intermediate_size) ** 2 * 4 if full else 0
    written = 0 if params.data_config or params.calibration_text else 2 * facts.n_parameters
    needed = max(2 * layer + activations + hessians + 4 * embedding, written)
    return Estimate(
        memory_bytes=int(0.9e9 + (layer if on_cuda else needed)),
        device_memory_bytes=int(needed) if on_cuda else 0,
        disk_bytes=int(size * (3 if full else 1)),
    )


def formats(model: Model, params: QuantizerParams) -> "dict[str, Format]":
    """The format of every weight that is to be quantized, by its name.

    Raises RequestError for a name that matches nothing, Unsupported for a group that divides no layer's width.
    """
    from olivine.calibration.decoder import linear_weights
    from olivine.kernels.blockwise import Format

    widths = linear_weights(model, head=params.lm_head)
    _refuse_unmatched([*(params.modules_to_not_convert or ()), *params.overrides], widths)
    kept = {name: width for name, width in widths.items() if not _excluded(name, params.modules_to_not_convert or ())}
    usual = params.group_size or _widest(kept.values())
    made: dict[str, Format] = {}
    picked = eight_bits.in_8_bits(params.mixed_precision, list(widths)) if params.mixed_precision else set()
    for name, width in kept.items():
        other = next((rule for key, rule in params.overrides.items() if _is(name, key)), Override())
        group = other.group_size or usual
        if width % group:
            raise Unsupported(
                f"group_size {group} does not divide the {width} inputs of '{name}'; leave group_size out"
            )
        symmetric = params.sym if other.symmetric is None else other.symmetric
        made[name] = Format(other.bits or (8 if name in picked else params.bits), group, symmetric)
    return made


def tokens(model: Model, params: CalibratedParams, context: Context) -> "torch.Tensor":
    """The calibration tokens, kept in the scratch folder: a run that was killed goes on with the same ones."""
    file = context.scratch / "tokens.safetensors"
    found = kept(file)
    if "tokens" in found:
        return found["tokens"]
    data = context.data.get(params.data_config or "")
    made = _tokens(model, params, context, data)
    keep(file, {"tokens": made})
    return made


def _tokens(model: Model, params: CalibratedParams, context: Context, data: DataConfig | None) -> "torch.Tensor":
    from olivine.calibration.tokens import calibration_tokens

    try:
        made = calibration_tokens(
            model,
            data=data,
            text=params.calibration_text,
            held_out=params.calibration_held_out if data is not None else None,
            n_tokens=params.calibration_tokens,
            seed=params.calibration_seed,
            device=context.machine.device,
            report=context.report,
        )
    except DataError as error:
        if data is None or not params.calibration_may_be_short:
            raise
        context.report.warn(f"calibrated with text that the model wrote: {error}")
        return _tokens(model, params, context, None)
    source = f"data config '{data.name}'" if data else str(params.calibration_text or "text that the model wrote")
    context.report.record(calibration={"tokens": made.numel(), "source": source})
    return made


def importances(model: Model, tokens: "torch.Tensor", context: Context) -> "dict[str, torch.Tensor]":
    """Of every linear layer's input; kept in the scratch folder."""
    from olivine.calibration.importances import importances as measured

    file = context.scratch / "importances.safetensors"
    found = kept(file)
    if not found:
        found = measured(model, tokens, device=context.machine.device, report=context.report)
        keep(file, found)
    return found


def promoted(
    formats: "Mapping[str, Format]", source: Weights, importances: "Mapping[str, torch.Tensor]", share: float
) -> "dict[str, Format]":
    """The formats with 8 bits for the weights whose outputs 4 bits damage most, up to that share of all weights.

    Weights that read one input (q, k and v; gate and up) go up together: runtimes join them to one matrix.
    """
    from olivine.kernels.blockwise import Format, search
    from olivine.kernels.hessian import output_error, promote

    units: dict[str, list[str]] = {}
    for name in (name for name, fmt in formats.items() if fmt.bits == 4):
        alike = (unit for unit, names in units.items() if _one_input(names[0], name, importances))
        units.setdefault(next(alike, name), []).append(name)
    scores: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for unit, names in units.items():
        lost = power = 0.0
        for name in names:
            weight = source[name].read().float()
            lost += output_error(
                weight - search(weight, formats[name], importances[name]).dequantized(), importances[name]
            )
            power += output_error(weight, importances[name])
            sizes[unit] = sizes.get(unit, 0) + weight.numel()
        scores[unit] = lost / power if power > 0 else 0.0
    chosen = {name for unit in promote(scores, sizes, int(share * sum(sizes.values()))) for name in units[unit]}
    return {name: Format(8, fmt.group, fmt.symmetric) if name in chosen else fmt for name, fmt in formats.items()}


def _one_input(first: str, second: str, importances: "Mapping[str, torch.Tensor]") -> bool:
    same_owner = first.rpartition(".")[0].rpartition(".")[0] == second.rpartition(".")[0].rpartition(".")[0]
    return same_owner and torch.equal(importances[first], importances[second])


def quantized(
    source: Weights,
    formats: "Mapping[str, Format]",
    method: Literal["rtn", "search"],
    importances: "Mapping[str, torch.Tensor] | None" = None,
) -> "Quantized":
    """The weights that have a format, quantized when they are asked for."""
    return {name: _lazily(source[name], fmt, method, (importances or {}).get(name)) for name, fmt in formats.items()}


def _lazily(
    tensor: LazyTensor, fmt: "Format", method: Literal["rtn", "search"], importance: "torch.Tensor | None"
) -> "Callable[[], Blockwise]":
    from olivine.kernels.blockwise import Blockwise, quantize

    def blockwise() -> Blockwise:
        try:
            return quantize(tensor.read(), fmt, method, importance, half_scales=method == "search")
        except ValueError as error:
            raise ModelError(f"'{tensor.name}' cannot be quantized: {error}") from error

    return blockwise


def finish(
    model: Model, source: Weights, made: "Quantized", context: Context, *, scales: "ScaleType" = "float16"
) -> Model:
    """Write the checkpoint: `made` quantized, its scales stored in that type, everything else as `source` has it."""
    from olivine.models.quantized.write import write_quantized

    tensors = {name: replace(tensor, blockwise=made.get(name)) for name, tensor in source.items()}
    written: Model = write_quantized(model, context.output, tensors, scale_dtype=scales)
    size = sum(file.stat().st_size for file in context.output.rglob("*") if file.is_file())
    context.report.record(n_quantized=len(made), size_bytes=size)
    return written


def _widest(widths: Iterable[int]) -> int:
    every = list(widths)
    fitting = [size for size in GROUP_SIZES if size <= WIDEST_DEFAULT and all(width % size == 0 for width in every)]
    if not fitting:
        raise Unsupported(f"no group size divides the widths {', '.join(map(str, sorted(set(every))))} of all layers")
    return max(fitting)


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _is(name: str, key: str) -> bool:
    return bool(re.fullmatch(key[3:], _module(name))) if key.startswith("re:") else _module(name) == key


def _excluded(name: str, patterns: Iterable[str]) -> bool:
    return any(_is(name, key) if key.startswith("re:") else key in _module(name) for key in patterns)


def _refuse_unmatched(keys: Iterable[str], names: Mapping[str, int]) -> None:
    for key in keys:
        if not any(_excluded(name, [key]) for name in names):
            example = _module(next(iter(names)))
            raise RequestError(f"no module that is quantized is named '{key}'; names look like '{example}'")


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True

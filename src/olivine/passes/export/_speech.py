"""ModelBuilder of a Whisper: what of its config and of the params the two graphs have no place for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olivine.errors import ModelError, Problem
from olivine.exporting import builder_options
from olivine.exporting.speech_input import SPEECH
from olivine.models.facts import ModelFacts
from olivine.models.json_files import is_file, read_object
from olivine.models.speech import prompt_of
from olivine.work import Machine

ARCHITECTURES = frozenset({SPEECH})
# execution provider -> precisions that the graphs are made in
_PRECISIONS = {
    "CPUExecutionProvider": ("fp32", "fp16", "int8", "int4"),
    "CUDAExecutionProvider": ("fp32", "fp16", "int8", "int4"),
    "DmlExecutionProvider": ("fp16", "int4"),
}
_FRAMES = 3000  # of the 30 seconds that the runtime's processor makes; two become a position
# of preprocessor_config.json: the runtime's processor has these alone
_HEARD = {"n_fft": 400, "hop_length": 160, "chunk_length": 30, "sampling_rate": 16_000}
# params and options that only a graph of a decoder alone can have
_NO_PLACE = ("exclude_embeds", "exclude_lm_head", "enable_cuda_graph", "use_qdq")
_OPTIONS = frozenset({"nodes_to_exclude"})
_CALIBRATED = ("mixed", "best")


def is_speech(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a Whisper."""
    names = config.get("architectures")
    return isinstance(names, list) and bool(names) and names[0] in ARCHITECTURES


@dataclass(frozen=True)
class Asked:
    """What is asked for. name: of the pass. params: of ModelBuilder. block_size: None where weights are floats."""

    name: str
    params: Any
    block_size: int | None


def problems(step: Asked, facts: ModelFacts, machine: Machine) -> Iterator[Problem]:
    """What keeps the model from being built as it is asked for, from its files alone."""
    for why, fix in refusals(facts.config, facts.path):
        yield Problem("unsupported", step.name, f"this model cannot be exported: {why}.", fix)
    yield from _of_target(step, machine)
    yield from _of_params(step)
    yield from _of_block_size(step, facts.config)


def refusals(config: Mapping[str, Any], folder: Path | None) -> Iterator[tuple[str, str]]:
    """What the builder or the runtime would do otherwise than the model, and what to do."""
    positions = config.get("max_source_positions", _FRAMES // 2)
    if positions != _FRAMES // 2:
        yield f"it hears {positions} positions, and onnxruntime-genai makes {_FRAMES // 2} of every sound", ""
    if config.get("scale_embedding"):
        yield "scale_embedding asks for embeddings that are scaled, which the model builder would leave out", ""
    activation = config.get("activation_function", "gelu")
    if activation != "gelu":
        yield f"its activation is '{activation}', and the model builder makes gelu", ""
    heads = [config.get(f"{part}_attention_heads") for part in ("encoder", "decoder")]
    if heads[0] != heads[1]:
        yield f"its encoder has {heads[0]} heads and its decoder {heads[1]}, which share keys and values", ""
    layers = [config.get(f"{part}_layers") for part in ("encoder", "decoder")]
    if all(isinstance(one, int) for one in layers) and layers[0] < layers[1]:  # type: ignore[operator]
        yield f"its decoder has more layers ({layers[1]}) than its encoder ({layers[0]})", ""
    yield from _of_files(folder)


def _of_files(folder: Path | None) -> Iterator[tuple[str, str]]:
    """What a transcript begins with, and how a sound is heard."""
    if folder is None or not is_file(folder / "config.json"):
        return
    file = folder / "preprocessor_config.json"
    try:
        prompt_of(folder)
        said = read_object(file) if is_file(file) else {}
    except ModelError as error:
        yield str(error), ""
        return
    for key, known in _HEARD.items():
        if said.get(key, known) != known:
            yield f"its {file.name} has {key} {said[key]!r}, and onnxruntime-genai hears with {known}", ""


def _of_target(step: Asked, machine: Machine) -> Iterator[Problem]:
    provider, precision = machine.execution_provider, step.params.precision
    if provider not in _PRECISIONS:
        known = ", ".join(_PRECISIONS)
        yield Problem("unsupported", step.name, f"no Whisper can be built for '{provider}'.", f"Choose one of {known}.")
    elif precision not in _PRECISIONS[provider]:
        fix = f"Use {', '.join(_PRECISIONS[provider])}."
        message = f"a Whisper for '{provider}' is not built in {precision}."
        yield Problem("unsupported", step.name, message, fix, ("precision",))


def _of_params(step: Asked) -> Iterator[Problem]:
    params = step.params
    for name in _NO_PLACE:
        if getattr(params, name):
            message = f"{name} is of decoders alone, and a Whisper is an encoder and a decoder."
            yield Problem("unsupported", step.name, message, "Leave it out.", (name,))
    for name in builder_options.given(params.extra_options):
        if name not in _OPTIONS:
            message = f"extra_options '{name}' is of decoders alone, and a Whisper is an encoder and a decoder."
            yield Problem("unsupported", step.name, message, "Leave it out.", ("extra_options", name))
    if params.precision == "int4" and params.int4_algo_config in _CALIBRATED:
        message = f"int4_algo_config {params.int4_algo_config} reads text, and the model hears sound."
        yield Problem("unsupported", step.name, message, "Use search or rtn.", ("int4_algo_config",))
    if params.calibration_data_config is not None and params.precision == "int4":
        message = "a Whisper is rounded without calibration: every input counts the same."
        yield Problem("unsupported", step.name, message, "Leave it out.", ("calibration_data_config",))


def _of_block_size(step: Asked, config: Mapping[str, Any]) -> Iterator[Problem]:
    size = step.block_size
    widths = {name: config.get(name) for name in ("d_model", "encoder_ffn_dim", "decoder_ffn_dim")}
    for name, width in widths.items():
        if size is not None and isinstance(width, int) and width % size:
            fitting = [str(other) for other in (16, 32, 64, 128, 256) if width % other == 0]
            fix = f"Use {' or '.join(fitting)}." if fitting else "Use precision fp16 or fp32."
            message = f"int4_block_size {size} does not divide the model's {name} {width}."
            yield Problem("invalid-value", step.name, message, fix, ("int4_block_size",))

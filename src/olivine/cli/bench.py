"""`olivine bench`."""

from typing import Any

import click

from olivine.cli._flags import value_of
from olivine.cli._one_step import SETTINGS, Request, one_step_options

_EVALUATOR = "bench"
# flag -> the param of timings, help
_PARAMS = (
    ("--prompt-tokens", "prompt_tokens", "Tokens that a decoder reads; 64."),
    ("--new-tokens", "new_tokens", "Tokens that it writes after the first; 16."),
    ("--batch-size", "batch_size", "Texts or rows at once; 1. Several sizes with commas: 1,8."),
    ("--warmup", "warmup_num", "Requests before any is timed; 2."),
    ("--repeats", "repeat_test_num", "Requests that are timed in any case; 8."),
    ("--max-requests", "max_requests", "Requests at most; 200."),
    ("--max-seconds", "max_seconds", "Seconds at most; 60."),
)
_OF_A_DECODER = ("prompt_tokens", "new_tokens")
_SIZES = "batch_size"


def _flags_of_timings(function: Any) -> Any:
    for flag, key, told in reversed(_PARAMS):
        function = click.option(flag, key, metavar="NUMBER", help=told)(function)
    return function


@click.command("bench", context_settings=SETTINGS)
@one_step_options
@_flags_of_timings
def command(request: Request, **params: str | None) -> int:
    """Measure the speed, memory and size of a model, as people run it.

    A Hugging Face folder runs in transformers, an ONNX model in onnxruntime or onnxruntime-genai. Requests are made
    until the medians are known; see docs/evaluators.md. The config is printed, and then run as olivine run does.
    """
    plan = request.plan()
    facts = plan.facts
    is_decoder = facts is None or facts.decoder is not None or facts.kind == "decoder"
    given = {key: value_of(text) for key, text in params.items() if text is not None}
    flags = {key: flag for flag, key, _ in _PARAMS}
    for key in given:
        if key in _OF_A_DECODER and not is_decoder:
            raise click.UsageError(f"{flags[key]} is for decoders: leave it out")
    sizes: list[int | None] = [*_sizes(given.pop(_SIZES))] if _SIZES in given else [None]
    metrics = [
        metric | {"metric_config": given | ({_SIZES: n_rows} if n_rows is not None else {})}
        for n_rows in sizes
        for metric in _timed(is_decoder=is_decoder, on_gpu=plan.machine.device != "cpu")
    ]
    metrics.append({"name": "size", "type": "size_on_disk"})
    request.flags.put(("evaluators", _EVALUATOR, "metrics"), metrics)
    request.flags.put(("evaluator",), _EVALUATOR)
    return request.carry_out()


def _timed(*, is_decoder: bool, on_gpu: bool) -> list[dict[str, Any]]:
    """What is measured while a model answers."""
    names = {
        "latency": ["time_to_first_token", "p50", "p90"] if is_decoder else ["p50", "p90"],
        "throughput": ["prefill", "decode"] if is_decoder else ["rows"],
        "memory": ["peak_rss", *(["gpu_peak"] if on_gpu else [])],
    }
    return [{"name": kind, "type": kind, "sub_types": [{"name": one} for one in of]} for kind, of in names.items()]


def _sizes(given: Any) -> list[int]:
    """Sizes of batches as they are written: one, or several with commas."""
    parts = given.split(",") if isinstance(given, str) else [str(given)]
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise click.UsageError(f"--batch-size '{given}' is no number above 0; several stand with commas: 1,8")
    return list(dict.fromkeys(map(int, parts)))

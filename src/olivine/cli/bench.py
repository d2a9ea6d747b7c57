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
    ("--batch-size", "batch_size", "Rows of a batch, of any other model; 1."),
    ("--warmup", "warmup_num", "Requests before any is timed; 2."),
    ("--repeats", "repeat_test_num", "Requests that are timed in any case; 8."),
    ("--max-requests", "max_requests", "Requests at most; 200."),
    ("--max-seconds", "max_seconds", "Seconds at most; 60."),
)
_OF_A_DECODER = ("prompt_tokens", "new_tokens")


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
    facts = request.plan().facts
    is_decoder = facts is None or facts.decoder is not None or facts.kind == "decoder"
    given = {key: value_of(text) for key, text in params.items() if text is not None}
    flags = {key: flag for flag, key, _ in _PARAMS}
    for key in given:
        if (key in _OF_A_DECODER) != is_decoder and key in (*_OF_A_DECODER, "batch_size"):
            raise click.UsageError(f"{flags[key]} is for {'other models' if is_decoder else 'decoders'}: leave it out")
    latency = ["time_to_first_token", "p50", "p90"] if is_decoder else ["p50", "p90"]
    rates = ["prefill", "decode"] if is_decoder else ["rows"]
    metrics: list[dict[str, Any]] = [
        {"name": "latency", "type": "latency", "sub_types": [{"name": name} for name in latency]},
        {"name": "throughput", "type": "throughput", "sub_types": [{"name": name} for name in rates]},
        {"name": "memory", "type": "memory"},
        {"name": "size", "type": "size_on_disk"},
    ]
    if given:
        metrics[0]["metric_config"] = given
    request.flags.put(("evaluators", _EVALUATOR, "metrics"), metrics)
    request.flags.put(("evaluator",), _EVALUATOR)
    return request.carry_out()

"""`olivine parity`."""

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from olivine.cli._common import json_option, print_json, say

WIDTH = 80  # of a terminal
_COLOURS = {"excellent": "green", "good": "green", "usable": "yellow", "poor": "red", "degenerate": "red"}


@click.command("parity")
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option(
    "--base", type=click.Path(path_type=Path), help="The model that an adapter adapts, if its record is wrong."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Text, JSONL, CSV or Parquet file to read; else the reference writes.",
)
@click.option("--text-template", help="How a row of --data becomes text, such as '{question} {answer}'.")
@click.option("--encoding", help="Encoding of --data, such as cp1252; else UTF-8.")
@click.option("--sep", help="Character between the cells of a CSV file; else a comma, in .tsv a tab.")
@click.option("--max-kld", type=click.FloatRange(min=0), help="Exit 1 when the mean KL divergence is above, in nats.")
@click.option("--min-top1", type=click.FloatRange(0, 1), help="Exit 1 when the best token agrees less often.")
@click.option("--tokens", "n_tokens", default=4096, show_default=True, type=click.IntRange(2), help="Tokens to read.")
@click.option("--length", default=256, show_default=True, type=click.IntRange(2), help="Tokens of a window.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the text the reference writes.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="Where models in transformers run; else a GPU if any."
)
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16", "float16"]))
@click.option("--no-speed", is_flag=True, help="Leave out load time, memory and speed.")
@click.option("--no-split", is_flag=True, help="Leave out the split into errors of weights and of run time.")
@json_option
def command(reference: Path, candidate: Path, base: Path | None, as_json: bool, **options: Any) -> int:
    """Compare a model with the one it was made from, token by token.

    REFERENCE and CANDIDATE are Hugging Face folders, adapter folders, ONNX folders or GGUF files that share a
    tokenizer. Exit code 1 when the candidate is past a limit or its output is degenerate, 2 when the two cannot be
    compared.
    """
    from olivine.cli._screen import Screen
    from olivine.workflow.compare import compare_models

    _check_data(options)  # what is wrong with names and rows is told before anything starts
    with closing(Screen()) as screen:
        record = compare_models(reference, candidate, screen, base=base, data=options["data"], **_params(options))
    if as_json:
        print_json(record)
    else:
        _show(record)
    for sentence in record["missed"]:
        say(f"olivine: {sentence}", err=True, fg="red")
    return 1 if record["missed"] else 0


def _check_data(options: Mapping[str, Any]) -> None:
    """DataError, in terms of our options, for a file that cannot be read."""
    from olivine.errors import DataError
    from olivine.evaluate.parity import TextFile

    reading = {key: options[key] for key in ("text_template", "encoding", "sep") if options[key] is not None}
    if options["data"] is None:
        if reading:
            option = next(iter(reading)).replace("_", "-")
            raise click.UsageError(f"--{option} is how a file is read; name the file with --data")
        return
    try:
        TextFile(options["data"], options["text_template"], options["encoding"], options["sep"]).check()
    except DataError as error:
        fix = re.sub(r"write (encoding|sep|text_template):", _as_option, str(error))
        raise DataError(fix) from None


def _as_option(match: re.Match[str]) -> str:
    return f"write --{match[1].replace('_', '-')}"


def _params(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as params of the pass that does the work."""
    keys = ("text_template", "encoding", "sep", "max_kld", "min_top1", "n_tokens", "length", "seed", "dtype", "device")
    return {key: options[key] for key in keys} | {"speed": not options["no_speed"], "split": not options["no_split"]}


def _show(found: Mapping[str, Any]) -> None:
    """Two tables: how far, and at what cost."""
    verdict = str(found["verdict"])
    why = f": {found['candidate']['degenerate']}" if verdict == "degenerate" else f" ({_bands()})"
    click.secho(verdict, fg=_COLOURS[verdict], bold=True, nl=False)
    say(why)
    tokens = found["tokens"]
    seed = f", seed {tokens['seed']}" if tokens["seed"] is not None else ""
    for name, side in (("candidate", found["candidate"]), ("reference", found["reference"])):
        say(f"{name} {side['path']}, in {side['run_as']}")
    say(f"on {tokens['n_tokens']:,} tokens in {tokens['n_windows']} windows: {tokens['source']}{seed}")
    _print(_distance(found), ("", "", ""))
    _print(_costs(found), ("", "reference", "candidate", "ratio"))


def _print(rows: Iterator[tuple[str, ...]], titles: tuple[str, ...]) -> None:
    """A table whose first column stands left and the others right under their titles.

    A line that is too wide has its last cell below it.
    """
    table = [row for row in (titles, *rows) if any(row)]
    widths = [max(len(row[column]) for row in table) for column in range(len(titles))]
    click.echo()
    for row in table:
        cells = [
            text.rjust(width) if title else text.ljust(width)
            for text, width, title in zip(row, widths, titles, strict=True)
        ]
        line = "   ".join(cells).rstrip()
        click.echo(line if len(line) <= WIDTH else "   ".join(cells[:-1]).rstrip() + f"\n    {row[-1]}")


def _distance(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, value, remark."""
    yield "mean KL divergence", _plus_minus(found, "kl", "kl_standard_error", 4, " nat"), ""
    if found["kl"] is not None:
        quantiles = ", ".join(_number(found[f"kl_{key}"], 4) for key in ("median", "p90", "p99", "max"))
        yield "median, p90, p99, max", quantiles, ""
    yield "same top token", _percent(found, "top1_agreement", "top1_standard_error"), ""
    if found["top1_agreement_clear"] is not None:
        share = found["n_clear"] / found["n_positions"]
        clear = _percent(found, "top1_agreement_clear", "top1_standard_error_clear")
        yield "  away from near-ties", clear, f"{share:.0%} of positions"
    yield "top-5 overlap", f"{found['top5_overlap']:.1%}", ""
    yield (
        "perplexity",
        f"{_number(found['reference_perplexity'], 3)} -> {_number(found['candidate_perplexity'], 3)}",
        "",
    )
    yield "  ratio", _plus_minus(found, "perplexity_ratio", "perplexity_ratio_standard_error", 4), "paired error"
    change = found["rms_probability_change"]
    yield (
        "change of probability",
        f"{change:.2%}" if change is not None else "not a number",
        "root mean square",
    )
    if greedy := found["greedy"]:
        same = f"{greedy['n_same']} of {greedy['n_prompts']} texts the same"
        yield "greedy text in common", f"{greedy['mean']:.1f} of {greedy['new_tokens']} tokens", same
    if found["weights"] and found["runtime"]:
        yield "KL of the weights alone", _number(found["weights"]["kl"], 4, " nat"), "computed in float32"
        yield "KL of the run time", _number(found["runtime"]["kl"], 4, " nat"), "of int8, on top"


def _costs(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Name, reference, candidate, candidate by reference."""
    from olivine.workflow.units import readable_bytes

    a, b = found["reference"], found["candidate"]
    for name, key, form in (
        ("size on disk", "size_bytes", readable_bytes),
        ("bits per weight", "bits_per_weight", lambda value: f"{value:.2f}"),
        ("load", "load_seconds", lambda value: f"{value:.2f} s"),
        ("peak memory", "peak_memory_bytes", readable_bytes),
        ("prefill", "prefill_tokens_per_second", lambda value: f"{value:,.0f} tok/s"),
        ("decode", "decode_tokens_per_second", lambda value: f"{value:,.1f} tok/s"),
    ):
        if a[key] is not None and b[key] is not None:
            yield name, form(a[key]), form(b[key]), f"{b[key] / a[key]:.2f}"


def _bands() -> str:
    from olivine.evaluate.parity import BANDS

    return "KL: " + ", ".join(f"{word} below {bound:g}" for bound, word in BANDS[:-1])


def _number(value: float | None, n_digits: int, unit: str = "") -> str:
    return f"{value:.{n_digits}f}{unit}" if value is not None else "not a number"


def _plus_minus(found: Mapping[str, Any], key: str, error: str, n_digits: int, unit: str = "") -> str:
    if found[key] is None or found[error] is None:
        return _number(found[key], n_digits, unit)
    return f"{found[key]:.{n_digits}f} ± {found[error]:.{n_digits}f}{unit}"


def _percent(found: Mapping[str, Any], key: str, error: str) -> str:
    return f"{found[key]:.1%} ± {found[error]:.1%}"

"""`olivine evaluate`."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from olivine.cli._common import config_options, json_option, print_json, read_plan, say

if TYPE_CHECKING:
    from olivine.workflow.steps import ScoreRows


@click.command("evaluate")
@click.argument("model_dir", type=click.Path(path_type=Path))
@config_options
@json_option
def command(model_dir: Path, config: Path, overrides: tuple[str, ...], offline: bool, as_json: bool) -> int:
    """Score a model on the rows of a config.

    MODEL_DIR is a Hugging Face folder, an adapter folder of the config's input model, an ONNX folder or file, or a
    GGUF file. The rows are those on which `olivine run` would score every seam, the numbers those that the config's
    evaluator asks for beside. Exit code 1 when the model's output is broken, or misses a threshold of the evaluator.
    """
    from olivine.cli._screen import Screen
    from olivine.workflow.measure import rows_to_score, score_model

    plan = read_plan(config, overrides, offline=offline)
    rows = rows_to_score(plan)
    with closing(Screen()) as screen:
        result = score_model(plan, model_dir, screen)
    table = result.get("measured", [])
    if as_json:
        print_json(result)
    else:
        _print(model_dir, rows, result["scores"])
        _print_asked(table)
    return _verdict(result["scores"], table)


def _print_asked(table: list[dict[str, Any]]) -> None:
    from olivine.cli._screen import asked_table

    if table:
        click.echo("\n".join(["", *asked_table(table)]))


def _print(model_dir: Path, rows: "ScoreRows", scores: Mapping[str, Any]) -> None:
    """The model as a line of the table that a run prints, and what it was scored on."""
    from olivine.workflow.columns import score_table, table_notes

    name = model_dir.resolve().name
    say(f"{model_dir} on {scores['n_rows']} {_in_words(rows)}:\n")
    if rows.data is None and "degenerate" not in scores:
        say("the outputs are numbers; how good they are is told by rows with labels (quality.data_config)")
        return
    click.echo("\n".join(score_table([{**scores, "model": name}])))
    if scores.get("perplexity") is not None:
        say(f"\nperplexity {scores['perplexity']:.4g}, over {scores['n_tokens']:,} tokens")
    for note in table_notes([{**scores, "model": name}]):
        say(note)


def _in_words(rows: "ScoreRows") -> str:
    if rows.on_text:
        return "passages of text (the config names no rows to score)"
    if rows.data is None:
        return "made-up rows (the config names none to score)"
    kind = {"eval": "held-out rows", "all": "rows", "train": "training rows (trained on!)"}[rows.part]
    return f"{kind} of '{rows.data.name}'"


def _verdict(scores: Mapping[str, Any], table: list[dict[str, Any]]) -> int:
    """Say what is wrong with the model; 1 when it is broken, or misses a threshold."""
    from olivine.workflow.remarks import remarks

    for remark in remarks(scores, None, trained=False):
        say(f"olivine: {remark}", err=True, fg="red" if "degenerate" in scores else "yellow")
    missed = [row["name"] for row in table if row["is_met"] is False]
    for name in missed:
        say(f"olivine: {name} misses its goal", err=True, fg="red")
    return 1 if "degenerate" in scores or missed else 0

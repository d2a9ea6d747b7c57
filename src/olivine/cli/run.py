"""`olivine run`."""

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from olivine.cli._common import (
    config_options,
    json_option,
    on_option,
    print_json,
    print_problems,
    print_refused,
    read_plan,
    stream_option,
)

if TYPE_CHECKING:
    from olivine.workflow.engine import Result
    from olivine.workflow.events import Event, Listener
    from olivine.workflow.steps import Plan

Shown = Literal["text", "json", "nothing"]


@click.command("run")
@config_options
@on_option
@click.option("--detach", is_flag=True, help="Leave it at work and return; see olivine jobs.")
@click.option(
    "--dry-run", is_flag=True, help="Write the manifests for Kubernetes into the output folder; send nothing."
)
@click.option("--no-progress", is_flag=True, help="Tell steps as lines in a terminal too, as in a log.")
@json_option
@stream_option
def command(
    config: Path,
    overrides: tuple[str, ...],
    offline: bool,
    detach: bool,
    dry_run: bool,
    no_progress: bool,
    as_json: bool,
    stream: "Listener | None",
) -> int:
    """Run a workflow: exit 0 only when the promised model exists and keeps its goals.

    Exit code 1 when a step failed or a goal was missed, 2 when the config cannot run here, 130 after Ctrl-C. With
    --detach, 0 when it has begun.
    """
    if detach and dry_run:
        raise click.UsageError("--detach leaves a run at work, and --dry-run starts none: choose one.")
    if stream is not None and (as_json or detach or dry_run):
        raise click.UsageError("--json-stream follows a run here: leave out --json, --detach and --dry-run.")
    from olivine.errors import ConfigError

    plan = read_plan(config, overrides, offline=offline)
    if plan.problems:
        if stream is not None:
            raise ConfigError(plan.problems)
        if as_json:
            print_refused(plan.problems)
        print_problems(plan.problems)
        return 2
    if dry_run:
        return _write_manifests(plan, as_json=as_json)
    if detach:
        return _detach(plan, config, overrides, offline=offline, as_json=as_json)
    shows: Shown = "nothing" if stream is not None else "json" if as_json else "text"
    told = None
    if plan.search is not None and plan.asked and shows == "text":
        from olivine.cli._rungs import Trials

        decisive = [one for one in plan.asked if one.goal is not None or one.priority is not None]
        told = Trials(decisive or plan.asked)
    return run_and_show(plan, shows=shows, listen=stream, told=told, progress=not no_progress and stream is None)


def _write_manifests(plan: "Plan", *, as_json: bool) -> int:
    from olivine.workflow.manifests import write_manifests

    files, notes = write_manifests(plan)
    if as_json:
        print_json({"manifests": list(map(str, files)), "notes": notes})
    else:
        click.echo("\n".join([*map(str, files), *notes]))
    return 0


def _detach(plan: "Plan", config: Path, overrides: tuple[str, ...], *, offline: bool, as_json: bool) -> int:
    """Start the same command in a process of its own, and say by which name it is known."""
    from olivine.cli._detached import PROGRAM
    from olivine.workflow.detached import detach

    sets = [part for override in overrides for part in ("--set", override)]
    flags = [*(["--offline"] if offline else []), *(["--json"] if as_json else [])]
    host = next((step.host for step in plan.steps if step.host is not None), None)
    run = detach(["run", "--config", str(config), *sets, *flags], host, plan.output_dir, PROGRAM)
    if as_json:
        print_json(run.to_json())
    else:
        click.echo(f"{run.identity} is at work; follow it with: olivine jobs attach {run.identity}")
    return 0


def run_and_show(
    plan: "Plan",
    *,
    shows: Shown = "text",
    listen: "Listener | None" = None,
    told: "Callable[[Event], Iterable[str]] | None" = None,
    progress: bool = True,
) -> int:
    """Run a plan without problems, with a screen of its own, and print what it gave; GoalMissed as `engine.run`.

    shows: what is printed of the result. listen: hears every event as well. told: gives lines that are
    told of an event beside those of the screen. progress: whether the screen may move.
    """
    from olivine.cli._screen import Screen
    from olivine.errors import GoalMissed
    from olivine.report.handover import handing_over
    from olivine.workflow.engine import Result, run
    from olivine.workflow.words import notes

    screen = Screen([step.name for step in plan.steps], progress=progress)
    for note in notes(plan):
        screen.note(note)

    def tell(event: "Event") -> None:
        screen(event)
        if listen is not None:
            listen(event)
        for line in told(event) if told is not None else ():
            screen.line(line)

    try:
        with handing_over(plan.output_dir, tell, _warn) as listener:
            result = run(plan, listener)
    except GoalMissed as error:
        screen.close()
        if isinstance(error.result, Result) and shows == "text":
            _print(error.result, plan)
        raise
    finally:
        screen.close()
    if shows == "json":
        print_json(result.to_json())
    elif shows == "text":
        _print(result, plan)
    return 0


def _warn(sentence: str) -> None:
    from olivine.cli._common import say

    say(f"! {sentence}", err=True, fg="yellow")


def _rows_in_words(result: "Result", plan: "Plan") -> str:
    """What the rows are that all models were scored on."""
    if result.scores[0].get("on_text"):
        return "passages of text (the config names no rows to score)"
    if result.scores[0].get("made_up"):
        return "made-up rows (the config names none to score)"
    if result.trained_on:
        return "training rows (trained on!)"
    return "held-out rows" if plan.scores_held_out else "rows"


def _print(result: "Result", plan: "Plan") -> None:
    from olivine.cli._common import columns, say
    from olivine.cli._screen import asked_table
    from olivine.report import REPORT
    from olivine.workflow.columns import WIDTH, note_on, score_table, table_notes

    if result.scores:
        rows = _rows_in_words(result, plan)
        click.echo()
        say(f"Every model on the same {result.scores[0]['n_rows']} {rows}:", indent=0)
        click.echo()
        width = min(WIDTH, columns() or WIDTH)
        click.echo("\n".join(score_table(result.scores, width)) + "\n")
        notes = [note_on(result.scores, width) if len(result.scores) > 1 else "", *table_notes(result.scores)]
        for note in filter(None, notes):
            click.echo(click.wrap_text(note, width=width))
    if result.measured:
        click.echo("\n".join(["", *asked_table(result.measured)]))
    if result.model is not None:
        click.echo(f"\nmodel: {result.model}")
        for line in _uses(result.model):
            click.echo(f"  {line}")
    click.echo(f"report: {result.output_dir / REPORT}")


def _uses(folder: Path) -> Iterable[str]:
    """What to do with a delivered model, in a line each."""
    from olivine.models.speech import hears
    from olivine.report.handover import names_base

    if _is_adapter(folder) and not names_base(folder):
        yield "an adapter that names no base which PEFT finds: MergeAdapterWeights (--merge) makes a whole model"
        return
    if parts := _parts_in(folder):
        for part in parts:
            yield f"in Python: {_loaded_by(part)}"
        return
    yield f"in Python: {_loaded_by(folder)}"
    if hears(folder):
        yield f"to try it: python {shlex.quote(str(folder.with_name('run.py')))} SOUND.wav"
    elif _graph_in(folder) is None:
        yield f"to try it: olivine chat {shlex.quote(str(folder))}"


def _loaded_by(folder: Path) -> str:
    """The expression that loads a delivered model."""
    if (folder / "genai_config.json").is_file():
        return f"onnxruntime_genai.Model({str(folder)!r})"
    if (graph := _graph_in(folder)) is not None:
        opened = "openvino.Core().compile_model" if graph.suffix == ".xml" else "onnxruntime.InferenceSession"
        return f"{opened}({str(graph)!r})"
    library = "peft.AutoPeftModelForCausalLM" if _is_adapter(folder) else "transformers.AutoModelForCausalLM"
    return f"{library}.from_pretrained({str(folder)!r})"


def _parts_in(folder: Path) -> list[Path]:
    """The folders of the graphs that a delivered model consists of, where these are several."""
    names = (".onnx", ".safetensors", "genai_config.json")
    if any(file.name.endswith(names) for file in folder.iterdir()):
        return []
    return [inner for inner in sorted(folder.iterdir()) if inner.is_dir() and _graph_in(inner) is not None]


def _graph_in(folder: Path) -> Path | None:
    """The ONNX file of a delivered model that writes no text."""
    if (folder / "genai_config.json").is_file():
        return None
    return next(iter([*sorted(folder.glob("*.onnx")), *sorted(folder.glob("*.xml"))]), None)


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()

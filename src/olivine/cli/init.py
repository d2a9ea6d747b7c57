"""`olivine init`."""

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from olivine.cli._amounts import share
from olivine.cli._common import print_problems, say, write_file
from olivine.cli._flags import template_as_typed

if TYPE_CHECKING:
    from olivine.workflow.starter import Columns, Wishes

_SCHEMA = "olive-schema.json"


@click.command("init")
@click.argument("rows", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--model", "-m", help="To start from: a folder, a .gguf file or a name on the hub.")
@click.option("--prompt-col", help="Column of what is asked; else the rows tell.")
@click.option("--answer-col", help="Column of what is answered; else the rows tell.")
@click.option("--text-template", help="A row as text, in place of two columns, such as '{question} {answer}'.")
@click.option("--sep", help="Character between the cells of a CSV file.")
@click.option("--encoding", help="Of the rows, such as cp1252; else UTF-8.")
@click.option("--method", type=click.Choice(["lora", "qlora", "full", "none"]), help="How it is tuned; else lora.")
@click.option("--ship", type=click.Choice(["int4", "fp16", "fp32", "folder"]), help="What comes out; else int4 ONNX.")
@click.option("--device", type=click.Choice(["cpu", "gpu"]), help="Where it runs; else a GPU where there is one.")
@click.option("--max-drop", help="How much accuracy a step may lose: 0.03, 3pp or 3%; else 3pp.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="The file; else olive-config.yaml.")
@click.option("--editor", is_flag=True, help=f"Also write {_SCHEMA} beside it, from which an editor completes.")
@click.option("--yes", "-y", is_flag=True, help="Ask nothing: what is not said is taken as it is usual.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def command(rows: Path | None, output: Path | None, editor: bool, yes: bool, force: bool, **options: Any) -> int:
    """Write a first config, from your rows and five answers.

    ROWS is a file of rows: JSON, JSONL, CSV or Parquet. What the options do not say is asked where there is a
    terminal, and else taken as it is usual. The config is YAML with comments, or plain JSON where the file is named so.
    """
    target = output or Path("olive-config.yaml")
    _refuse_to_overwrite([target, *([target.parent / _SCHEMA] if editor else [])], force=force)
    ask = _asks if sys.stdin.isatty() and not yes else _takes
    wishes, columns = _wishes(rows, options, ask)
    folder = target.parent.absolute()
    write_file(target, _text(wishes, columns, target, folder, editor=editor))
    if editor:
        from olivine.cli.schema import config_schema

        schema = json.dumps(config_schema(), indent=2, ensure_ascii=False)
        write_file(target.parent / _SCHEMA, f"{schema}\n")
    _tell(target, has_rows=wishes.rows is not None)
    return 0


Ask = Callable[..., Any]


def _asks(question: str, default: Any = None, kind: Any = None) -> Any:
    return click.prompt(question, default=default, type=kind, err=True)


def _takes(question: str, default: Any = None, kind: Any = None) -> Any:  # noqa: ARG001 - as `_asks`
    return default


def _refuse_to_overwrite(files: list[Path], *, force: bool) -> None:
    from olivine.errors import RequestError

    for path in files:
        if not path.parent.is_dir():
            raise RequestError(f"there is no folder '{path.parent}' for '{path.name}'")
        if path.exists() and not force:
            raise RequestError(f"'{path}' is there already; name another file with --output, or write --force")


def _wishes(rows: Path | None, options: dict[str, Any], ask: Ask) -> tuple["Wishes", "Columns | None"]:
    """What the config is to say, by options and answers, and what a look at the rows told."""
    from olivine.workflow.starter import MODEL, Ship, Wishes, rows_in

    said = {key: value for key, value in options.items() if value is not None}
    if "text_template" in said:
        said["text_template"] = template_as_typed(said["text_template"])
    if "max_drop" in said:
        share(said["max_drop"], "--max-drop")  # what is wrong is told before anything is asked
    model = said.pop("model", None) or ask("Model to start from (a folder, .gguf file or hub name)", MODEL)
    method = said.pop("method", "lora")
    if rows is None and method != "none":
        near = rows_in(Path.cwd())
        answer = ask("File of your rows (JSONL, JSON, CSV, Parquet)", str(near) if near else None)
        if answer is None:
            raise click.UsageError("no rows are named: write their file, or --method none to train nothing")
        rows = Path(answer)
    told = {key: value for key, value in said.items() if key != "max_drop"}
    wishes, columns = Wishes(model=model, rows=rows, method=method, **told), None
    if rows is not None:
        wishes, columns = _with_columns(wishes, ask)
    ship = said.get("ship") or ask("What should come out", "int4", click.Choice(get_args(Ship)))
    device = said.get("device") or ask("Where will it run", _usual_device(), click.Choice(["cpu", "gpu"]))
    if (method, ship) == ("none", "folder"):
        raise click.UsageError("nothing would be done: with --method none, --ship int4, fp16 or fp32")
    drop = said.get("max_drop") or ask("Accuracy that a step may lose (3pp are 3 points)", "3pp", _as_share)
    return replace(wishes, ship=ship, device=device, max_drop=100 * share(drop, "--max-drop")), columns


def _as_share(text: str) -> str:
    """An answer that other commands take too; click asks once more after any other."""
    share(text, "the answer")
    return text


def _with_columns(wishes: "Wishes", ask: Ask) -> tuple["Wishes", "Columns"]:
    """The wishes with the columns that are asked and answered, where neither rows nor options tell them."""
    from olivine.errors import ConfigError
    from olivine.workflow.starter import as_written, in_words, look, problems_of_rows

    given, wishes = wishes, as_written(wishes)
    if wishes != given:
        reading = {"sep": (given.sep, wishes.sep), "encoding": (given.encoding, wishes.encoding)}
        guessed = [f"{key} {after!r}" for key, (before, after) in reading.items() if after != before]
        say(f"{wishes.rows} is read with {' and '.join(guessed)}, as it seems to be written", err=True, dim=True)
    columns = look(wishes)
    named = (wishes.prompt_col, wishes.answer_col, wishes.text_template)
    say(columns.sentence or f"columns: {', '.join(columns.names)}", err=True, dim=True)
    if not columns.is_told and named == (None, None, None):
        if len(columns.names) == 1:
            raise click.UsageError(f"the rows have the column {columns.names[0]} alone; write a --text-template")
        first, second, *others = columns.pair or (None, None)
        asked = ask("Column of what is asked", first, click.Choice(columns.names))
        answered = ask("Column of what is answered", second, click.Choice(columns.names))
        if others and ask is _takes:
            told = " or ".join(map(repr, others))
            say(f"! '{answered}' is a guess by its cells; {told} would do as well: --answer-col", err=True, fg="yellow")
        if asked is None or answered is None:
            told = ", ".join(columns.names)
            raise click.UsageError(f"no column tells what is asked; write --prompt-col and --answer-col, of: {told}")
        wishes = replace(wishes, prompt_col=asked, answer_col=answered)
    if problems := problems_of_rows(wishes):
        raise ConfigError(problems)
    if not columns.is_told or wishes.prompt_col is not None:
        columns = replace(columns, sentence=in_words(wishes))
        say(columns.sentence, err=True, dim=True)
    return wishes, columns


def _usual_device() -> str:
    from olivine.systems import SystemParams
    from olivine.systems.local import Local

    return "gpu" if Local(SystemParams()).probe().has_nvidia else "cpu"


def _text(wishes: "Wishes", columns: "Columns | None", target: Path, folder: Path, *, editor: bool) -> str:
    from olivine.workflow.starter import commented, content

    if target.suffix.lower() == ".json":
        named = {"$schema": _SCHEMA} if editor else {}
        return json.dumps(named | content(wishes, folder), indent=2, ensure_ascii=False) + "\n"
    return commented(wishes, folder, columns.sentence if columns else "", _SCHEMA if editor else None)


def _tell(target: Path, *, has_rows: bool) -> None:
    """Where it is, what is still wrong with it here, and what to type next."""
    from olivine.cli._common import read_plan

    say(f"{target} is written.", err=True, fg="green")
    problems = read_plan(target, (), offline=False).problems
    if problems:
        say("It cannot run here yet:", err=True)
        print_problems(problems)
    name = shlex.quote(str(target))
    rows = f"  olivine data {name}     # the rows as the model will see them\n" if has_rows else ""
    click.echo(f"{rows}  olivine plan {name}     # what would run, and what it needs\n  olivine run {name}")

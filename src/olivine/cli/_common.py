"""What several commands share: options, the reading of a config, and how problems are printed."""

import functools
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from olivine.errors import OlivineError, Problem
    from olivine.workflow.events import Event
    from olivine.workflow.steps import Plan

Command = TypeVar("Command", bound=Callable[..., Any])


def config_options(function: Command) -> Command:
    """The config, as an argument or as --config; --set, --offline, and which scripts of a config may run."""

    @functools.wraps(function)
    def with_config(
        config: Path | None, config_file: Path | None, *, trust: bool, no_scripts: bool, **others: Any
    ) -> Any:
        if trust and no_scripts:
            raise click.UsageError("--trust and --no-scripts contradict each other")
        if trust or no_scripts:  # the plan asks the environment, wherever it is made
            os.environ["OLIVINE_SCRIPTS"] = "all" if trust else "none"
        return function(config=one_file(config, config_file), **others)

    command = click.option(
        "--offline", is_flag=True, help="Use the network for nothing; what is not here is a problem of the plan."
    )(with_config)
    command = click.option(
        "--trust", is_flag=True, help="Let scripts run that the config names and that lie outside of its folder."
    )(command)
    command = click.option(
        "--no-scripts", is_flag=True, help="Run no script of the config; one that it names is refused."
    )(command)
    command = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Replace a value of the config, e.g. passes.lora.r=8; may be given many times.",
    )(command)
    return cast("Command", config_option(command))


def on_option(function: Command) -> Command:
    """--on: the system where passes run, as if the config said so; the command gets it among its overrides."""

    @functools.wraps(function)
    def with_host(*, on: str | None, overrides: tuple[str, ...], **others: Any) -> Any:
        return function(overrides=(*overrides, *([f"host={on}"] if on else [])), **others)

    option = click.option(
        "--on", metavar="SYSTEM", help="Run passes on this system of the config, or of the user's own file."
    )
    return cast("Command", option(with_host))


def config_option(function: Command) -> Command:
    """A config file as an argument or as --config: the command gets `config_file` and `config`, see `one_file`."""
    function = click.argument("config_file", metavar="[CONFIG]", required=False, type=click.Path(path_type=Path))(
        function
    )
    return click.option(
        "--config", "-c", type=click.Path(path_type=Path), help="The workflow config, JSON or YAML; or name it alone."
    )(function)


def one_file(config: Path | None, config_file: Path | None) -> Path:
    """The config that a command line names, in either way; a usage error when it names none, or two."""
    if config is not None and config_file is not None:
        raise click.UsageError(f"two configs are named: {config_file} and {config}")
    named = config if config is not None else config_file
    if named is None:
        raise click.UsageError("no config is named: write its file, alone or after --config")
    return named


def json_option(function: Command) -> Command:
    """--json; whatever ends the command is a JSON document then too."""

    @functools.wraps(function)
    def told(*, as_json: bool, **others: Any) -> Any:
        with _told_as_json(as_json):
            return function(as_json=as_json, **others)

    option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program instead of text.")
    return cast("Command", option(told))


def stream_option(function: Command) -> Command:
    """--json-stream: the command gets `stream`, a listener that prints events, or None.

    The last line says how the command ended, whatever ended it: {"event": "exit", "code": 0}, with the "problems" of a
    wrong request, or the "error".
    """

    @functools.wraps(function)
    def told(*, json_stream: bool, **others: Any) -> Any:
        from olivine.errors import OlivineError, RequestError

        if not json_stream:
            return function(stream=None, **others)
        try:
            code = function(stream=_print_event, **others)
        except OlivineError as error:
            problems = [one.to_json() for one in error.problems()] if isinstance(error, RequestError) else None
            why = {"error": str(error)} if problems is None else {"problems": problems}
            _print_line({"event": "exit", "code": error.exit_code, **why})
            raise
        _print_line({"event": "exit", "code": code})
        return code

    option = click.option(
        "--json-stream", is_flag=True, help="Print every event as a line of JSON as it happens, progress included."
    )
    return cast("Command", option(told))


def _print_event(event: "Event") -> None:
    import time

    record = event.to_json() | {"time": round(time.time(), 3)}
    _print_line({key: value for key, value in record.items() if key != "run"})


def _print_line(value: object) -> None:
    """A JSON document on a line of its own, as strict as that of `print_json`, and at once."""
    from olivine.workflow.journal import hide_secrets

    click.echo(json_text(hide_secrets(value)))
    sys.stdout.flush()


def read_plan(config: Path, overrides: Iterable[str], *, offline: bool) -> "Plan":
    """Read the config and plan it; raises ConfigError only when there is no config to plan."""
    if offline:  # every library below asks the environment
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    from olivine.config import load
    from olivine.workflow.plan import make_plan

    return make_plan(load(config, tuple(overrides)), offline=offline)


def print_json(value: object) -> None:
    """One JSON document on standard output: strict, so null where a number is none, and without secrets."""
    from olivine.workflow.journal import hide_secrets

    click.echo(json_text(hide_secrets(value), indent=2))


def json_text(value: object, indent: int | None = None) -> str:
    """JSON that standard output has every character of: what its encoding lacks is written as JSON's escape.

    So is a lone surrogate, which UTF-8 has no bytes for.
    """
    from olivine.cli._process import writes_all

    text = json.dumps(value, indent=indent, ensure_ascii=not writes_all(sys.stdout), allow_nan=False)
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def write_file(path: Path, text: str) -> None:
    """Write a file that the user named, whole or not at all; RequestError where it cannot be.

    What a link or a device (/dev/stdout) leads to is written in its place.
    """
    from olivine.workflow.deliver import write_text

    with written_to(path):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_text(text, encoding="utf-8")
        else:
            write_text(path, text)


@contextmanager
def written_to(path: Path) -> Iterator[None]:
    """What the system has against writing a file, as a sentence with the file's name."""
    from olivine.errors import RequestError

    try:
        yield
    except OSError as error:
        raise RequestError(f"'{path}' cannot be written: {(error.strerror or str(error)).lower()}") from None


@contextmanager
def _told_as_json(as_json: bool) -> Iterator[None]:
    """With `as_json`, print an error as JSON too: {"status": "refused", "problems": [...]}, or "failed" and why."""
    from olivine.errors import OlivineError, RequestError

    try:
        with _in_a_sentence():
            yield
    except RequestError as error:
        if as_json:
            print_refused(error.problems())
        raise
    except OlivineError as error:
        if as_json:
            print_json(_failed(error))
        raise
    except OSError as error:
        if as_json and (failure := of_the_system(error)) is not None:
            print_json(_failed(failure))
        raise


@contextmanager
def _in_a_sentence() -> Iterator[None]:
    """What a command itself finds wrong with its request is said without the lines on how the command is written."""
    from olivine.errors import RequestError

    try:
        yield
    except click.UsageError as error:
        raise RequestError(error.format_message()) from None


def of_the_system(error: OSError) -> "OlivineError | None":
    """What an error of a file that the user named, or of the disk, means; None for any other, which is a bug."""
    from olivine.errors import OlivineError

    if error.filename is None and error.errno is None:
        return None
    where = error.filename if error.filename is not None else "standard output"
    return OlivineError(f"{error.strerror or error}: {where}")


def print_refused(problems: Iterable["Problem"]) -> None:
    """A wrong request as JSON."""
    print_json({"status": "refused", "problems": [problem.to_json() for problem in problems]})


def _failed(error: "OlivineError") -> dict[str, object]:
    """What failed; of a goal that was missed, the result as well."""
    from olivine.errors import GoalMissed

    if isinstance(error, GoalMissed) and error.result is not None:
        return dict(cast("Any", error.result).to_json()) | {"error": str(error)}
    record: dict[str, object] = {"status": "failed", "error": str(error)}
    told = {name: getattr(error, name) for name in ("step", "cause", "log") if hasattr(error, name)}
    return record | told


def print_problems(problems: Iterable["Problem"]) -> None:
    """Each problem on a line of its own on standard error, with its fix; a package that is missing is told once."""
    missing = set()
    for problem in problems:
        if problem.kind == "missing-extra":
            if problem.message in missing:
                continue
            missing.add(problem.message)
        named = "" if problem.where.startswith("olivine ") else "olivine: "  # what flags of a command come to
        say(f"{named}{problem}", err=True, fg="red")


def say(text: str, *, err: bool = False, indent: int = 4, **style: Any) -> None:
    """A line for a person, broken between words where a width is known; see `columns` and `wrapped`."""
    width = columns(err=err)
    click.secho(wrapped(text, width, indent) if width is not None else text, err=err, **style)


def columns(*, err: bool = False) -> int | None:
    """The width of the terminal, or what COLUMNS says; None for a file without it, whose lines stay whole."""
    stream, said = sys.stderr if err else sys.stdout, os.environ.get("COLUMNS", "")
    if stream.isatty() or (said.isdigit() and int(said) > 0):
        return shutil.get_terminal_size().columns
    return None


def wrapped(text: str, width: int, indent: int = 4) -> str:
    """Each line of a text in lines of that width; words, paths among them, stay whole, and what follows is indented."""
    fold = textwrap.TextWrapper(
        max(20, width),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
    return "\n".join(fold.fill(line) for line in text.splitlines())

"""What several commands share: options, the reading of a config, and how problems are printed."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from olivine.errors import Problem
    from olivine.workflow._steps import Plan

Command = TypeVar("Command", bound=Callable[..., Any])


def config_options(function: Command) -> Command:
    """--config, --set and --offline, in the order in which help shows them."""
    function = click.option(
        "--offline", is_flag=True, help="Use the network for nothing; what is not here is a problem of the plan."
    )(function)
    function = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Replace a value of the config, e.g. passes.lora.r=8; may be given many times.",
    )(function)
    return click.option(
        "--config", "-c", required=True, type=click.Path(path_type=Path), help="The workflow config, JSON or YAML."
    )(function)


def json_option(function: Command) -> Command:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for a program instead of text.")(function)


def read_plan(config: Path, overrides: Iterable[str], *, offline: bool) -> "Plan":
    """Read the config and plan it; raises ConfigError only when there is no config to plan."""
    if offline:  # every library below asks the environment
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    from olivine.config import load
    from olivine.workflow.plan import make_plan

    return make_plan(load(config, tuple(overrides)), offline=offline)


def print_json(value: object) -> None:
    """One JSON document on standard output: strict, so null where a number is none, and without secrets.

    A lone surrogate, which UTF-8 has no bytes for, is written as JSON's escape.
    """
    from olivine.workflow.journal import hide_secrets

    text = json.dumps(hide_secrets(value), indent=2, ensure_ascii=False, allow_nan=False)
    click.echo(text.encode("utf-8", errors="backslashreplace").decode("utf-8"))


@contextmanager
def told_as_json(as_json: bool) -> Iterator[None]:
    """With `as_json`, print what was wrong with the request as JSON too: {"status": "refused", "problems": [...]}."""
    from olivine.errors import RequestError

    try:
        yield
    except RequestError as error:
        if as_json:
            print_json({"status": "refused", "problems": [problem.to_json() for problem in error.problems()]})
        raise


def print_problems(problems: Iterable["Problem"]) -> None:
    """Each problem on a line of its own on standard error, with its fix."""
    for problem in problems:
        click.secho(f"olivine: {problem}", err=True, fg="red")

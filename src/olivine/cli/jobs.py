"""`olivine jobs`."""

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from olivine.cli._common import json_option, print_json, say

if TYPE_CHECKING:
    from olivine.workflow.detached import Detached

_LOOK_SECONDS = 0.5
_CANCEL_SECONDS = 30.0


@click.group("jobs")
def command() -> None:
    """Look after runs that were started with --detach."""


@command.command("ls", short_help="List them, the oldest first.")
@json_option
def show(as_json: bool) -> int:
    """List every detached run with its state, the oldest first.

    A run that is "lost" went down with its machine; `olivine jobs attach` goes on with it.
    """
    from olivine.workflow.detached import all_runs

    runs = all_runs()
    if as_json:
        print_json([run.to_json() for run in runs])
        return 0
    for run in runs:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started))
        say(f"{run.identity}  {run.state:<11}  {when}  {run.host or 'here'}  {run.output_dir}")
    if not runs:
        say("no run was detached", err=True)
    return 0


@command.command("logs", short_help="Print what a run has said.")
@click.argument("run", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on until it ends.")
def logs(run: str | None, follow: bool) -> int:
    """Print what a run has said; the last one when no id, or beginning of one, is given."""
    from olivine.workflow.detached import find

    _print_screen(find(run), follow=follow)
    return 0


@command.command("attach", short_help="Follow a run to its end; go on with one that was lost.")
@click.argument("run", required=False)
def attach(run: str | None) -> int:
    """Follow a run to its end, and end as it does; one that was lost is begun again where it was.

    Ctrl-C leaves the run at work.
    """
    from olivine.cli._detached import PROGRAM
    from olivine.workflow.detached import find, start

    known = find(run)
    if known.state == "lost":
        say(f"{known.identity} was lost with its process; it goes on", err=True)
        known = start(known, PROGRAM)
    _print_screen(known, follow=True)
    sys.stdout.write(known.answer.read_text(encoding="utf-8", errors="replace"))
    return known.exit_code if known.exit_code is not None else 1


@command.command("fetch", short_help="Copy the result of a run.")
@click.argument("run", required=False)
@click.option("--to", type=click.Path(path_type=Path), help="Folder to copy it to; without it, its place is printed.")
def fetch(run: str | None, to: Path | None) -> int:
    """Copy the model that a run has made, or print where it lies."""
    from olivine.errors import OlivineError, RequestError
    from olivine.workflow.detached import find

    known = find(run)
    model = Path(known.output_dir) / "model"
    if known.state != "done" or not model.is_dir():
        hint = "olivine jobs attach" if known.state in ("running", "lost") else "olivine jobs logs"
        raise OlivineError(
            f"{known.identity} is {known.state} and has no result to fetch; see '{hint} {known.identity}'"
        )
    if to is not None:
        if to.exists():
            raise RequestError(f"'{to}' exists; name a folder that does not")
        shutil.copytree(model, to)
    click.echo(to or model)
    return 0


@command.command("cancel", short_help="End a run, there too.")
@click.argument("run", required=False)
def cancel(run: str | None) -> int:
    """End a run and what it has started on other systems, of one that was lost too; finished steps are kept."""
    from olivine.errors import RequestError
    from olivine.workflow.detached import end_lost, find
    from olivine.workflow.left_behind import end_left_behind

    known = find(run)
    if known.is_at_work:
        _end(known)
    elif known.state != "lost":
        raise RequestError(f"{known.identity} is {known.state}: there is nothing to cancel")
    if known.state == "lost":  # its process went before it could end what it had started
        for job in end_left_behind(known):
            say(f"ended there, {job}", err=True)
        end_lost(known)
    say(f"{known.identity} is {known.state}", err=True)
    return 0


def _end(run: "Detached") -> None:
    """End its process in order, which ends what it has started; at once when it does not listen."""
    import psutil

    process = psutil.Process(run.pid)
    process.terminate()
    until = time.monotonic() + _CANCEL_SECONDS
    while run.is_at_work and time.monotonic() < until:
        time.sleep(0.1)
    if run.is_at_work:
        process.kill()


def _print_screen(run: "Detached", *, follow: bool) -> None:
    with run.screen.open(encoding="utf-8", errors="replace") as screen:
        while True:
            is_over = not follow or not run.is_at_work  # asked first: what it says last is printed too
            sys.stderr.write(screen.read())
            sys.stderr.flush()
            if is_over:
                return
            time.sleep(_LOOK_SECONDS)

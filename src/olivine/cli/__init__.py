"""The command line: a table of commands, each in a file of its own that is imported when it runs.

`olivine --help` imports click and nothing else of weight: that is tested.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from olivine import __version__

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from olivine.errors import OlivineError

# name -> what it does, in one line; the command is `command` in olivine.cli.<name>, and its help begins with the same
# line
COMMANDS = {
    "init": "Write a first config, from your rows and five answers.",
    "run": "Run a workflow: exit 0 only when the promised model exists and keeps its goals.",
    "plan": "Show what would run, what it needs and every problem; touches nothing.",
    "optimize": "Find the cheapest way to a model that meets your goals on this machine, measured on what ships.",
    "finetune": "Fine-tune a model on your rows, and measure what it gained on rows that were held out.",
    "quantize": "Quantize a checkpoint or an ONNX model, and measure what it costs.",
    "export": "Export a model to ONNX, quantized on the way where the precision says so, and measure what it costs.",
    "bench": "Measure the speed, memory and size of a model, as people run it.",
    "data": "Look at what training would see: samples, lengths, what is cut, doubled or shared.",
    "migrate": "Rewrite an old config in today's form and say what changed meaning.",
    "passes": "List the passes, or the params of one.",
    "schema": "Print the JSON schema of the config, for an editor's completion.",
    "evaluate": "Score a model on the rows of a config.",
    "parity": "Compare a model with the one it was made from, token by token.",
    "report": "Draw the page of a run again, or compare several runs on one page.",
    "push": "Upload what a run delivered to a repository of the Hugging Face hub.",
    "chat": "Talk to a model that was built.",
    "jobs": "Look after runs that were started with --detach.",
    "cache": "See what is stored, free space, check every byte.",
    "completion": "Print what makes a shell complete the commands, their options and the names of passes.",
    "doctor": "Look at the machine and the packages, and say how to fix what is broken.",
}


class _LazyGroup(click.Group):
    """Commands by name from COMMANDS; a module is imported when its command is asked for, not for the list."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"olivine.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            ctx.fail(f"no command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Commands that begin so, without importing one."""
        from click.shell_completion import CompletionItem

        fitting = [
            CompletionItem(name, help=text.rstrip("."))
            for name, text in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*fitting, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="olivine")
@click.pass_context
def olivine(context: click.Context) -> None:
    """From a base language model and your data to a model that is ready to ship, measured at every step."""
    if os.environ.get("NO_COLOR"):  # no-color.org
        context.color = False


def main(arguments: Sequence[str] | None = None) -> None:
    """The program: parse, run, and turn every expected failure into one sentence and an exit code."""
    from olivine.cli._process import answer_soon, end_in_order, write_anything, write_to_nobody

    answer_soon()
    write_to_nobody()
    write_anything()
    end_in_order()
    sys.exit(exit_code(arguments))


def exit_code(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 done, 1 a step failed or a goal was missed, 2 the request was wrong, 130 interrupted.

    SIGTERM ends with 143, SIGHUP with 129.
    """
    from olivine.errors import Interrupted, OlivineError

    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        result = olivine.main(args=arguments, standalone_mode=False, complete_var="_OLIVINE_COMPLETE")
    except click.ClickException as error:
        return _tell_usage(error, as_json="--json" in arguments)
    except (click.Abort, KeyboardInterrupt) as stop:
        cause = stop if isinstance(stop, KeyboardInterrupt) else stop.__cause__  # click hides it
        return _tell(Interrupted.by(cause if isinstance(cause, KeyboardInterrupt) else KeyboardInterrupt()))
    except OlivineError as error:
        return _tell(error)
    except OSError as error:
        from olivine.cli._common import of_the_system

        failure = of_the_system(error)
        if failure is None:
            raise
        return _tell(failure)
    return result if isinstance(result, int) else 0


def _tell(error: "OlivineError") -> int:
    from olivine.cli._common import say

    for line in str(error).splitlines():
        say(f"olivine: {line}", err=True)
    return error.exit_code


def _tell_usage(error: click.ClickException, *, as_json: bool) -> int:
    """How the command is written, and what is wrong with this one."""
    from olivine.cli._common import print_refused, say
    from olivine.errors import RequestError

    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # a group without a command: its help is the answer
        click.echo(error.format_message(), err=True)
        return error.exit_code
    if as_json:
        print_refused(RequestError(error.format_message()).problems())
    context = getattr(error, "ctx", None)
    if isinstance(context, click.Context):
        click.echo(f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n", err=True)
    say(f"olivine: {error.format_message()}", err=True)
    return error.exit_code

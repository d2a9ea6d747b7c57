"""`olivine completion`."""

import os
from pathlib import Path

import click

# shell -> where the line goes that loads the completion, and that line
_SHELLS = {
    "bash": ("~/.bashrc", 'eval "$(olivine completion bash)"'),
    "zsh": ("~/.zshrc", 'eval "$(olivine completion zsh)"'),
    "fish": ("~/.config/fish/config.fish", "olivine completion fish | source"),
}


@click.command("completion")
@click.argument("shell", required=False, type=click.Choice(list(_SHELLS)))
def command(shell: str | None) -> int:
    """Print what makes a shell complete the commands, their options and the names of passes.

    Without SHELL it says, for the shell that you use, what to write where.
    """
    if shell is None:
        _explain(Path(os.environ.get("SHELL", "")).name)
        return 0
    from click.shell_completion import get_completion_class

    from olivine.cli import olivine

    complete = get_completion_class(shell)
    if complete is not None:  # all of _SHELLS are click's own
        click.echo(complete(olivine, {}, "olivine", "_OLIVINE_COMPLETE").source())
    return 0


def _explain(shell: str) -> None:
    """Say where the line goes; for every shell where this one is not known."""
    for name in [shell] if shell in _SHELLS else _SHELLS:
        place, line = _SHELLS[name]
        click.echo(f"{name}: put this line into {place}, and start a new shell:\n    {line}")

"""`olivine migrate`."""

import json
from pathlib import Path

import click

from olivine.cli._common import json_option, print_json


@click.command("migrate")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write the config there instead of printing it.")
@json_option
def command(file: Path, output: Path | None, as_json: bool) -> int:
    """Rewrite an old config in today's form and say what changed meaning.

    The config goes to standard output (or to --output), a line for each change to standard error.
    """
    from olivine.config import migrate, read

    config, notes = migrate(read(file))
    if as_json:
        print_json({"config": config, "translated": [str(note) for note in notes]})
        return 0
    for note in notes:
        click.secho(str(note), err=True, fg="yellow" if note.warning else None)
    text = json.dumps(config, indent=2, ensure_ascii=False)
    if output is None:
        click.echo(text)
    else:
        _write_new(output, text + "\n")
    return 0


def _write_new(path: Path, text: str) -> None:
    """Create the file; one that exists is the user's and stays as it is."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise click.UsageError(f"{path} exists and would be overwritten; choose another --output") from None
    except OSError as error:
        raise click.UsageError(f"{path} cannot be written: {error.strerror}") from None

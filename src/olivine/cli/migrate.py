"""`olivine migrate`."""

import json
from pathlib import Path

import click

from olivine.cli._common import config_option, json_option, one_file, print_json, say


@click.command("migrate")
@config_option
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write the config there instead of printing it.")
@json_option
def command(config: Path | None, config_file: Path | None, output: Path | None, as_json: bool) -> int:
    """Rewrite an old config in today's form and say what changed meaning.

    The config goes to standard output (or to --output), a line for each change to standard error.
    """
    from olivine.config import migrate, read

    today, notes = migrate(read(one_file(config, config_file)))
    if as_json:
        print_json({"config": today, "translated": [str(note) for note in notes]})
        return 0
    for note in notes:
        say(str(note), err=True, fg="yellow" if note.warning else None)
    text = json.dumps(today, indent=2, ensure_ascii=False)
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

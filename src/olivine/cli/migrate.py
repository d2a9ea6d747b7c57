"""`olivine migrate`."""

import json
from pathlib import Path
from typing import Any

import click

from olivine.cli._common import config_option, json_option, json_text, one_file, print_json, say, write_file


@click.command("migrate")
@config_option
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write the config there instead of printing it.")
@json_option
def command(config: Path | None, config_file: Path | None, output: Path | None, as_json: bool) -> int:
    """Rewrite an old config in today's form and say what changed meaning.

    The config goes to standard output (or to --output), a line for each change to standard error.
    """
    from olivine.config import migrate, read

    named = one_file(config, config_file)
    today, notes = migrate(read(named))
    if as_json:
        print_json({"config": today, "translated": [str(note) for note in notes]})
        return 0
    for note in notes:
        say(str(note), err=True, fg="yellow" if note.warning else None)
    if output is None:
        click.echo(json_text(today, indent=2))
    elif output.exists():
        raise click.UsageError(f"{output} exists and would be overwritten; choose another --output")
    else:
        write_file(output, json.dumps(today, indent=2, ensure_ascii=False) + "\n")
    folder = output.absolute().parent if output is not None else Path.cwd()  # where a shell's > would put it
    if folder != named.absolute().parent and (files := _relative_files(today)):
        say(f"'{files[0]}' is looked for beside the config: move the data too, or write its whole path", err=True)
    return 0


def _relative_files(config: dict[str, Any]) -> list[str]:
    """Files and folders of data that a config names by where it lies itself."""
    loads = (data.get("load_dataset_config") or {} for data in config.get("data_configs") or ())
    named = [value for load in loads for value in (load.get("data_files"), load.get("data_dir"))]
    files = [file for value in named for file in (value if isinstance(value, list) else [value])]
    return [file for file in files if isinstance(file, str) and "://" not in file and not Path(file).is_absolute()]

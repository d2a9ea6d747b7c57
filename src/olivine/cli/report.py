"""`olivine report`."""

from pathlib import Path

import click

from olivine.cli._common import json_option, print_json, written_to

COMPARISON = "comparison.html"


@click.command("report")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="The file to write.")
@json_option
def command(runs: tuple[Path, ...], output: Path | None, as_json: bool) -> int:
    """Draw the page of a run again, or compare several runs on one page.

    RUN is an output folder, or its journal.jsonl. The page of one run is its report.html, that of several is
    comparison.html in the current folder; --output names another file. It is one file that loads nothing.
    """
    from olivine.paths import of_user
    from olivine.report import REPORT, last_run, write_report

    folders = [_folder(of_user(run)) for run in runs]
    drawn = [last_run(folder) for folder in folders]
    path = output or (folders[0] / REPORT if len(folders) == 1 else Path(COMPARISON))
    with written_to(path):
        write_report(drawn, path)
    if as_json:
        print_json({"report": str(path)})
    else:
        click.echo(str(path))
    return 0


def _folder(run: Path) -> Path:
    """The output folder of a run that is named by its folder or its journal."""
    return run.parent if run.name == "journal.jsonl" else run

"""`olivine push`."""

import sys
from pathlib import Path

import click

from olivine.cli._common import json_option, print_json


@click.command("push")
@click.argument("output_dir", type=click.Path(path_type=Path))
@click.argument("repository", metavar="USER/NAME")
@click.option("--private", is_flag=True, help="Make a repository that is new a private one.")
@click.option("--branch", metavar="NAME", help="Another branch than main; it is made where it is not there.")
@click.option("--with-run", is_flag=True, help="Also the report and the config, which quote rows and name paths.")
@json_option
def command(output_dir: Path, repository: str, private: bool, branch: str | None, with_run: bool, as_json: bool) -> int:
    """Upload what a run delivered to a repository of the Hugging Face hub.

    OUTPUT_DIR is that of a run: its model, and beside it README.md, run.py and metrics.json. The repository is made
    where it is not there. The token is that of HF_TOKEN, or of 'hf auth login'.
    """
    from olivine.paths import of_user
    from olivine.workflow.push import check_delivery, push

    folder = Path(of_user(output_dir))
    check_delivery(folder, repository)
    if not sys.stderr.isatty():
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
    address = push(folder, repository, private=private, branch=branch, with_run=with_run)
    if as_json:
        print_json({"commit": address})
    else:
        click.echo(address)
    return 0

"""`olivine plan`."""

from pathlib import Path

import click

from olivine.cli._common import config_options, json_option, print_json, print_problems, read_plan, told_as_json


@click.command("plan")
@config_options
@json_option
def command(config: Path, overrides: tuple[str, ...], offline: bool, as_json: bool) -> int:
    """Show what would run, what it needs and every problem; touches nothing.

    Exit code 0 when the workflow could run here, 2 when anything keeps it from running.
    """
    from olivine.workflow.plan import lines, to_json

    with told_as_json(as_json):
        plan = read_plan(config, overrides, offline=offline)
    if as_json:
        print_json(to_json(plan))
    else:
        click.echo("\n".join(lines(plan)))
        print_problems(plan.problems)
    return 2 if plan.problems else 0

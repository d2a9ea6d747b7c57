"""`olivine doctor`."""

from itertools import groupby

import click

from olivine.cli._common import json_option, print_json, say


@click.command("doctor")
@click.option("--hub", is_flag=True, help="Also ask the hub of models whether it answers, over the network.")
@json_option
def command(hub: bool, as_json: bool) -> int:
    """Look at the machine and the packages, and say how to fix what is broken.

    Every execution provider is tried. Exit code 1 when something is broken.
    """
    from dataclasses import asdict

    from olivine.workflow.doctor import diagnose

    findings = diagnose(ask_hub=hub)
    if as_json:
        records = [asdict(finding) for finding in findings]
        print_json([record if not record["ok"] else record | {"fix": ""} for record in records])
        return 0 if all(finding.ok for finding in findings) else 1
    for area, some in groupby(findings, key=lambda finding: finding.area):
        say(area, bold=True)
        for finding in some:
            mark = click.style("ok ", fg="green") if finding.ok else click.style("BAD", fg="red")
            say(f"  {mark} {finding.name}: {finding.message}", indent=6)
            if finding.fix and not finding.ok:
                say(f"      {finding.fix}", indent=6)
    return _sum_up([finding.name for finding in findings if not finding.ok])


def _sum_up(broken: list[str]) -> int:
    """The last line, which one reads first."""
    if not broken:
        say("nothing is broken", fg="green")
        return 0
    say(f"to be mended: {', '.join(dict.fromkeys(broken))}", fg="red")
    return 1

"""`olivine doctor`."""

import click

from olivine.cli._common import json_option, print_json


@click.command("doctor")
@json_option
def command(as_json: bool) -> int:
    """Look at the machine and the packages, and say how to fix what is broken.

    Exit code 1 when something is broken.
    """
    from dataclasses import asdict

    from olivine.workflow.doctor import diagnose

    findings = diagnose()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = click.style("ok ", fg="green") if finding.ok else click.style("BAD", fg="red")
            click.echo(f"{mark} {finding.name}: {finding.message}")
            if finding.fix and not finding.ok:
                click.echo(f"    {finding.fix}")
    return 0 if all(finding.ok for finding in findings) else 1

"""`olivine doctor`."""

import click

from olivine.cli._common import json_option, print_json, say


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
        records = [asdict(finding) for finding in findings]
        print_json([record if not record["ok"] else record | {"fix": ""} for record in records])
    else:
        for finding in findings:
            mark = click.style("ok ", fg="green") if finding.ok else click.style("BAD", fg="red")
            say(f"{mark} {finding.name}: {finding.message}")
            if finding.fix and not finding.ok:
                say(f"    {finding.fix}")
    return 0 if all(finding.ok for finding in findings) else 1

"""What a run would send to the systems of a plan, written into a folder instead."""

from pathlib import Path

import yaml

from olivine.errors import Unsupported
from olivine.store.files import usable_folder
from olivine.workflow.engine import reserve
from olivine.workflow.resolved import resolved
from olivine.workflow.steps import Plan


def write_manifests(plan: Plan) -> tuple[list[Path], list[str]]:
    """The files, and what should be known of them.

    Raises Unsupported where no system of the plan is sent a manifest.
    """
    reserve(plan)
    workflow = resolved(plan)
    by_host = {name: host.system.manifests(name, workflow) for name, host in plan.hosts.items() if name is not None}
    if not any(written.documents for written in by_host.values()):
        raise Unsupported("--dry-run writes manifests of Kubernetes systems, and nothing of this config runs on one")
    folder = plan.output_dir / "manifests"
    usable_folder(folder, f"the folder '{folder}'")
    files = []
    for host, written in by_host.items():
        for name, documents in written.documents.items():
            files.append(folder / f"{host}-{name}.yaml")
            files[-1].write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")
    return files, [note for written in by_host.values() for note in written.notes]

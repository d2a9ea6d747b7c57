"""How to repeat it: command, config, machine, versions."""

import shlex
from pathlib import Path

from markupsafe import Markup

from olivine.report.html import rendered
from olivine.report.run import Run
from olivine.report.section import Section
from olivine.report.values import size


class Environment(Section):
    """What decided the result."""

    title = "Repeat it"
    place = 90

    def draw(self, run: Run) -> Markup:
        """The command, what was made of the config, the config itself, machine and versions."""
        machine = run.started.machine
        gpus = ", ".join(machine.get("gpu_names", ()))
        told = [
            ("device", machine.get("device")),
            ("execution provider of the result", machine.get("execution_provider")),
            ("cores", machine.get("n_cores")),
            ("memory", size(machine["memory_bytes"]) if machine.get("memory_bytes") else None),
            ("GPUs", gpus or None),
            ("memory of a GPU", size(machine["device_memory_bytes"]) if machine.get("device_memory_bytes") else None),
        ]
        return rendered(
            "environment.html",
            command=f"olivine run --config {shlex.quote(str(Path(run.output_dir) / 'workflow.json'))}",
            machine=[(name, value) for name, value in told if value is not None],
            versions=run.started.versions,
            hosts=run.started.hosts,
            translated=run.started.translated,
            workflow=run.started.workflow,
        )

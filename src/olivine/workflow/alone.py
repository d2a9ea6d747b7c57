"""One job for a worker outside of a workflow: what is measured or proven of a model that nobody keeps."""

import os
import tempfile
from pathlib import Path
from typing import Any

from olivine.errors import Interrupted, RequestError, StepFailed
from olivine.systems import Job, SystemParams
from olivine.systems.local import Local
from olivine.workflow.events import Listener, Noted, Progress, StepStarted, Warned


def run_alone(step: str, description: str, listen: Listener, **fields: Any) -> dict[str, Any]:
    """The result of a job; what it writes goes to a folder that is gone afterwards.

    listen: hears what the job tells. fields: of Job. RequestError when the job refuses what is asked of it: nothing was
    kept. The log of a job that fails otherwise stays, as the error names it.
    """

    def hear(event: str, told: Any) -> None:
        if event == "progress":
            listen(Progress(step=step, done=told["done"], total=told["total"], metrics=told["metrics"]))
        elif event == "note":
            listen(Noted(step=step, message=told["message"]))
        elif event == "warning":
            listen(Warned(step=step, message=told["message"]))

    opened, log = tempfile.mkstemp(prefix=f"olivine-{step}-", suffix=".log")
    os.close(opened)
    with tempfile.TemporaryDirectory() as folder, Local(SystemParams()).worker() as worker:
        job = Job(step=step, output=Path(folder), scratch=Path(folder) / "scratch", log=log, **fields)
        listen(StepStarted(step=step, description=description))
        try:
            result: dict[str, Any] = worker.run(job, hear)
        except Interrupted:
            Path(log).unlink(missing_ok=True)
            raise
        except StepFailed as failure:
            if not failure.is_refused:
                raise
            Path(log).unlink(missing_ok=True)
            raise RequestError(failure.cause) from failure
    Path(log).unlink(missing_ok=True)
    return result

"""The services of a workspace's region: where they are, and the history of runs with their logs."""

import re

from . import blobs

_RUN = re.compile(
    r"/history/v1\.0/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/(?P<workspace>[^/]+)/runs/(?P<name>[^/]+)/details"
)
ACCOUNT, CONTAINER = "storeaccount", "azureml"
LOG = "user_logs/std_log.txt"


def answer(request):
    azure = request.azure
    if request.path == "/discovery":
        request.reply(200, {"api": "https://eastus.api.azureml.ms", "history": "https://eastus.api.azureml.ms"})
        return
    if not request.bearer("https://management.azure.com"):
        return
    parts = _RUN.fullmatch(request.path)
    name = parts["name"] if parts is not None else ""
    if parts is None or parts["workspace"] != azure.workspace or name not in azure.jobs:
        request.error(404, "UserError", f"Run {name} was not found")
        return
    run = azure.runs.get(name)
    signed = f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}/{log_of(name)}?{blobs.READS}"
    details = {"runId": name, "status": azure.jobs[name]["status"], "logFiles": {LOG: signed}}
    if run is not None and run.error:
        details["error"] = {"error": {"code": "UserError", "message": run.error}}
    request.reply(200, details)


def log_of(name):
    """Where the log of a job lies in the container."""
    return f"ExperimentRun/dcid.{name}/{LOG}"

"""The services of a workspace's region: where they are, and the history of runs with their logs."""

import re

from . import blobs

_RUN = re.compile(
    r"/history/v1\.0/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/(?P<workspace>[^/]+)/runs/(?P<name>[^/]+)/details"
)
ACCOUNT, CONTAINER = "storeaccount", "azureml"


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
    n_nodes = run.n_nodes if run is not None else 1
    where = f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}/{_folder(name)}"
    logs = {log: f"{where}/{log}?{blobs.READS}" for log in (_log(node, n_nodes) for node in range(n_nodes))}
    details = {"runId": name, "status": azure.jobs[name]["status"], "logFiles": logs}
    if run is not None and run.error:
        details["error"] = {"error": {"code": "UserError", "message": run.error}}
    request.reply(200, details)


def log_of(name, node=0, n_nodes=1):
    """Where the log of a job on one of its nodes lies in the container."""
    return f"{_folder(name)}/{_log(node, n_nodes)}"


def _folder(name):
    return f"ExperimentRun/dcid.{name}"


def _log(node, n_nodes):
    return "user_logs/std_log.txt" if n_nodes == 1 else f"user_logs/std_log_process_{node}.txt"

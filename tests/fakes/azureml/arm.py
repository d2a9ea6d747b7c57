"""Azure Resource Manager: a workspace with its models, datastores and jobs."""

import re

from . import blobs

HOST = re.compile(r"management\.azure\.com")
_VERSION = re.compile(r"20\d\d-\d\d-\d\d(-preview)?")
_WORKSPACE = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resource[gG]roups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/(?P<workspace>[^/]+)(?P<rest>/.*)?"
)
_SYSTEM = {"createdAt": "2026-01-01T00:00:00Z", "createdBy": "someone", "createdByType": "User"}


def answer(request):
    azure = request.azure
    if not request.bearer("https://management.azure.com"):
        return
    if not _VERSION.fullmatch(request.query.get("api-version", "")):
        request.error(400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required.")
        return
    parts = _WORKSPACE.fullmatch(request.path)
    if parts is None:
        request.error(404, "NotFound", request.path)
    elif parts["subscription"] != azure.subscription:
        request.error(404, "SubscriptionNotFound", f"The subscription '{parts['subscription']}' could not be found.")
    elif parts["group"] != azure.group:
        request.error(404, "ResourceGroupNotFound", f"Resource group '{parts['group']}' could not be found.")
    elif parts["workspace"] != azure.workspace:
        name = f"Microsoft.MachineLearningServices/workspaces/{parts['workspace']}"
        request.error(404, "ResourceNotFound", f"The Resource '{name}' under resource group was not found.")
    elif any(re.search(pattern, request.path) for pattern in azure.forbidden):
        request.error(403, "AuthorizationFailed", "The client does not have authorization to perform action.")
    else:
        _workspace(request, parts["rest"] or "")


def _workspace(request, rest):
    for method, pattern, serve in _ROUTES:
        if request.method == method and (parts := re.fullmatch(pattern, rest)) is not None:
            serve(request, **parts.groupdict())
            return
    request.error(404, "NotFound", request.path)


def _model(request, name, version):
    path = request.azure.models.get((name, version))
    if path is None:
        request.error(404, "UserError", f"ModelNotFound: {name}:{version}")
        return
    properties = {"modelType": "mlflow_model", "modelUri": path, "tags": {}, "properties": {}, "flavors": {}}
    properties |= {"isArchived": False, "isAnonymous": False, "provisioningState": "Succeeded"}
    request.reply(200, {"id": request.path, "name": version, "properties": properties, "systemData": _SYSTEM})


def _datastore(request, name):
    if name not in request.azure.datastores:
        request.error(404, "UserError", f"Could not find datastore with name: {name}")
        return
    account, container, kind = request.azure.datastores[name]
    properties = {
        "datastoreType": "AzureBlob",
        "accountName": account,
        "containerName": container,
        "endpoint": "core.windows.net",
        "protocol": "https",
        "credentials": {"credentialsType": kind},
        "isDefault": name == "workspaceblobstore",
        "serviceDataAccessAuthIdentity": "None",
        "tags": {},
        "properties": {},
    }
    request.reply(200, {"id": request.path, "name": name, "properties": properties, "systemData": _SYSTEM})


def _secrets(request, name):
    kind = request.azure.datastores[name][2]
    secret = {"sasToken": blobs.SIGNATURE} if kind == "Sas" else {"key": blobs.KEY}
    request.reply(200, {"secretsType": kind, **secret})


def _job(request, name):
    if name not in request.azure.jobs:
        request.error(404, "UserError", f"Job {name} was not found.")
        return
    request.reply(
        200, {"id": request.path, "name": name, "systemData": _SYSTEM, "properties": request.azure.jobs[name]}
    )


_ROUTES = [
    ("GET", "/models/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", _model),
    ("GET", "/datastores/(?P<name>[^/]+)", _datastore),
    ("POST", "/datastores/(?P<name>[^/]+)/listSecrets", _secrets),
    ("GET", "/jobs/(?P<name>[^/]+)", _job),
]

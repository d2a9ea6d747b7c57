"""Azure Resource Manager: a workspace with its computes, environments, models, datastores and jobs."""

import re

from azure.ai.ml._restclient.arm_ml_service import models

from . import blobs, nodes

HOST = re.compile(r"management\.azure\.com")
_VERSION = re.compile(r"20\d\d-\d\d-\d\d(-preview)?")
_WORKSPACE = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resource[gG]roups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/(?P<workspace>[^/]+)(?P<rest>/.*)?"
)
_SIZES = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/providers/Microsoft\.MachineLearningServices/locations/eastus/vmSizes"
)
_JOB_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,254}")
_SYSTEM = {"createdAt": "2026-01-01T00:00:00Z", "createdBy": "someone", "createdByType": "User"}


def answer(request):
    azure = request.azure
    if not request.bearer("https://management.azure.com"):
        return
    if not _VERSION.fullmatch(request.query.get("api-version", "")):
        request.error(400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required.")
        return
    if (sizes := _SIZES.fullmatch(request.path)) is not None and sizes["subscription"] == azure.subscription:
        _vm_sizes(request)
        return
    if "/mfeOperationResults/" in request.path:
        request.reply(200, {})
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
        if re.fullmatch(method, request.method) and (parts := re.fullmatch(pattern, rest)) is not None:
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


def _itself(request):
    azure = request.azure
    near = f"/subscriptions/{azure.subscription}/resourceGroups/{azure.group}/providers"
    properties = {
        "friendlyName": azure.workspace,
        "discoveryUrl": "https://eastus.api.azureml.ms/discovery",
        "workspaceId": "cccccccc-0000-0000-0000-000000000003",
        "storageAccount": f"{near}/Microsoft.Storage/storageAccounts/storeaccount",
        "keyVault": f"{near}/Microsoft.KeyVault/vaults/{azure.vault}" if azure.vault else None,
        "provisioningState": "Succeeded",
        "mlFlowTrackingUri": "azureml://eastus.api.azureml.ms/mlflow",
    }
    identity = {"type": "SystemAssigned", "principalId": "p", "tenantId": "t"}
    told = {"id": request.path, "name": azure.workspace, "location": "eastus", "type": "workspaces", "tags": {}}
    request.reply(200, {**told, "identity": identity, "properties": properties, "systemData": _SYSTEM})


def _vm_sizes(request):
    sizes = [
        {
            "name": name,
            "family": "f",
            "vCPUs": 4,
            "gpus": gpus,
            "memoryGB": 14.0,
            "supportedComputeTypes": ["AmlCompute"],
        }
        for name, gpus in request.azure.sizes.items()
    ]
    request.reply(200, {"value": sizes})


def _resource(request, name):
    properties = request.azure.computes[name]
    return {"id": f"{request.path}", "name": name, "location": "eastus", "properties": properties}


def _compute(request, name):
    if name not in request.azure.computes:
        request.error(404, "ResourceNotFound", f"The Resource 'computes/{name}' was not found.")
        return
    request.reply(200, _resource(request, name))


def _computes(request):
    request.reply(200, {"value": [_resource(request, name) for name in request.azure.computes]})


def _unknown_keys(given, model):
    """Keys that the service's own model of the object lacks."""
    known = {one._rest_name for one in model({})._attr_to_rest_field.values()}  # filled by the first object
    return sorted(set(given) - known)


def _environment(request, name, version):
    identity = request.path
    azure = request.azure
    if request.method == "PUT":
        properties = request.json()["properties"]
        if unknown := _unknown_keys(properties, models.EnvironmentVersionProperties):
            request.error(400, "UserError", f"Could not find member {unknown[0]}")
            return
        if bool(properties.get("image")) == bool(properties.get("build")):
            request.error(400, "UserError", "Exactly one of image and build must be given.")
            return
        if identity in azure.environments and azure.environments[identity] != properties:
            request.error(409, "UserError", "Environment version is immutable.")
            return
        if properties.get("build") and not azure.blob_folder(properties["build"]["contextUri"]).is_dir():
            request.error(400, "UserError", "The build context does not exist.")
            return
        azure.environments[identity] = properties
    elif identity not in azure.environments:
        request.error(404, "UserError", f"EnvironmentNotFound: {name}:{version}")
        return
    properties = {"environmentType": "UserCreated", "osType": "Linux", **azure.environments[identity]}
    request.reply(200, {"id": identity, "name": version, "properties": properties, "systemData": _SYSTEM})


def _environment_versions(request, name):
    found = [one for one in request.azure.environments if one.rpartition("/versions/")[0] + "/versions" == request.path]
    if not found:
        request.error(404, "UserError", f"EnvironmentNotFound: {name}")
        return
    values = [
        {
            "id": one,
            "name": one.rpartition("/")[2],
            "properties": request.azure.environments[one],
            "systemData": _SYSTEM,
        }
        for one in reversed(found)
    ]
    request.reply(200, {"value": values})


def _job(request, name):
    if name not in request.azure.jobs:
        request.error(404, "UserError", f"Job {name} was not found.")
        return
    _show_job(request, name)


def _show_job(request, name):
    azure = request.azure
    near = f"/subscriptions/{azure.subscription}/resourceGroups/{azure.group}/workspaces/{azure.workspace}"
    studio = {"jobServiceType": "Studio", "endpoint": f"https://ml.azure.com/runs/{name}?wsid={near}"}
    properties = {"services": {"Studio": studio}, "tags": {}, "properties": {}, **azure.jobs[name]}
    request.reply(200, {"id": request.path, "name": name, "systemData": _SYSTEM, "properties": properties})


def _start(request, name):
    """A job: what the service would refuse is refused."""
    azure, given = request.azure, request.json()["properties"]
    if (why := _unfit(azure, name, given)) is not None:
        request.error(400, "UserError", why)
        return
    if name in azure.jobs:
        if azure.sent[name] != given:
            request.error(409, "UserError", f"A job with this name already exists: {name}")
            return
        _show_job(request, name)
        return
    azure.sent[name] = given
    azure.jobs[name] = {**given, "status": "Queued" if azure.has_no_nodes else "Starting"}
    azure.runs[name] = nodes.Run(azure, name)
    _show_job(request, name)


def _unfit(azure, name, given):
    """The first thing that the service would refuse, if any."""
    return next(_faults(azure, name, given), None)


def _faults(azure, name, given):
    if _JOB_NAME.fullmatch(name) is None:
        yield f"the job name {name} is invalid"
    if given.get("jobType") != "Command" or not str(given.get("command", "")).strip():
        yield "a command job has a command"
    for part, model in ((given, models.CommandJob), (given.get("resources") or {}, models.JobResourceConfiguration)):
        if unknown := _unknown_keys(part, model):
            yield f"Could not find member {unknown[0]}"
    yield from _unfit_nodes(azure, given)
    near = f"/workspaces/{azure.workspace}/computes/"
    if near not in str(given.get("computeId")) or given["computeId"].rpartition("/")[2] not in azure.computes:
        yield f"Unknown compute target '{given.get('computeId')}'"
    if given.get("environmentId") not in azure.environments:
        yield f"the environment {given.get('environmentId')} does not exist"
    values = [*(given.get("environmentVariables") or {}).values(), *(given.get("tags") or {}).values()]
    if not all(isinstance(value, str) for value in values):
        yield "variables and tags are texts"
    bound = set(given.get("inputs") or {})
    for key, one in (given.get("inputs") or {}).items():
        is_model = "/registries/" in str(one.get("uri"))
        if one.get("mode") not in ("ReadOnlyMount", "Download") or azure.mounted(str(one.get("uri"))) is None:
            yield f"the input {key} is nothing that a node can see: {one}"
        elif one.get("jobInputType") != ("mlflow_model" if is_model else "uri_folder"):
            yield f"the input {key} is of another type than what lies there: {one}"
    for text in (given["command"], *(given.get("environmentVariables") or {}).values()):
        names = set(re.findall(r"\$\{\{inputs\.(\w+)\}\}", text))
        if names - bound or re.search(r"\$\{\{(?!inputs\.)", text):
            yield f"the job names what is not bound: {sorted(names - bound)}"


def _unfit_nodes(azure, given):
    """What is wrong with the nodes that a job asks for."""
    n_nodes, distribution = (given.get("resources") or {}).get("instanceCount", 1), given.get("distribution")
    compute = azure.computes.get(str(given.get("computeId")).rpartition("/")[2], {}).get("properties", {})
    most = compute.get("scaleSettings", {}).get("maxNodeCount", n_nodes)
    if n_nodes > most:
        yield f"The requested {n_nodes} nodes exceed the maximum of {most} of the compute"
    if distribution is not None:
        if unknown := _unknown_keys(distribution, models.PyTorch):
            yield f"Could not find member {unknown[0]}"
        if distribution.get("distributionType") != "PyTorch" or distribution.get("processCountPerInstance") != 1:
            yield f"no such distribution is known here: {distribution}"
    elif n_nodes > 1:
        yield "a job of several nodes without a distribution runs the same command on each"


def _cancel(request, name):
    azure = request.azure
    if name not in azure.jobs:
        request.error(404, "UserError", f"Job {name} was not found.")
    elif azure.jobs[name]["status"] in ("Completed", "Failed", "Canceled"):
        request.error(400, "UserError", f"Job {name} is in a terminal state.")
    else:
        azure.runs[name].cancel()
        near = f"/subscriptions/{azure.subscription}/providers/Microsoft.MachineLearningServices/locations/eastus"
        location = f"https://management.azure.com{near}/mfeOperationResults/jc:{name}?api-version=2025-01-01-preview"
        request.reply(202, b"", {"Location": location, "Retry-After": "1"})


_ROUTES = [
    ("GET", "", _itself),
    ("GET", "/computes/(?P<name>[^/]+)", _compute),
    ("GET", "/computes", _computes),
    ("GET", "/models/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", _model),
    ("GET", "/datastores/(?P<name>[^/]+)", _datastore),
    ("POST", "/datastores/(?P<name>[^/]+)/listSecrets", _secrets),
    ("GET", "/environments/(?P<name>[^/]+)/versions", _environment_versions),
    ("(GET|PUT)", "/environments/(?P<name>[^/]+)/versions/(?P<version>[^/]+)", _environment),
    ("GET", "/jobs/(?P<name>[^/]+)", _job),
    ("PUT", "/jobs/(?P<name>[^/]+)", _start),
    ("POST", "/jobs/(?P<name>[^/]+)/cancel", _cancel),
]

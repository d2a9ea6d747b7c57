"""A registry: where it is, its models, and the signature by which one of them may be read."""

import re

from . import blobs, runs

HOST = re.compile(r"[a-z]+\.api\.azureml\.ms")
ACCOUNT, CONTAINER = "registryaccount", "models"
_SUBSCRIPTION, _GROUP = "bbbbbbbb-0000-0000-0000-000000000002", "registry-group"
_ASSET = re.compile(
    rf"/mferp/managementfrontend/subscriptions/{_SUBSCRIPTION}/resourceGroups/{_GROUP}/providers"
    r"/Microsoft\.MachineLearningServices/registries/(?P<registry>[^/]+)"
    r"/(?P<kind>models|datarefs)/(?P<name>.+)/versions/(?P<version>[^/]+)"
)

_MARK = "flavors:\n  hftransformersv2:\n    model_data: data\n    task_type: text-generation\n"
_PARTS = {"model.safetensors": "model", "config.json": "config", "generation_config.json": "config"}


def put_mlflow(azure, model, account, container, prefix):
    """The folder of a model as MLflow keeps it."""
    azure.put(account, container, f"{prefix}/MLmodel", _MARK)
    for path in model.iterdir():
        part = _PARTS.get(path.name, "tokenizer")
        azure.put(account, container, f"{prefix}/data/{part}/{path.name}", path.read_bytes())


def answer(request):
    azure = request.azure
    if request.path.startswith(("/discovery", "/history/")):
        runs.answer(request)
        return
    if not request.bearer("https://management.azure.com"):
        return
    if request.path == f"/registrymanagement/v1.0/registries/{azure.registry}/discovery":
        request.reply(
            200,
            {
                "registryName": azure.registry,
                "primaryRegionResourceProviderUri": "https://westus.api.azureml.ms/",
                "resourceGroup": _GROUP,
                "subscriptionId": _SUBSCRIPTION,
            },
        )
        return
    parts = _ASSET.fullmatch(request.path)
    if parts is None or parts["registry"] != azure.registry:
        request.error(404, "RegistryNotFound", request.path)
        return
    path = azure.registry_models.get((parts["name"], parts["version"]))
    if path is None:
        request.error(404, "UserError", "Model not found in the registry.")
        return
    uri = f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}/{path}"
    if parts["kind"] == "models" and request.method == "GET":
        properties = {"modelType": "mlflow_model", "modelUri": uri, "tags": {}, "properties": {}, "flavors": {}}
        asset = f"azureml://registries/{parts['registry']}/models/{parts['name']}/versions/{parts['version']}"
        request.reply(200, {"id": asset, "name": parts["version"], "properties": properties})
    elif parts["kind"] == "datarefs" and request.method == "POST":
        _reference(request, parts, uri)
    else:
        request.error(405, "MethodNotAllowed", request.method)


def _reference(request, parts, uri):
    asset = f"azureml://registries/{parts['registry']}/models/{parts['name']}/versions/{parts['version']}"
    if request.json() != {"assetId": asset, "blobUri": uri}:
        request.error(400, "UserError", f"wrong reference: {request.body!r}")
        return
    signed = f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}?{blobs.READS}"
    credential = {"credentialType": "SAS", "sasUri": signed}
    request.reply(200, {"blobReferenceForConsumption": {"blobUri": uri, "credential": credential}})

"""AzureML by its own SDK: workspaces and registries, credentials, jobs, and the files that lie in their stores."""

from olivine.azureml._blobs import Asset, Blobs
from olivine.azureml._client import Access, Refused, workspace_settings
from olivine.azureml._files import Address
from olivine.azureml._reference import Malformed, Reference, address_of, client_of, reference
from olivine.azureml._workspace import Command, Compute, Ended, Environment, Workspace

__all__ = [
    "Access",
    "Address",
    "Asset",
    "Blobs",
    "Command",
    "Compute",
    "Ended",
    "Environment",
    "Malformed",
    "Reference",
    "Refused",
    "Workspace",
    "address_of",
    "client_of",
    "reference",
    "workspace_settings",
]

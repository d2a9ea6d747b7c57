"""AzureML by its own SDK: workspaces and registries, credentials, and the files that lie in their stores."""

from olivine.azureml._client import Access, Refused, workspace_settings
from olivine.azureml._reference import Malformed, Reference, reference

__all__ = ["Access", "Malformed", "Reference", "Refused", "reference", "workspace_settings"]

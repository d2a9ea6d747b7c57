"""What a config says of a compute of AzureML, with places of this machine in full."""

from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from olivine.config.schema import AzureMLClient, AzureMLDocker, AzureMLSettings
from olivine.systems._base import FilePath, SystemParams, beside


class AzureMLParams(AzureMLSettings, SystemParams):
    """The compute, its environment and the workspace.

    Context of the validation: `folder` of the config, and `azureml_client`, the workspace where none is named.
    """

    azureml_client_config: AzureMLClient | None = Field(
        None, validate_default=True, description="the workspace; else that of the workflow"
    )
    requirements_file: FilePath | None = Field(
        None, description="what else is installed into an environment that is made"
    )

    @field_validator("azureml_client_config")
    @classmethod
    def _or_that_of_the_workflow(cls, client: AzureMLClient | None, info: ValidationInfo) -> AzureMLClient | None:
        client = client or (info.context or {}).get("azureml_client")
        if client is None or client.aml_config_path is None:
            return client
        return client.model_copy(update={"aml_config_path": beside(client.aml_config_path, info)})

    @field_validator("aml_docker_config")
    @classmethod
    def _with_places(cls, docker: AzureMLDocker | None, info: ValidationInfo) -> AzureMLDocker | None:
        if docker is None:
            return None
        named: dict[str, Any] = {
            "conda_file_path": docker.conda_file_path,
            "build_context_path": docker.build_context_path,
        }
        places = {key: beside(place, info) for key, place in named.items() if isinstance(place, str)}
        return docker.model_copy(update=places)

"""What a config says of a Kubernetes cluster, and of the pods there."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from olivine.systems._base import FilePath, SystemParams
from olivine.systems._secrets import refuse_secrets

_QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def _quantity(value: object) -> str:
    if _QUANTITY.fullmatch(text := str(value)) is None:
        raise ValueError(f"Kubernetes writes an amount as 4, 500m or 32Gi, and not as '{text}'")
    return text


def _name(value: str) -> str:
    if _NAME.fullmatch(value) is None:
        raise ValueError(f"names of Kubernetes have small letters, digits, '-' and '.', and '{value}' is none")
    return value


Quantity = Annotated[str, BeforeValidator(_quantity)]
Name = Annotated[str, AfterValidator(_name)]
Text = Annotated[str, BeforeValidator(lambda value: str(value).lower() if isinstance(value, bool) else str(value))]


class Toleration(BaseModel):
    """A taint of nodes that pods do not mind, as Kubernetes writes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str | None = Field(None, description="of the taint; else every key, with Exists")
    operator: Literal["Equal", "Exists"] = Field("Equal", description="whether the value counts")
    value: Text | None = Field(None, description="of the taint, with Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="of the taint; else every effect"
    )
    toleration_seconds: int | None = Field(
        None,
        validation_alias=AliasChoices("tolerationSeconds", "toleration_seconds"),
        serialization_alias="tolerationSeconds",
        description="how long a pod stays after a NoExecute taint came",
    )


class RayNodes(BaseModel):
    """A Ray cluster of such pods, for manifests of KubeRay."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workers: int = Field(gt=0, description="nodes beside the head, each as a pod is described here")
    version: str | None = Field(None, description="of Ray in the image, as KubeRay wants to know it")


class KubernetesParams(SystemParams):
    """Which cluster, what its pods are made of, and where files go."""

    image: str = Field(min_length=1, description="of the pods: a Python with this release of olivine in it")
    python: str = Field("python", description="how the Python of the image is called")
    kubeconfig: FilePath | None = Field(None, description="else that of KUBECONFIG, or ~/.kube/config")
    context: str | None = Field(None, description="of the kubeconfig; else its current one")
    namespace: Name | None = Field(None, description="else that of the context")
    files: str | None = Field(
        None,
        description="an address where files go that pods and this machine reach: s3://bucket/olivine, gs://, abfs://",
    )
    volume_claim: Name | None = Field(None, description="a claim that is mounted into the pods")
    volume_path: str = Field("", description="the folder of the claim that is used")
    volume_folder: FilePath | None = Field(
        None, description="where this machine has the same folder of the claim's volume, when there is no `files`"
    )
    cpus: Quantity | None = Field(None, description="cores that a pod asks for")
    memory: Quantity | None = Field(None, description="of a pod, such as 32Gi; else what the plan needs")
    ephemeral_storage: Quantity | None = Field(None, description="disk of a pod; else what the plan needs")
    gpus: int | None = Field(None, ge=0, description="of a pod; else as many as the accelerators say")
    nodes: int = Field(
        1,
        gt=0,
        le=1000,
        description="pods of a worker, on all of which fine-tuning runs; other passes run on the first",
    )
    gpu_resource: str = Field("nvidia.com/gpu", description="by which name nodes offer GPUs")
    node_selector: dict[str, Text] = Field(default_factory=dict, description="labels of the nodes that may be used")
    tolerations: list[Toleration] = Field(default_factory=list, description="taints of nodes that may be used")
    autoscales: bool = Field(False, description="nodes with GPUs come when they are needed: none need be there yet")
    env: dict[str, Text] = Field(default_factory=dict, description="variables of the environment of the pods")
    secrets: dict[str, str] = Field(
        default_factory=dict, description="variables whose values the node reads of a Secret: HF_TOKEN: NAME/KEY"
    )
    image_pull_secrets: list[Name] = Field(default_factory=list, description="Secrets with which the image is pulled")
    service_account: Name | None = Field(None, description="that the pods run as")
    priority_class: Name | None = Field(None, description="of the pods")
    labels: dict[str, Text] = Field(default_factory=dict, description="of Jobs and pods, for queues and quotas")
    ray: RayNodes | None = Field(
        None, description="let --dry-run also write a Ray cluster of such pods, for the operator KubeRay"
    )

    @field_validator("env")
    @classmethod
    def _holds_no_secret(cls, env: dict[str, str]) -> dict[str, str]:
        refuse_secrets(env, "name a Secret by 'secrets'")
        return env

    @field_validator("secrets")
    @classmethod
    def _are_places(cls, secrets: dict[str, str]) -> dict[str, str]:
        for place in secrets.values():
            if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-._a-zA-Z0-9]+", place):
                raise ValueError("a secret is named as NAME/KEY of a Secret of the namespace, such as hub/token")
        return secrets

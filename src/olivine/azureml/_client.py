"""A workspace or registry of AzureML: its settings, credentials, retries, and what it refuses as sentences."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from olivine import lazy
from olivine.config.schema import AzureMLClient
from olivine.errors import MissingExtra, ProblemKind, RequestError
from olivine.paths import of_user

_WORKSPACE = ("subscription_id", "resource_group", "workspace_name")
_N_RETRIES = 3
_RETRY_SECONDS = 5.0
_READ_SECONDS = 60.0
# What a token of each cloud is asked for; the SDK knows the cloud by the variable AZUREML_CURRENT_CLOUD.
_ARM = {
    "AzureUSGovernment": "https://management.usgovcloudapi.net",
    "AzureChinaCloud": "https://management.chinacloudapi.cn",
}
_REFUSALS = {
    "SubscriptionNotFound": "there is no subscription '{subscription_id}' for these credentials; 'az account list' "
    "names those that there are",
    "InvalidSubscriptionId": "'{subscription_id}' is no id of a subscription; 'az account list' names those that there "
    "are",
    "ResourceGroupNotFound": "the subscription has no resource group '{resource_group}'; 'az group list' names those "
    "that it has",
    "ResourceNotFound": "the resource group '{resource_group}' has no workspace '{workspace_name}'; "
    "'az ml workspace list -g {resource_group}' names those that it has",
}


class Refused(RequestError):  # noqa: N818 - as in olivine.errors
    """AzureML refuses a request or gives no answer; the message says why and what to do."""

    def __init__(self, message: str, kind: ProblemKind = "invalid-value") -> None:
        self.kind = kind
        super().__init__(message)


def workspace_settings(client: AzureMLClient | None, folder: Path) -> AzureMLClient:
    """The settings with all three names of the workspace, from the file that they name where they name one.

    folder: of the config; the file is looked for there. Raises Refused when a name is missing.
    """
    if client is None:
        raise Refused(
            "no workspace is named; write azureml_client with subscription_id, resource_group, workspace_name"
        )
    if client.aml_config_path is not None:
        client = _from_file(client, folder / of_user(client.aml_config_path))
    missing = [name for name in _WORKSPACE if not getattr(client, name)]
    if missing:
        raise Refused(f"azureml_client lacks {', '.join(missing)}; write it there, or name a file as aml_config_path")
    return client


def _from_file(client: AzureMLClient, path: Path) -> AzureMLClient:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(f"aml_config_path '{path}' cannot be read: {error.strerror or error}", "missing-file") from None
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise Refused(f"aml_config_path '{path}' is no JSON mapping")
    return client.model_copy(update={name: getattr(client, name) or said.get(name) for name in _WORKSPACE})


@lru_cache(maxsize=16)
def access_by(settings: str) -> "Access":
    """The access by a section azureml_client as JSON: who logs in does so once."""
    return Access(AzureMLClient.model_validate_json(settings))


class Access:
    """Credentials and clients for one section `azureml_client`, each made when it is first asked for."""

    def __init__(self, settings: AzureMLClient) -> None:
        if lazy.version_here("azure-ai-ml") == "none":
            raise MissingExtra(lazy.missing_sentence("azure-ai-ml", "azureml"))
        self.settings = settings

    @cached_property
    def credential(self) -> Any:
        """The first of azure-identity's default chain that gives a token; else a person who logs in, where one is."""
        from azure.core.exceptions import ClientAuthenticationError
        from azure.identity import DefaultAzureCredential, InteractiveBrowserCredential

        params = self.settings.default_auth_params or {}
        credential = DefaultAzureCredential(**params)
        scope = f"{_ARM.get(os.environ.get('AZUREML_CURRENT_CLOUD', ''), 'https://management.azure.com')}/.default"
        with _quiet():
            try:
                credential.get_token(scope)
            except ClientAuthenticationError as error:
                if not sys.stdin.isatty():
                    raise Refused(_no_credentials(error), "network") from None
                return InteractiveBrowserCredential(
                    **{key: params[key] for key in ("authority", "tenant_id") if key in params}
                )
        return credential

    @cached_property
    def workspace(self) -> Any:
        """An MLClient of the workspace."""
        names = {"subscription_id": "subscription_id", "resource_group_name": "resource_group"}
        return self._client(workspace_name=self.settings.workspace_name, **self._named(names))

    def registry(self, name: str) -> Any:
        """An MLClient of a registry."""
        return self._client(registry_name=name)

    def _named(self, names: dict[str, str]) -> dict[str, Any]:
        return {theirs: getattr(self.settings, ours) for theirs, ours in names.items()}

    def _client(self, **names: Any) -> Any:
        from azure.ai.ml import MLClient

        return MLClient(self.credential, enable_telemetry=False, show_progress=False, **names, **self.pipeline)

    @property
    def pipeline(self) -> dict[str, Any]:
        """How often and how long a request is tried, as azure-core takes it."""
        given = self.settings
        return {
            "retry_total": _N_RETRIES if given.max_operation_retries is None else given.max_operation_retries,
            "retry_backoff_factor": _RETRY_SECONDS
            if given.operation_retry_interval is None
            else given.operation_retry_interval,
            "read_timeout": given.read_timeout or _READ_SECONDS,
        }

    @contextmanager
    def in_sentences(
        self, what: str, kind: ProblemKind = "missing-file", may: str = "read", listed: str = ""
    ) -> Iterator[None]:
        """What AzureML refuses as a sentence.

        what: is asked for. kind: of the problem when there is no such thing. may: the verb for what is done with it.
        listed: the command that names what there is instead.
        """
        from azure.core.exceptions import (
            AzureError,
            ClientAuthenticationError,
            HttpResponseError,
            ServiceRequestError,
            ServiceResponseError,
        )

        try:
            with _quiet():
                yield
        except (ServiceRequestError, ServiceResponseError) as error:
            raise Refused(f"AzureML gives no answer about {what}: {_line(error)}", "network") from None
        except HttpResponseError as error:
            if isinstance(error, ClientAuthenticationError) and error.status_code is None:
                raise Refused(_no_credentials(error), "network") from None
            raise self._refused(error, what, kind, may, listed) from None
        except AzureError as error:
            raise Refused(f"AzureML does not give {what}: {_line(error)}") from None

    def _refused(self, error: Any, what: str, kind: ProblemKind, may: str, listed: str) -> Refused:
        code = str(getattr(error, "error_code", None) or getattr(error.error, "code", "") or "")
        if error.status_code == 401:
            return Refused(f"the token for {what} has expired or is not taken; log in again ('az login')", "network")
        if error.status_code == 403:
            return Refused(f"these credentials may not {may} {what}: ask for a role that may", "network")
        if code in _REFUSALS:
            return Refused(_REFUSALS[code].format(**self.settings.model_dump()))
        if error.status_code == 404:
            return Refused(f"there is no {what}" + (f"; '{listed}' names those that there are" if listed else ""), kind)
        status = error.status_code
        return Refused(f"AzureML does not give {what}: {code or f'status {status}'}: {_line(error)}", "network")


def _no_credentials(error: Exception) -> str:
    reasons = [line.strip() for line in str(error).splitlines() if "unavailable" not in line and "Failed" in line]
    if reasons and "onnect" in reasons[0]:
        return f"Azure, which is asked for a token, gives no answer: {reasons[0][:200]}"
    told = f" ({reasons[0][:200]})" if reasons else ""
    return (
        f"Azure has no credentials here{told}: run 'az login', or set AZURE_TENANT_ID, AZURE_CLIENT_ID and "
        "AZURE_CLIENT_SECRET"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


@contextmanager
def _quiet() -> Iterator[None]:
    """The SDK logs what it raises as well, and more; some of its modules by loggers with a level of their own."""
    loggers = [logging.getLogger("azure"), *(logging.getLogger(name) for name in _talkative())]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _talkative() -> list[str]:
    known = dict(logging.root.manager.loggerDict)
    own = (name for name, one in known.items() if isinstance(one, logging.Logger) and one.level)
    return [name for name in own if name.startswith("azure.")]

"""Where a workspace keeps files that both sides reach: a container of blobs, as fsspec addresses it."""

import asyncio
from dataclasses import dataclass
from typing import Any

from olivine.azureml._client import Access, Refused
from olivine.azureml._reference import secret_of, store_of

_FOLDER = "olivine"
_ENDPOINT = "core.windows.net"


@dataclass(frozen=True)
class Address:
    """url: of a folder for our files, as fsspec with adlfs reads it; https: of the same, as AzureML itself does.

    account: where it lies. options: open it here, and are kept nowhere.
    """

    url: str
    https: str
    account: str
    options: dict[str, Any]


def files_at(access: Access, datastore: str) -> Address:
    """Where our files lie in a datastore of blobs; opened by its own key or signature, else by these credentials."""
    store = store_of(access, datastore)
    container = getattr(store, "container_name", None) or getattr(store, "filesystem", None)
    if container is None:
        raise Refused(f"the datastore '{datastore}' is a {type(store).__name__}: files go by one of blobs")
    if (store.endpoint or _ENDPOINT) != _ENDPOINT:
        raise Refused(
            f"the datastore '{datastore}' lies in another cloud than Azure's public one, where no job is sent"
        )
    account_key, signature = secret_of(store)
    own: dict[str, Any] = {"account_key": account_key} if account_key else {"sas_token": signature}
    opened = own if account_key or signature else {"credential": _Awaited(access.credential)}
    url = f"abfs://{container}@{store.account_name}.dfs.{_ENDPOINT}/{_FOLDER}"
    https = f"https://{store.account_name}.blob.{_ENDPOINT}/{container}/{_FOLDER}"
    return Address(url, https, store.account_name, {"assume_container_exists": True, **opened})


class _Awaited:
    """A credential for libraries that await it: who logged in once has done so for them, too."""

    def __init__(self, credential: Any) -> None:
        self._credential = credential

    async def get_token(self, *scopes: str, **options: Any) -> Any:
        """See AsyncTokenCredential."""
        return await asyncio.to_thread(self._credential.get_token, *scopes, **options)

    async def close(self) -> None:
        """The credential is used by others."""

"""What a node of AzureML starts: a worker, with the secrets that the node's own identity may read.

    python -m olivine.systems._azureml_node [--secret VARIABLE=VAULT/NAME] [--mounted NAME=FOLDER] WORKER_ARGUMENTS

A secret goes from the key vault into the environment of this process, and nowhere else. A folder is an input of the
job, which AzureML lets the node see. Of several nodes (`--nodes`) AzureML says in the environment which one this is,
and where the first is heard.
"""

import os
import sys
from collections.abc import Mapping

from olivine.systems._mounted import variable
from olivine.systems._worker import main as work

_OF_DISTRIBUTION = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


def main(arguments: list[str]) -> int:
    """Read the secret and do the jobs."""
    # of an identity that a user has assigned to the compute, which azure-identity has to be told
    if (client := os.environ.get("DEFAULT_IDENTITY_CLIENT_ID")) and not os.environ.get("AZURE_CLIENT_ID"):
        os.environ["AZURE_CLIENT_ID"] = client
    if arguments[:1] == ["--secret"]:
        seen_as, _, place = arguments[1].partition("=")
        vault, _, name = place.partition("/")
        os.environ[seen_as] = _secret(vault, name)
        arguments = arguments[2:]
    while arguments[:1] == ["--mounted"]:
        name, _, folder = arguments[1].partition("=")
        os.environ[variable(name)] = folder
        arguments = arguments[2:]
    return work([*_among_nodes(dict(os.environ)), *arguments])


def _among_nodes(said: Mapping[str, str]) -> list[str]:
    """Which of several nodes this is; a library that reads it by itself would take each pass for one of all nodes."""
    for name in _OF_DISTRIBUTION:
        os.environ.pop(name, None)
    if "NODE_RANK" not in said:
        return []
    return ["--node", said["NODE_RANK"], "--address", said["MASTER_ADDR"], "--port", said["MASTER_PORT"]]


def _secret(vault: str, name: str) -> str:
    from azure.core.exceptions import AzureError
    from azure.identity import DefaultAzureCredential
    from azure.keyvault.secrets import SecretClient

    try:
        value = SecretClient(f"https://{vault}.vault.azure.net", DefaultAzureCredential()).get_secret(name).value
    except AzureError as error:
        why = " ".join(str(error).split())[:200]
        raise SystemExit(
            f"the identity of this node cannot read the secret '{name}' of the key vault '{vault}': "
            f"give it the role Key Vault Secrets User ({why})"
        ) from None
    return str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Key vaults: the challenge that says who gives tokens, the versions of a secret, and its value."""

import re

from . import server

HOST = re.compile(r"(?P<vault>[a-z0-9-]+)\.vault\.azure\.net")
_RESOURCE = "https://vault.azure.net"
_ROLE = "Key Vault Secrets User"


def answer(request):
    azure = request.azure
    vault = HOST.fullmatch(request.host)["vault"]
    token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
    if azure.tokens.get(token) != _RESOURCE:
        login = f"https://login.microsoftonline.com/{server.TENANT}"
        challenge = {"WWW-Authenticate": f'Bearer authorization="{login}", resource="{_RESOURCE}"'}
        body = {"error": {"code": "Unauthorized", "message": "AKV10000: Request is missing a Bearer or PoP token."}}
        request.reply(401, body, challenge)
        return
    roles = azure.node_roles if token in azure.of_nodes else azure.user_roles
    parts = re.fullmatch(r"/secrets/(?P<name>[A-Za-z0-9-]+)(?P<versions>/versions|/)?", request.path)
    if parts is None or "api-version" not in request.query:
        request.error(400, "BadParameter", request.path)
    elif _ROLE not in roles:
        request.error(403, "Forbidden", "Caller is not authorized to perform action on resource.")
    elif parts["name"] not in azure.vaults[vault]:
        if parts["versions"] == "/versions":
            request.reply(200, {"value": [], "nextLink": None})
        else:
            request.error(404, "SecretNotFound", f"A secret with (name/id) {parts['name']} was not found.")
    else:
        identity = f"https://{vault}.vault.azure.net/secrets/{parts['name']}/1"
        attributes = {"enabled": True, "created": 1767225600, "updated": 1767225600}
        if parts["versions"] == "/versions":
            request.reply(200, {"value": [{"id": identity, "attributes": attributes}], "nextLink": None})
        else:
            azure.read_by_nodes += token in azure.of_nodes
            request.reply(200, {"id": identity, "value": azure.vaults[vault][parts["name"]], "attributes": attributes})

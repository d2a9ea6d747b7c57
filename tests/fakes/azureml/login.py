"""Tokens for a client with a secret."""

import re
import time
import uuid
from urllib.parse import parse_qs

import jwt

from . import server

HOST = re.compile(r"login\.microsoft(online)?\.com")


def answer(request):
    tenant = server.TENANT
    base = f"https://login.microsoftonline.com/{tenant}"
    if request.path == "/common/discovery/instance":
        request.reply(
            200,
            {
                "tenant_discovery_endpoint": f"{base}/v2.0/.well-known/openid-configuration",
                "api-version": "1.1",
                "metadata": [
                    {
                        "preferred_network": "login.microsoftonline.com",
                        "preferred_cache": "login.windows.net",
                        "aliases": ["login.microsoftonline.com", "login.windows.net"],
                    }
                ],
            },
        )
    elif request.path == f"/{tenant}/v2.0/.well-known/openid-configuration":
        request.reply(
            200,
            {
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
                "issuer": f"{base}/v2.0",
            },
        )
    elif request.path == f"/{tenant}/oauth2/v2.0/token":
        _token(request)
    else:
        request.error(404, "NotFound", request.path)


def _token(request):
    given = {key: value[0] for key, value in parse_qs(request.body.decode()).items()}
    if given.get("client_id") != server.CLIENT or given.get("client_secret") != server.SECRET:
        said = "AADSTS7000215: Invalid client secret provided."
        request.reply(401, {"error": "invalid_client", "error_description": said})
        return
    token = jwt.encode({"tid": server.TENANT, "jti": uuid.uuid4().hex}, "of this cloud, 32 bytes at least")
    scope = next(word for word in given["scope"].split() if word.startswith("https://"))
    request.azure.expires[token] = time.time() + request.azure.token_seconds
    request.azure.tokens[token] = re.sub(r"/+\.default$", "", scope)
    request.reply(
        200,
        {
            "token_type": "Bearer",
            "expires_in": request.azure.token_seconds,
            "ext_expires_in": request.azure.token_seconds,
            "access_token": token,
        },
    )

"""The proxy, its certificates, and what can go wrong on purpose."""

import json
import math
import re
import ssl
import sys
import threading
import time
import traceback
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import trustme

from . import arm, blobs, login, nodes, registry, vault

TENANT, CLIENT, SECRET = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222", "s3cret"


@dataclass
class Fault:
    """What happens to the next `times` requests whose host and path fit: a status, `cut` after so many bytes, or a bit `flip`ped."""

    pattern: str
    status: int = 0
    times: int = 1
    cut: int | None = None
    flip: bool = False
    headers: dict = field(default_factory=dict)


class Azure(ThreadingHTTPServer):
    """A cloud with one workspace, one registry, and stores of blobs that are folders.

    folder: holds `ACCOUNT/CONTAINER/...`, the blobs. models: (name, version) to an address; registry_models: to a path
    in the registry's own container. asked: method, host and path of every request; n_sent: bytes of blobs that went out.
    tokens: those that are taken, by the scope that they are for; of_nodes: those that a node's identity was given.

    Of jobs: computes by name, images that there are by name, folders with a `bin`; user_roles and node_roles: what
    these credentials and a node's identity may do with blobs and vaults; vaults: names and values of secrets.
    """

    daemon_threads = True
    group, workspace, registry = "group", "workspace", "shared"

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.subscription = str(
            uuid.uuid4()
        )  # each is a cloud of its own: nothing that was kept of another serves here
        self.folder, self.asked, self.n_sent, self.faults, self.tokens = Path(folder), [], 0, [], {}
        self.models, self.registry_models, self.jobs, self.sent = {}, {}, {}, {}
        self.datastores = {"workspaceblobstore": ("storeaccount", "azureml-blobstore", "Sas")}
        self.computes = {"cluster": amlcompute("STANDARD_DS3_V2"), "gpus": amlcompute("STANDARD_NC24ADS_A100_V4")}
        self.sizes = {"STANDARD_DS3_V2": 0, "STANDARD_NC24ADS_A100_V4": 1}
        self.images, self.environments, self.runs, self._built = {}, {}, {}, {}
        self.notices_after = 0.5  # seconds until the nodes of a job are ended of which one has failed
        self.has_no_nodes, self.n_built, self.n_received, self.read_by_nodes = False, 0, 0, 0
        self.user_roles = {"Storage Blob Data Contributor", "Key Vault Secrets User"}
        self.node_roles = {"Storage Blob Data Contributor", "Key Vault Secrets User"}
        self.vault, self.vaults = "own-vault", {"own-vault": {}}
        self.readers = set()  # names of blobs, and whether a node or a user asked for one
        self.n_read = {}  # by the same: how many bytes of it went out
        self.of_nodes, self.blocks, self.expires, self.token_seconds = set(), {}, {}, 3599
        self.identity, self.msi_secret = str(uuid.uuid4()), uuid.uuid4().hex
        self.forbidden = set()  # patterns of paths that these credentials may not see
        self.authority = trustme.CA()
        self._contexts, self._lock, self._building = {}, threading.Lock(), threading.Lock()

    def __enter__(self):
        self.bundle = self.folder / "authority.pem"
        self.authority.cert_pem.write_to_path(self.bundle)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        for run in self.runs.values():
            run.cancel()
            run.join()
        self.shutdown()
        self.server_close()

    def trust(self):
        """What a process is given to believe this cloud."""
        return {
            "HTTPS_PROXY": f"http://127.0.0.1:{self.server_address[1]}",
            "NO_PROXY": "",
            "REQUESTS_CA_BUNDLE": str(self.bundle),
            "SSL_CERT_FILE": str(self.bundle),
        }

    def environment(self):
        """What a process of its user is given."""
        return {
            **self.trust(),
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_ID": CLIENT,
            "AZURE_CLIENT_SECRET": SECRET,
        }

    def client(self):
        """The section azureml_client of a config."""
        return {
            "subscription_id": self.subscription,
            "resource_group": self.group,
            "workspace_name": self.workspace,
            "max_operation_retries": 3,
            "operation_retry_interval": 0.01,
        }

    def put(self, account, container, name, content):
        """A blob."""
        path = self.folder / account / container / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def datastore_url(self, path, store="workspaceblobstore"):
        """The address of a path in a datastore."""
        return (
            f"azureml://subscriptions/{self.subscription}/resourcegroups/{self.group}/workspaces/{self.workspace}"
            f"/datastores/{store}/paths/{path}"
        )

    def register(self, name, image, version="1"):
        """An environment of that name that is an image."""
        near = f"/subscriptions/{self.subscription}/resourceGroups/{self.group}/providers"
        near += f"/Microsoft.MachineLearningServices/workspaces/{self.workspace}"
        self.images[name] = image
        self.environments[f"{near}/environments/{name}/versions/{version}"] = {"image": name}

    def image_of(self, identity):
        """The image of an environment, built when it is first needed."""
        with self._building:
            if identity not in self._built:
                folder = nodes.image_folder(self, identity)
                self._built[identity] = nodes.build(self, self.environments[identity], folder)
            return self._built[identity]

    def blob_folder(self, url):
        """The folder of an address of blobs."""
        parts = urlsplit(url)
        return self.folder / parts.netloc.partition(".")[0] / parts.path.strip("/")

    def mounted(self, uri):
        """Where a node sees an input: the folder or file of a datastore, or of a model."""
        if (found := re.fullmatch(r"azureml://.*/datastores/([^/]+)/paths/(.*)", uri)) is not None:
            if found[1] not in self.datastores:
                return None
            account, container, _ = self.datastores[found[1]]
            return self.folder / account / container / found[2]
        found = re.fullmatch(r"azureml://registries/[^/]+/models/(.+)/versions/(.+)", uri)
        if found is None or (found[1], found[2]) not in self.registry_models:
            return None
        return self.folder / registry.ACCOUNT / registry.CONTAINER / self.registry_models[found[1], found[2]]

    def context(self, host):
        """TLS as that host."""
        with self._lock:
            if host not in self._contexts:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                self.authority.issue_cert(host).configure_cert(context)
                self._contexts[host] = context
            return self._contexts[host]

    def fault(self, where):
        """The fault that a request meets, if any."""
        with self._lock:
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, where):
                    fault.times -= 1
                    return fault
        return None

    def handle_error(self, *_):
        if not isinstance(sys.exception(), OSError):  # a client that went away is no news
            traceback.print_exc()


def amlcompute(size, state="Succeeded"):
    """A cluster of machines of that size."""
    cluster = {"vmSize": size, "vmPriority": "Dedicated", "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 2}}
    return {"computeType": "AmlCompute", "provisioningState": state, "properties": cluster}


def arc(**gpus):
    """A cluster of Kubernetes that is attached. gpus: of each of its instance types."""
    types = {name: {"resources": {"limits": {"nvidia.com/gpu": n} if n else {"cpu": "4"}}} for name, n in gpus.items()}
    settings = {"namespace": "default", "defaultInstanceType": next(iter(gpus)), "instanceTypes": types}
    return {"computeType": "Kubernetes", "provisioningState": "Succeeded", "properties": settings}


class Request:
    """One request, and the answer to it."""

    def __init__(self, handler, azure, host):
        self.handler, self.azure, self.host, self.method = handler, azure, host, handler.command
        parts = urlsplit(handler.path)
        self.path, self.query = unquote(parts.path), {key: value[0] for key, value in parse_qs(parts.query).items()}
        self.headers = handler.headers
        self.body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.fault = None

    def json(self):
        return json.loads(self.body)

    def bearer(self, scope):
        """Whether the token is one for that scope; else the request is refused, as the real services do."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and self.azure.tokens.get(token) == scope and time.time() < self.azure.expires.get(token, math.inf):
            return True
        self.error(
            401, "InvalidAuthenticationToken" if token else "AuthenticationFailed", "The access token is invalid."
        )
        return False

    def error(self, status, code, message):
        self.reply(status, {"error": {"code": code, "message": message}}, {"x-ms-error-code": code})

    def reply(self, status, content=b"", headers=None):
        """Send JSON, or bytes as they are."""
        if not isinstance(content, bytes):
            content, headers = json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})}
        self.handler.send_response(status)
        for name, value in (headers or {}).items():
            self.handler.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.handler.send_header("Content-Length", str(len(content)))
        self.handler.end_headers()
        fault = self.fault or Fault("")
        if fault.flip and content:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if self.method != "HEAD":
            self.handler.wfile.write(content[: fault.cut])
        if fault.cut is not None:
            self.handler.close_connection = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host = ""

    def log_message(self, *_):
        pass

    def do_CONNECT(self):
        self.host = self.path.partition(":")[0]
        if (vaulted := vault.HOST.fullmatch(self.host)) is not None and vaulted["vault"] not in self.server.vaults:
            self.send_error(502, "there is no such host")
            return
        self.send_response(200, "Connection established")
        self.end_headers()
        self.connection = self.server.context(self.host).wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def finish(self):
        super().finish()
        self.connection.close()

    def do_GET(self):
        request = Request(self, self.server, self.host)
        where = f"{request.method} {self.host}{request.path}"
        self.server.asked.append(where)
        fault = self.server.fault(where)
        if fault is not None and fault.status:
            request.reply(fault.status, {"error": {"code": str(fault.status), "message": "on purpose"}}, fault.headers)
            return
        request.fault = fault
        if not self.host and request.path == nodes.MSI_PATH:
            nodes.token(request)
            return
        for service in (login, arm, registry, blobs, vault):
            if service.HOST.fullmatch(self.host):
                service.answer(request)
                return
        request.error(404, "NoSuchHost", f"there is no {self.host} here")

    def do_POST(self):
        self.do_GET()

    def do_HEAD(self):
        self.do_GET()

    def do_PUT(self):
        self.do_GET()

    def do_DELETE(self):
        self.do_GET()

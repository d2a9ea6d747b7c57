"""A hub on this machine that speaks the real one's protocol: what a model is made of, and its files by range."""

import base64
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATED = "someone/gated"


class FakeHub(ThreadingHTTPServer):
    """Serves folders as models by name, and takes uploads of who is known.

    n_sent: bytes of files that went out; asked: the paths of all requests. pushed: files that came, by repository,
    branch and name.
    """

    daemon_threads = True

    def __init__(self, models):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models, self.n_sent, self.asked = {name: Path(folder) for name, folder in models.items()}, 0, []
        self.pushed, self.stored, self.created = {}, {}, {}
        self.answer = None  # a status and a body in place of every answer

    @property
    def url(self):
        """What HF_ENDPOINT says."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def fake_hub(**models):
    """A hub with these folders, by name (`org__name=folder`), while the block runs."""
    server = FakeHub({name.replace("__", "/"): folder for name, folder in models.items()})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _files(folder):
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): file.stat().st_size for file in files}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def do_POST(self):
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        if self.server.answer is not None:
            self._tell(*self.server.answer)
        elif path == "/api/validate-yaml":  # of a card
            self._tell(200, {"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != "Bearer hf_known":
            self._tell(401, b'{"error": "Invalid username or password."}')
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.server.created[name] = asked.get("private") or asked.get("visibility") == "private"
            self._tell(200, {"url": f"{self.server.url}/{name}", "name": name, "id": name})
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+/branch/[^/]+", path):
            self._tell(200, {})
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/[^/]+", path):
            files = [
                {"path": one["path"], "uploadMode": "lfs" if one["size"] > 1000 else "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self._tell(200, {"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.url}/store/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._tell(200, {"transfer": "basic", "objects": objects})
        elif asked := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", path):
            self._commit(*asked.groups(), body)
        else:
            self._tell(404, {})

    def do_PUT(self):
        self.server.stored[self.path.rpartition("/")[2]] = self._body()
        self._tell(200, {})

    def _commit(self, name, branch, body):
        pushed = self.server.pushed.setdefault((name, branch), {})
        for line in body.decode().splitlines():
            one = json.loads(line)
            if one["key"] == "file":
                pushed[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
            elif one["key"] == "lfsFile":
                pushed[one["value"]["path"]] = self.server.stored[one["value"]["oid"]]
        self._tell(200, {"commitUrl": f"{self.server.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def _body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _tell(self, status, content):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        if self.server.answer is not None:
            self._send(*self.server.answer, {"Content-Type": "application/json"})
        elif path == "/api/models":
            self._send(200, b"[]", {"Content-Type": "application/json"})
        elif path == "/api/whoami-v2":
            is_known = self.headers.get("Authorization") == "Bearer hf_known"
            self._send(200 if is_known else 401, b'{"name": "someone"}', {"Content-Type": "application/json"})
        elif asked := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self._model(*asked.groups())
        elif asked := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            folder = self.server.models[asked[1]]
            entries = [
                {"type": "file", "path": name, "size": size, "oid": "0"} for name, size in _files(folder).items()
            ]
            self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})
        elif asked := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*asked.groups())
        else:
            self._refuse(404, "EntryNotFound")

    def _model(self, name, revision):
        if name == GATED:
            self._refuse(403, "GatedRepo")
        elif name not in self.server.models:
            self._refuse(401, "RepoNotFound")
        elif revision not in (None, "main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        else:
            files = _files(self.server.models[name])
            siblings = [{"rfilename": inner, "size": size, "blobId": "0"} for inner, size in files.items()]
            told = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
            self._send(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

    def _file(self, name, revision, inner):
        path = self.server.models.get(name, Path("/nowhere")) / inner
        if not path.is_file():
            self._refuse(404, "EntryNotFound")
            return
        size, start, stop = path.stat().st_size, 0, None
        headers = {"ETag": f'"{size}-{inner}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            start, stop = int(asked[1]), min(size, int(asked[2] or size) + 1)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        with path.open("rb") as file:
            file.seek(start)
            content = file.read((size if stop is None else stop) - start)
        self._send(206 if asked else 200, content, headers)

    def _refuse(self, status, code):
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status, content, headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
            self.server.n_sent += len(content)

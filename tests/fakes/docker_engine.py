"""A Docker engine on a unix socket: speaks the API as the real one does, and runs containers as processes of this machine.

An image is a folder of packages; `python` in a container is this Python with those packages alone, and paths below a
bound folder are those of this machine. What the real engine would refuse is refused: unknown fields, images and
containers that are not there, a container that is started twice, GPUs where there are none.
"""

import json
import os
import re
import signal
import socketserver
import struct
import subprocess
import sys
import sysconfig
import tarfile
import threading
import urllib.parse
import uuid
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path

API = "1.47"
CONFIG = {
    *("Hostname", "Domainname", "User", "AttachStdin", "AttachStdout", "AttachStderr", "ExposedPorts", "Tty"),
    *("OpenStdin", "StdinOnce", "Env", "Cmd", "Healthcheck", "ArgsEscaped", "Image", "Volumes", "WorkingDir"),
    *("Entrypoint", "NetworkDisabled", "MacAddress", "OnBuild", "Labels", "StopSignal", "StopTimeout", "Shell"),
    *("HostConfig", "NetworkingConfig"),
}
HOST_CONFIG = {
    *(
        "Binds",
        "Memory",
        "MemorySwap",
        "NanoCpus",
        "CpuShares",
        "CpusetCpus",
        "DeviceRequests",
        "NetworkMode",
        "Mounts",
    ),
    *("ShmSize", "Privileged", "CapAdd", "CapDrop", "ExtraHosts", "AutoRemove", "Ulimits", "ReadonlyRootfs", "IpcMode"),
}


class Refused(Exception):  # noqa: N818
    def __init__(self, status, message):
        self.status = status
        super().__init__(message)


class Image:
    def __init__(self, folder, paths):
        self.folder, self.paths = folder, list(paths)
        self.identity = f"sha256:{uuid.uuid4().hex * 2}"


class Container:
    def __init__(self, engine, config, image):
        self.engine, self.config, self.image = engine, config, image
        self.identity, self.process, self.is_oom = uuid.uuid4().hex * 2, None, False
        self.folder = engine.folder / "containers" / self.identity
        self.folder.mkdir(parents=True)

    def start(self):
        if self.process is not None:
            raise Refused(304, "")
        if self.config["HostConfig"].get("DeviceRequests") and not self.engine.has_gpu:
            raise Refused(500, 'could not select device driver "" with capabilities: [[gpu]]')
        command = [*(self.config.get("Entrypoint") or []), *self.config["Cmd"]]
        if command[0] != "python":
            raise Refused(400, f'exec: "{command[0]}": executable file not found in $PATH')
        environment = dict(pair.split("=", 1) for pair in self.config.get("Env") or [])
        environment = {name: self._here(value) for name, value in environment.items()}
        environment["PYTHONPATH"] = os.pathsep.join([str(self.image.folder), *self.image.paths])
        environment |= {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
        with (self.folder / "stdout").open("wb") as out, (self.folder / "stderr").open("wb") as err:
            self.process = subprocess.Popen(
                [sys._base_executable, *map(self._here, command[1:])],
                env=environment,
                cwd=self.folder,
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _here(self, text):
        for bind in self.config["HostConfig"].get("Binds") or []:
            source, target, *_ = bind.split(":")
            if text == target or text.startswith(f"{target}/"):
                return source + text[len(target) :]
        return text

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def code(self):
        code = self.process.poll() if self.process is not None else None
        return None if code is None else code if code >= 0 else 128 - code

    def describe(self):
        status = "created" if self.process is None else "running" if self.code is None else "exited"
        state = {
            "Status": status,
            "Running": status == "running",
            "OOMKilled": self.is_oom,
            "ExitCode": self.code or 0,
            "Pid": self.process.pid if status == "running" else 0,
            "Error": "",
        }
        return {
            "Id": self.identity,
            "State": state,
            "Config": self.config | {"Tty": False},
            "Image": self.image.identity,
        }


class Engine:
    """The engine, at `url`. remote: names of images that can be pulled."""

    def __init__(self, folder):
        self.folder, self.has_gpu = folder, False
        self.images, self.containers, self.remote, self.removed = {}, {}, {}, []
        socket = folder / "s"
        self.url = f"unix://{socket}"
        engine = self

        class Handler(_Handler):
            pass

        Handler.engine = engine
        self._server = socketserver.ThreadingUnixStreamServer(str(socket), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        for container in self.containers.values():
            container.kill()
        self._server.shutdown()
        self._server.server_close()

    def image(self, *paths):
        folder = self.folder / "images" / uuid.uuid4().hex
        folder.mkdir(parents=True)
        return Image(folder, [*paths, sysconfig.get_paths()["purelib"]])

    def build(self, packed, query):
        with tarfile.open(fileobj=BytesIO(packed)) as tar:
            files = {Path(one.name).as_posix(): tar.extractfile(one).read() for one in tar if one.isfile()}
        name = query.get("dockerfile", ["Dockerfile"])[0]
        if name not in files:
            raise Refused(500, f"Cannot locate specified Dockerfile: {name}")
        arguments, image = json.loads(query.get("buildargs", ["{}"])[0]), None
        for line in files[name].decode().splitlines():
            word, _, rest = line.strip().partition(" ")
            rest = re.sub(r"\$\{?(\w+)\}?", lambda match: arguments.get(match[1], ""), rest)
            yield {"stream": f"{word} {rest}\n"}
            if word == "FROM":
                if rest not in self.images:
                    yield {"error": f"pull access denied for {rest}, repository does not exist"}
                    return
                base = self.images[rest]
                image = self.image(str(base.folder), *base.paths)
            elif word == "COPY":
                what = rest.split()[0]
                if what not in files:
                    yield {"error": f"COPY failed: file not found in build context: stat {what}: file does not exist"}
                    return
                (image.folder / "tmp").mkdir(exist_ok=True)
                (image.folder / "tmp" / what).write_bytes(files[what])
            elif word == "RUN":
                words = rest.replace("/tmp/", f"{image.folder}/tmp/")
                command = json.loads(words) if words.startswith("[") else words.split()
                done = subprocess.run(
                    [sys.executable, *command[1:]],
                    env=os.environ | {"PIP_TARGET": str(image.folder), "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1"},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                yield {"stream": done.stdout}
                if done.returncode:
                    yield {"error": f"The command '/bin/sh -c {rest}' returned a non-zero code: {done.returncode}"}
                    return
            elif word not in ("", "USER", "ARG", "#"):
                yield {"error": f"dockerfile parse error: unknown instruction: {word}"}
                return
        tag = query["t"][0]
        self.images[tag if ":" in tag else f"{tag}:latest"] = image
        yield {"stream": f"Successfully tagged {tag}\n"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def address_string(self):
        return "unix"

    def _serve(self):
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self._chunks())
        path = urllib.parse.unquote(url.path)
        version = re.match(r"/v(\d+\.\d+)(/.*)", path)
        if version is not None:
            if float(version[1]) > float(API):
                return self._say(400, {"message": f"client version {version[1]} is too new. Maximum is {API}"})
            path = version[2]
        try:
            return self._answer(self.command, path, query, body)
        except Refused as refused:
            return self._say(refused.status, {"message": str(refused)} if refused.status != 304 else None)

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815

    def _chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, method, path, query, body):
        engine, parts = self.engine, path.strip("/").split("/")
        if (method, path) == ("GET", "/version"):
            return self._say(200, {"ApiVersion": API, "MinAPIVersion": "1.24", "Version": "27.5", "Os": "linux"})
        if (method, parts[0], parts[-1]) == ("GET", "images", "json"):
            return self._say(200, {"Id": self._image("/".join(parts[1:-1])).identity, "RepoTags": []})
        if (method, path) == ("POST", "/images/create"):
            name = f"{query['fromImage'][0]}:{query['tag'][0]}"
            if name not in engine.remote:
                raise Refused(
                    404, f"pull access denied for {name}, repository does not exist or may require 'docker login'"
                )
            engine.images[name] = engine.remote[name]
            return self._stream([{"status": f"Pulling from {name}"}, {"status": "Download complete"}])
        if (method, path) == ("POST", "/build"):
            if self.headers["Content-Type"] != "application/tar":
                raise Refused(400, "the build context must be a tar")
            return self._stream(engine.build(body, query))
        if (method, path) == ("POST", "/containers/create"):
            return self._create(json.loads(body))
        if parts[0] == "containers":
            return self._container(method, parts, query)
        raise Refused(404, "page not found")

    def _image(self, name):
        known = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
        if known not in self.engine.images:
            raise Refused(404, f"No such image: {known}")
        return self.engine.images[known]

    def _create(self, config):
        if unknown := config.keys() - CONFIG:
            raise Refused(400, f"unknown fields: {sorted(unknown)}")
        host = config.setdefault("HostConfig", {}) or {}
        if unknown := {key for key, value in host.items() if value is not None} - HOST_CONFIG:
            raise Refused(400, f"unknown fields of HostConfig: {sorted(unknown)}")
        if 0 < (host.get("Memory") or 0) < 6 * 2**20:
            raise Refused(400, "Minimum memory limit allowed is 6MB")
        for bind in host.get("Binds") or []:
            if not Path(bind.split(":")[0]).is_absolute():
                raise Refused(400, f"invalid volume specification: '{bind}'")
        container = Container(self.engine, config, self._image(config["Image"]))
        self.engine.containers[container.identity] = container
        self._say(201, {"Id": container.identity, "Warnings": []})

    def _container(self, method, parts, query):
        container = self.engine.containers.get(parts[1])
        if container is None:
            raise Refused(404, f"No such container: {parts[1]}")
        action = parts[2] if len(parts) > 2 else ""
        if (method, action) == ("POST", "start"):
            container.start()
            self._say(204, None)
        elif (method, action) == ("GET", "json"):
            self._say(200, container.describe())
        elif (method, action) == ("POST", "wait"):
            if container.process is not None:
                container.process.wait()
            self._say(200, {"StatusCode": container.code})
        elif (method, action) == ("GET", "logs"):
            self._logs(container, query)
        elif (method, action) == ("POST", "kill"):
            if container.code is not None:
                raise Refused(409, f"container {parts[1]} is not running")
            container.kill()
            self._say(204, None)
        elif method == "DELETE" and not action:
            if container.describe()["State"]["Running"] and query.get("force") not in (["1"], ["True"], ["true"]):
                raise Refused(409, "cannot remove a running container: stop it before, or force it")
            container.kill()
            del self.engine.containers[container.identity]
            self.engine.removed.append(container)
            self._say(204, None)
        else:
            raise Refused(404, "page not found")

    def _logs(self, container, query):
        frames = b""
        for number, name in ((1, "stdout"), (2, "stderr")):
            if query.get(name) == ["1"]:
                content = (container.folder / name).read_bytes()
                frames += struct.pack(">BxxxL", number, len(content)) + content
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.docker.multiplexed-stream")
        self.send_header("Content-Length", str(len(frames)))
        self.end_headers()
        self.wfile.write(frames)

    def _say(self, status, value):
        content = json.dumps(value).encode() if value is not None else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if status not in (204, 304):
            self.wfile.write(content)

    def _stream(self, records):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(BrokenPipeError):  # who asked has heard enough
            for record in records:
                line = json.dumps(record).encode() + b"\r\n"
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")

"""Nodes: they build the environment of a job, and really run its command, as a process of their own."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from pathlib import Path

import yaml

import olivine

from . import runs

MSI_PATH = "/msi/token"


class Run:
    """A job at work. error: what AzureML says of one that failed. processes: its command, once on each node."""

    def __init__(self, azure, name):
        self.azure, self.name, self.error, self.processes = azure, name, "", []
        self.folder = azure.folder / "nodes" / name
        self._is_over = False
        self.is_taken = False
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    @property
    def properties(self):
        return self.azure.jobs[self.name]

    def cancel(self):
        self._is_over = True
        if self.properties["status"] not in ("Completed", "Failed", "Canceled"):
            self.properties["status"] = "Canceled"
        self.kill()

    def preempt(self):
        """Take the node away: the command begins again, on another one with another disk."""
        self.is_taken = True
        self.kill()

    def kill(self):
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    @property
    def n_nodes(self):
        return (self.properties.get("resources") or {}).get("instanceCount", 1)

    def join(self):
        self._thread.join(30)

    def _live(self):
        try:
            self._go_on()
        except FailedError as failure:
            self.error = str(failure)
            self._say("Failed")

    def _go_on(self):
        while self.azure.has_no_nodes and not self._is_over:
            time.sleep(0.02)
        self._say("Preparing")
        image = self.azure.image_of(self.properties["environmentId"])
        self._say("Starting")
        code = 1
        while not self._is_over:
            self.is_taken = False
            code = self._run(image)
            if not self.is_taken:
                break
            self._say("Queued")
        if code:
            self.error = f"Execution failed. User process 'bash' exited with status code {code}."
        self._say("Failed" if code else "Completed")

    def _say(self, status):
        if not self._is_over:
            self.properties["status"] = status

    def _run(self, image):
        """Run the command on every node; when it fails on one, the service ends the others."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._say("Running")
        port = free_port()
        self.processes = [self._started(image, node, port) for node in range(self.n_nodes)]
        if self._is_over:
            self.kill()
        failed = 0
        while any(process.poll() is None for process in self.processes):
            failed = failed or next((one.poll() for one in self.processes if one.poll()), 0)
            if failed:
                time.sleep(self.azure.notices_after if self.n_nodes > 1 else 0)
                self.kill()
            time.sleep(0.02)
        return failed or next((one.poll() for one in self.processes if one.poll()), 0)

    def _started(self, image, node, port):
        log = self.azure.folder / runs.ACCOUNT / runs.CONTAINER / runs.log_of(self.name, node, self.n_nodes)
        log.parent.mkdir(parents=True, exist_ok=True)
        wd = self.folder / f"node{node}" / "wd"
        wd.mkdir(parents=True)
        with log.open("ab") as told:
            return subprocess.Popen(
                ["bash", "-c", self._command()],
                cwd=wd,
                env=self._environment(image, wd) | self._of_distribution(node, port),
                stdout=told,
                stderr=told,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _of_distribution(self, node, port):
        """What the service says to each process of a PyTorch job, of which a node has one here."""
        if self.properties.get("distribution") is None:
            return {}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": str(node), "RANK": str(node)}
        return where | {"WORLD_SIZE": str(self.n_nodes), "LOCAL_RANK": "0"}

    def _command(self):
        return re.sub(r"\$\{\{inputs\.(\w+)\}\}", lambda found: str(self._input(found[1])), self.properties["command"])

    def _input(self, name):
        return self.azure.mounted(self.properties["inputs"][name]["uri"])

    def _environment(self, image, wd):
        return {
            "PATH": f"{image / 'bin'}:/usr/bin:/bin",
            "HOME": str(wd),
            "HF_HOME": str(wd / "huggingface"),  # what another run of these tests brought is not there
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),  # compiled loops
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "AZUREML_RUN_ID": self.name,
            "MSI_ENDPOINT": f"http://127.0.0.1:{self.azure.server_address[1]}{MSI_PATH}",
            "MSI_SECRET": self.azure.msi_secret,
            "DEFAULT_IDENTITY_CLIENT_ID": self.azure.identity,
            **self.azure.trust(),
            **self.properties.get("environmentVariables", {}),
        }


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class FailedError(Exception):
    pass


def build(azure, properties, folder):
    """The image of an environment: a folder with a `bin`."""
    if properties.get("image"):
        return _base(azure, properties["image"])
    made = properties["build"]
    context = azure.blob_folder(made["contextUri"])
    dockerfile = context / made.get("dockerfilePath", "Dockerfile")
    if not dockerfile.is_file():
        raise FailedError(f"Image build failed: there is no {dockerfile.name} in the build context.")
    lines = [line for line in dockerfile.read_text().splitlines() if line.strip() and not line.startswith("#")]
    copied, image, libraries = {}, None, []
    for line in lines:
        verb, _, rest = line.partition(" ")
        if verb == "FROM":
            image = _base(azure, rest.strip())
        elif verb == "COPY":
            source, target = rest.split()
            if not (context / source).is_file():
                raise FailedError(f"Image build failed: COPY failed: file not found in build context: {source}")
            copied[target] = context / source
        elif verb == "RUN":
            libraries += _ran(rest, copied, folder)
        elif verb not in ("USER", "ENV", "WORKDIR", "ARG", "LABEL"):
            raise FailedError(f"Image build failed: dockerfile parse error: unknown instruction: {verb}")
    if image is None:
        raise FailedError("Image build failed: no build stage in current context")
    if not libraries:
        return image
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{":".join(libraries)}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    azure.n_built += 1
    return folder


def _base(azure, name):
    if name not in azure.images:
        raise FailedError(f"Image build failed: {name}: not found")
    return azure.images[name]


def _ran(command, copied, folder):
    """What a command of a Dockerfile brings into the image: the folder of a wheel."""
    if command.startswith("conda env create "):
        file = copied[re.search(r"--file (\S+)", command)[1]]
        for one in yaml.safe_load(file.read_text())["dependencies"]:
            if isinstance(one, str) and one.startswith("no-such-"):
                raise FailedError(f"Image build failed: ResolvePackageNotFound: {one}")
        return []
    if command.startswith("python -m pip install "):
        wheels = [one.partition("[")[0] for one in re.findall(r'"([^"]+)"', command) if ".whl" in one]
        for wheel in wheels:
            if wheel not in copied:
                raise FailedError(
                    f"Image build failed: Requirement '{wheel}' looks like a filename, but does not exist"
                )
            zipfile.ZipFile(copied[wheel]).extractall(folder / "lib")
        return [str(folder / "lib")] if wheels else []
    raise FailedError(f"Image build failed: the command '{command}' returned a non-zero code: 127")


def token(request):
    """What the endpoint for managed identities of a node gives."""
    azure = request.azure
    if request.headers.get("secret") != azure.msi_secret or request.query.get("api-version") != "2017-09-01":
        request.reply(400, {"error": "invalid_request"})
        return
    if request.query.get("clientid") not in (None, azure.identity):
        request.reply(400, {"error": "invalid_request", "error_description": "Identity not found"})
        return
    given = uuid.uuid4().hex
    azure.tokens[given] = request.query["resource"]
    azure.of_nodes.add(given)
    expires = str(int(time.time()) + 3600)
    request.reply(200, {"access_token": given, "expires_on": expires, "token_type": "Bearer", "resource": "r"})


def image_folder(azure, identity):
    return azure.folder / "images" / re.sub(r"\W", "-", Path(identity).name + identity[-60:])


def image_with(folder, version):
    """An image that has the olivine of these tests under another version."""
    package = folder / "lib" / "olivine"
    package.mkdir(parents=True)
    sources = Path(olivine.__file__).parent
    for path in sources.iterdir():
        if path.name not in ("__init__.py", "__pycache__"):
            (package / path.name).symlink_to(path)
    text = (sources / "__init__.py").read_text().replace(olivine.__version__, version)
    (package / "__init__.py").write_text(text)
    return image_that(folder, f'PYTHONPATH="{package.parent}" exec "{sys.executable}" "$@"')


def plain_image(folder):
    """An image with a Python and the libraries of these tests, and no olivine."""
    return image_that(folder, f'exec "{sys.executable}" -c "import sys; sys.exit(\'No module named olivine\')"')


def image_that(folder, script):
    """An image whose Python is a script of the shell."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return folder


def believe(azure):
    """Let clients of this process that are made with aiohttp trust the cloud: its contexts are as old as its import."""
    import aiohttp.connector

    aiohttp.connector._SSL_CONTEXT_VERIFIED.load_verify_locations(azure.bundle)

"""Systems as far ones are: a worker that calls in, and a queue; what they start are processes of this machine."""

import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import psutil
from pydantic import Field

from olivine.messages import ending
from olivine.store.remote import RemoteFiles
from olivine.systems import PROBE, WORKER, Batch, ConnectedWorker, Probe, Started, SystemParams, ask
from toy_system import Toy


class Process(Started):
    """A process as a container or a pod would be."""

    def __init__(self, process):
        self.process = process

    def ended(self):
        code = self.process.poll()
        return None if code is None else ending(code)

    def kill(self):
        self.process.kill()
        self.process.wait()


def _started(command, folder, environment):
    with (folder / "output").open("ab") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)


class Calling(Toy):
    """The worker calls in, from a folder of its own."""

    def worker(self) -> ConnectedWorker:
        def start(arguments, environment):
            command = [sys.executable, *WORKER, *arguments, "--store", self.params.folder]
            return Process(_started(command, Path(self.params.folder), os.environ | environment))

        return ConnectedWorker(start, "127.0.0.1", bind="127.0.0.1", patience_seconds=60)


class Queue(Batch):
    """A queue without waiting: each command is a process, whose files lie at an address."""

    class Params(SystemParams):
        url: str = Field(description="where files go")
        folder: str = Field(description="where commands run")

    params: Params
    pause_seconds = 0.1
    processes: ClassVar = {}

    def probe(self) -> Probe:
        return ask([sys.executable, *PROBE, "--store", self.params.folder])

    def files(self) -> RemoteFiles:
        return RemoteFiles(self.params.url)

    def submit(self, name, arguments) -> str:
        places = ["--store", f"{self.params.folder}/{name}", "--files", self.params.url]
        command = [sys.executable, *WORKER, *arguments, *places]
        process = _started(command, Path(self.params.folder), os.environ)
        self.processes[str(process.pid)] = process
        return str(process.pid)

    def ended(self, identity):
        process = self.processes.get(identity)
        code = process.poll() if process is not None else None
        if process is None:
            return None if psutil.pid_exists(int(identity)) else "is not known to the queue"
        return None if code is None else ending(code)

    def cancel(self, identity):
        self.processes[identity].kill()
        self.processes[identity].wait()

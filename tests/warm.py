"""A Python that begins at once: whatever it is asked to run is forked from a process that has imported it already.

    with Warm(environment) as warm:
        subprocess.run([warm.python, "-m", "olivine", ...])     # imports as ever, and what it imports is noted
        warm.restart()
        subprocess.run([warm.python, "-m", "olivine", ...])     # imports nothing

Nine tenths of a tiny run are imports, in which nothing is written and nothing can be lost. `warm.python` stands for the
interpreter, for the workers that a run starts too. Each kind of process, told by the module after -m, has a parent that
is forked whenever one is asked for: arguments, folder, environment, standard streams are those of who asks, as is the
end. Who kills the process that asked kills the fork. What is no such kind is run by the interpreter itself.
"""

import ast
import contextlib
import ctypes
import gc
import importlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

WORKERS = ("olivine.systems._worker", "olivine.runtimes._served")
APART = {("olivine",): None, **{(kind,): None for kind in WORKERS}}  # each kind has a parent of its own
# What stands for the interpreter: asks the parent of the module, and ends as the fork ends
ASKING = """#!{python} -IS
import os, signal, socket, sys
arguments = sys.argv[1:]
module = arguments[arguments.index("-m") + 1] if "-m" in arguments else ""
if not module or not os.path.exists({folder!r} + "/" + module):
    os.execv({python!r}, [{python!r}, *arguments])
line = socket.socket(socket.AF_UNIX)
line.connect({folder!r} + "/" + module)
rest = arguments[arguments.index("-m") + 2 :]
asked = dict(module=module, arguments=rest, folder=os.getcwd(), environment=dict(os.environ))
message = repr(asked).encode()
socket.send_fds(line, [len(message).to_bytes(8, "big")], [0, 1, 2])
line.sendall(message)
nothing = os.open(os.devnull, os.O_RDWR)
for descriptor in range(3):
    os.dup2(nothing, descriptor)
status = int.from_bytes(line.recv(8), "big")
if os.WIFSIGNALED(status):
    signal.signal(os.WTERMSIG(status), signal.SIG_DFL) if os.WTERMSIG(status) != signal.SIGKILL else None
    os.kill(os.getpid(), os.WTERMSIG(status))
os._exit(os.WEXITSTATUS(status))
"""


class Warm:
    """The parents of all kinds; they end with the `with` statement.

    environment: of the runs. library: loaded into every process, and its `torture_begin` called in each fork. parents:
    the kinds that each stands for, and what it imports at once; None: what the first runs are seen to import.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        library: Path | None = None,
        parents: Mapping[tuple[str, ...], Sequence[str] | None] = APART,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="warm-"))  # a short path: sockets lie there
        self._library, self._parents, self._kinds = library, list[subprocess.Popen[bytes]](), list(parents)
        self._environment = {**environment, **({"LD_PRELOAD": str(library)} if library else {})}
        self.python = str(self._folder / "python")
        Path(self.python).write_text(ASKING.format(python=sys.executable, folder=str(self._folder)))
        Path(self.python).chmod(0o755)
        for number, (kinds, imports) in enumerate(parents.items()):
            # in no command line: who looks for workers there finds no parent
            (self._folder / f"{number}.kinds").write_text("\n".join(kinds))
            if imports is not None:
                (self._folder / f"{kinds[0]}.imports").write_text("\n".join(imports))

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        shutil.rmtree(self._folder)

    def restart(self) -> None:
        """Have everything imported that the processes before this have imported."""
        self._end()
        self._start()

    def running(self) -> list[psutil.Process]:
        """The forks that have not ended."""
        forks = [fork for parent in self._parents for fork in psutil.Process(parent.pid).children()]
        return [fork for fork in forks if fork.is_running() and fork.status() != psutil.STATUS_ZOMBIE]

    def _end(self) -> None:
        for parent in self._parents:
            parent.kill()
            parent.communicate()
        self._parents = []

    def _start(self) -> None:
        for number, kinds in enumerate(self._kinds):
            for kind in kinds:
                (self._folder / kind).unlink(missing_ok=True)
            command = [sys.executable, "-P", __file__, str(self._folder), str(number), str(self._library or "")]
            self._parents.append(subprocess.Popen(command, env=self._environment, stdin=subprocess.PIPE))
        for first, *others in self._kinds:
            while not (self._folder / first).exists():
                assert all(parent.poll() is None for parent in self._parents), "a parent has ended"
                time.sleep(0.02)
            for kind in others:
                (self._folder / kind).symlink_to(first)


def main(folder: Path, number: str, library: str) -> None:
    """Be a parent, or in a fork what was asked for."""
    kind = (folder / f"{number}.kinds").read_text().split()[0]
    imports = folder / f"{kind}.imports"
    is_first = not imports.exists()
    if not is_first:
        _import_all(imports.read_text().splitlines(), kind)
    asked = _serve(folder / kind)
    os.setsid()
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.path[:0] = [
        place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place not in ("", *sys.path)
    ]
    if library:
        ctypes.CDLL(library).torture_begin()
    if is_first:
        sys.meta_path.insert(0, _Noting(imports))
    sys.argv, sys.executable = [asked["module"], *asked["arguments"]], str(folder / "python")
    importlib.import_module("runpy").run_module(asked["module"], run_name="__main__", alter_sys=True)


class _Noting:
    """Notes what is imported, and finds nothing."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def find_spec(self, name: str, *_: object) -> None:
        with self._file.open("a") as file:
            file.write(f"{name}\n")


def _import_all(names: list[str], kind: str) -> None:
    """As the process of that kind would, in the same order; some are asked for by it and are not there."""
    if kind != "olivine":
        for name, value in importlib.import_module("olivine.systems._environment").ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    for name in names:
        if name not in (kind, f"{kind}.__main__"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _serve(address: Path) -> dict[str, Any]:
    """Fork for each that asks; gives in the fork what is asked for, with its standard streams in place."""
    waking, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with socket.socket(socket.AF_UNIX) as server:
        partial = address.with_name(f".{address.name}")
        partial.unlink(missing_ok=True)
        server.bind(str(partial))
        server.listen(64)
        partial.rename(address)  # it is there once it listens
        forks: dict[socket.socket, int] = {}
        while True:
            ready, _, _ = select.select([server, waking, sys.stdin, *forks], [], [])
            if sys.stdin in ready:
                os._exit(0)  # whoever started this is gone, however it ended
            for line in [line for line in ready if line in forks]:
                os.kill(forks[line], signal.SIGKILL)  # who asked is gone
            if waking in ready:
                os.read(waking, 4096)
            for process, status in _ended():
                line = next(line for line, fork in forks.items() if fork == process)
                with contextlib.suppress(OSError):
                    line.sendall(status.to_bytes(8, "big"))
                del forks[line]
                line.close()
            if server in ready:
                line = server.accept()[0]
                asked, streams = _received(line)
                if asked is None:  # who asked was killed meanwhile
                    line.close()
                elif process := os.fork():
                    forks[line] = process
                else:
                    break
                for stream in streams:
                    os.close(stream)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor in (waking, woken, line.detach(), *(line.detach() for line in forks)):
        os.close(descriptor)
    for descriptor, stream in enumerate(streams):
        os.dup2(stream, descriptor)
        os.close(stream)
    return asked


def _received(line: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """What is asked for, None where it did not come whole; and the standard streams."""
    streams, message = list[int](), bytearray()
    try:
        size, streams, _, _ = socket.recv_fds(line, 8, 3)
        while size and len(message) < int.from_bytes(size, "big"):
            if not (piece := line.recv(1 << 16)):
                return None, streams
            message += piece
    except OSError:
        return None, streams
    return (ast.literal_eval(message.decode()) if message else None), streams


def _ended() -> Iterator[tuple[int, int]]:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])

"""What every benchmark notes beside its numbers, and how a command is measured."""

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
# The peer with what it needs and does not say: its own ranges take hours to resolve, and end in packages to compile.
OLIVE = (
    "olive-ai==0.13.0",
    "requests",
    "datasets==5.0.1",
    "huggingface_hub==0.36.2",
    "onnx-ir==1.1.0",
    "onnxruntime-genai==0.14.1",
    "peft==0.21.2",
    "tokenizers==0.22.2",
    "torch==2.13.0",
    "transformers==4.57.6",
)
LIBRARIES = ("torch", "transformers", "peft", "onnxruntime", "onnxruntime-genai", "onnx-ir", "numpy", "numba")


def environment() -> dict:
    """Machine, versions and commit."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(psutil.getloadavg()[0], 1),  # of all processes, as the last number was taken
        "versions": versions,
    }


def processor() -> str:
    """The processor's name, and the vector instructions that matter here."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    found = dict(line.partition(":")[::2] for line in lines if ":" in line)
    found = {key.strip(): value.strip() for key, value in found.items()}
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")
    has = [flag for flag in wanted if flag in found.get("flags", "").split()]
    return f"{found.get('model name', '?')} ({' '.join(has)})"


def measured(command: Sequence[str], *, limit_gb: float | None = None, timeout: float = 3600) -> dict:
    """Run a command: wall seconds, CPU seconds, peak resident GB of it and its children, exit code, end of its output.

    limit_gb: killed when it holds more, as it would be on a machine of that size.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    peak, killed, before = 0, False, cpu_of_ended()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak, killed
        while not done.wait(0.02):
            try:
                parent = psutil.Process(process.pid)
                family = [parent, *parent.children(recursive=True)]
                peak = max(peak, sum(member.memory_info().rss for member in family))
            except psutil.Error:
                continue
            if limit_gb is not None and peak > limit_gb * 1e9:
                killed = True
                process.kill()
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        killed = True
    done.set()
    watcher.join()
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(cpu_of_ended() - before, 2),
        "peak_gb": round(peak / 1e9, 3),
        "exit": process.returncode,
        "killed": killed,
        "output": output[-2000:],
    }


@contextmanager
def memory_group(n_bytes: int) -> Iterator[list[str] | None]:
    """What a command begins with that may use so much memory, mapped files counted (Linux's control groups).

    None where no group can be made.
    """
    for kind, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        parent = _own_group(kind)
        group = parent / f"benchmark-{os.getpid()}" if parent is not None else None
        try:
            if group is None:
                continue
            group.mkdir()
            (group / limit).write_text(str(n_bytes))
        except OSError:
            continue
        try:
            yield ["sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh"]
        finally:
            group.rmdir()
        return
    yield None


def _own_group(kind: str) -> Path | None:
    """The folder of the control group that this process is in; kind: "memory" of version 1, "" of version 2."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    names = [name for _, kinds, name in (line.split(":", 2) for line in lines) if kinds.split(",") == [kind]]
    folders = [Path("/sys/fs/cgroup", kind, name.lstrip("/")) for name in names]
    return next((folder for folder in folders if folder.is_dir()), None)


def cpu_of_ended() -> float:
    """Processor seconds of all children that have ended, with theirs."""
    times = os.times()
    return times.children_user + times.children_system


def last_json(output: str) -> dict:
    """The last line of a program's output that is a JSON object."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    return {}


def median(values: Sequence[float]) -> float:
    """The median, rounded for a table."""
    return round(statistics.median(values), 3)


def olive_python(name: str = "olive", packages: Sequence[str] = OLIVE) -> str:
    """A Python with the peer in an environment of its own under .bench/, made on the first call."""
    folder = ROOT / ".bench" / name
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *packages], check=True
        )
        (folder / "ready").touch()
    return str(python)


def readable_by_peers(folder: Path) -> None:
    """Name the tokenizer's class as transformers 4 knows it, which Olive 0.13 needs; transformers 5 reads both."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    if config.get("tokenizer_class") == "TokenizersBackend":
        path.write_text(json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2))


def write(name: str, result: dict) -> None:
    """Write a result beside the versions that it was measured with."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"environment": environment(), **result}, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path.relative_to(ROOT)}")

"""A whole workflow in a folder of its own, run as its user runs it, and what must hold of it whatever happens.

"real": adapter, merge, int4 graph, each scored. "fake": two passes that only write files, for many runs in little time.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "workflow" / "fakes")]

import olivine  # noqa: E402 - found beside this file when it is run as a program
from tiny import tiny_model, write_rows  # noqa: E402
from warm import Warm  # noqa: E402

__all__ = ["Record", "Warm", "Workflow"]

FAKES = "write = olivine_fakes:Write\n"
REAL = {
    "lora": {
        "type": "LoRA",
        "r": 4,
        "target_modules": ["q_proj", "v_proj"],
        "lora_dropout": 0.1,
        "train_data_config": "rows",
        "eval_dataset_size": 0.25,
        "training_args": {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 4},
    },
    "merge": {"type": "MergeAdapterWeights"},
    "builder": {"type": "ModelBuilder", "precision": "int4"},
}
TOKENS = "tokens-"  # in `scratch`: rows as tokens, for every step that reads them
HANDED_OVER = {".handed-over.json", "README.md", "metrics.json", "report.html", "run.py"}
OURS = {
    ".delivered.json",
    "adapter",
    "journal.jsonl",
    "logs",
    "model",
    "workflow.json",
} | HANDED_OVER  # of an output folder


class Workflow:
    """A config in `folder`, with a cache and an output folder beside it."""

    def __init__(
        self, folder: Path, kind: str, model: Path | None = None, n_files: int = 6, pause_seconds: float = 0.05
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.kept = folder / "kept"
        self.cache, self.out, self.config = folder / "cache", folder / "out", folder / "config.json"
        self.shared = folder.parent / "shared"
        if model is None:
            model = self.shared / "model"
            if not (model / "config.json").is_file():
                tiny_model(model)
        data = {
            "name": "rows",
            "load_dataset_config": {"data_files": str(write_rows(folder / "rows.jsonl", 12))},
            "pre_process_data_config": {"text_template": "{phrase}: {tone}", "strategy": "line-by-line"},
        }
        content = {
            "input_model": {"type": "HfModel", "model_path": str(model)},
            "passes": REAL if kind == "real" else _fake_passes(n_files, pause_seconds),
            "cache_dir": str(self.cache),
            "output_dir": str(self.out),
        }
        more = {"data_configs": [data]} if kind == "real" else {"quality": {"enabled": False}}
        self.config.write_text(json.dumps(content | more))
        self.environment = self._environment()
        self.python = sys.executable

    def _environment(self) -> dict[str, str]:
        info = self.shared / "site" / "olivine_fakes-1.0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: olivine-fakes\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[olivine.passes]\n{FAKES}")
        source = str(Path(olivine.__file__).parent.parent)
        places = [str(info.parent), str(TESTS / "workflow" / "fakes"), source, os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, places)),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, **environment: str) -> "subprocess.Popen[str]":
        """Start a run; standard error is text."""
        command = [self.python, "-m", "olivine", "run", "--config", str(self.config)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env={**self.environment, **environment}, text=True, **pipes)

    def run(self, **environment: str) -> tuple[int, str]:
        """Exit code and standard error of a whole run."""
        process = self.start(**environment)
        _, errors = process.communicate(timeout=600)
        return process.returncode, errors

    def forget(self) -> None:
        """Begin anew."""
        for folder in (self.cache, self.out):
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, name: str) -> None:
        """Remember what lies there, for `restore`."""
        for folder in (self.cache, self.out):
            shutil.copytree(folder, self.kept / name / folder.name)

    def restore(self, name: str) -> None:
        """Begin with what was kept under that name."""
        self.forget()
        for folder in (self.cache, self.out):
            shutil.copytree(self.kept / name / folder.name, folder)

    def delivered(self) -> dict[str, bytes]:
        """What lies in the folders of the result."""
        return contents(self.out / "model") | contents(self.out / "adapter")

    def stored(self) -> set[str]:
        """Names of all that lies in the cache; whether a hash was worth remembering depends on the clock."""
        names = {path.relative_to(self.cache).as_posix() for path in self.cache.rglob("*")}
        return {
            name
            for name in names
            if name not in ("hashes.jsonl", "durations.jsonl") and not name.startswith(f"scratch/{TOKENS}")
        }

    def check_done(self, undisturbed: "Workflow") -> None:
        """The bytes of an undisturbed run, and nothing that it does not leave."""
        assert self.delivered() == undisturbed.delivered()
        assert not (left := self.stored() ^ undisturbed.stored()), f"left or lost: {left}"
        left = {path for name in ("building", "locks", "scratch") for path in (self.cache / name).iterdir()}
        assert not (left := {path for path in left if not path.name.startswith(TOKENS)}), f"left: {left}"
        assert not (left := {path.name for path in self.out.iterdir()} - OURS), f"left: {left}"
        events = [json.loads(line) for line in (self.out / "journal.jsonl").read_text().splitlines() if _whole(line)]
        assert events[-1]["event"] == "run_done"
        assert events[-1]["missed"] == []

    def check_whole(self, *allowed: dict[str, bytes]) -> None:
        """A delivered model is one of those that runs have given, never a part of one."""
        model = contents(self.out / "model")
        assert not model or any(model.items() <= one.items() and _same_names(model, one) for one in allowed)

    def verify(self) -> None:
        """Every byte of the cache is what it was."""
        command = [sys.executable, "-m", "olivine", "cache", "verify", "--cache-dir", str(self.cache)]
        subprocess.run(command, env=self.environment, check=True, stdout=subprocess.DEVNULL)


def _fake_passes(n_files: int, pause_seconds: float) -> dict[str, dict[str, object]]:
    return {
        name: {"type": "write", "text": text, "n_files": n_files, "pause_seconds": pause_seconds}
        for name, text in (("one", "a"), ("two", "b"))
    }


class Record:
    """What a loop has done so far, in a JSON file of its own if there is one; it is whole whenever the loop is stopped."""

    def __init__(self, file: Path | None, **facts: object) -> None:
        self._file, self._started = file, time.monotonic()
        self._facts = {"failure": None, **facts, "environment": _environment()} if file else {}

    def note(self, **facts: object) -> None:
        """Some facts have changed."""
        if self._file:
            self._facts |= facts | {"seconds": round(time.monotonic() - self._started)}
            self._file.write_text(json.dumps(self._facts, indent=1) + "\n")

    @contextmanager
    def watch(self) -> Iterator[None]:
        """What ends the loop early is noted."""
        try:
            yield
        except Exception as error:
            self.note(failure=f"{type(error).__name__}: {error}")
            raise


def _environment() -> dict[str, object]:
    """Machine, versions and commit, as beside every number of the benchmarks."""
    sys.path.append(str(TESTS.parent / "benchmarks"))
    from _machine import environment

    return environment()


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of every file, by `model/...` or `adapter/...`."""
    return {
        path.relative_to(folder.parent).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def _same_names(model: dict[str, bytes], whole: dict[str, bytes]) -> bool:
    return model.keys() == {name for name in whole if name.startswith("model/")}


def _whole(line: str) -> bool:
    """A line that a kill cut short is no event."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False

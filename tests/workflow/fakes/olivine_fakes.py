"""Passes that behave badly on purpose, found by olivine as a third party's are: through an entry point."""

# ruff: noqa: T201 - tests read what is printed

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from olivine.errors import DataError, OlivineError
from olivine.models import Model
from olivine.passes import Pass, PassParams, TrainingRows


class Write(Pass):
    """Write some files, slowly if asked."""

    class Params(PassParams):
        text: str = "a"
        n_files: int = 2
        n_bytes: int = 1000
        pause_seconds: float = 0.0
        counter: str = ""
        n_together: int = 0  # lines that the counter has before it is done: so many are at work at once
        until: str = ""  # a file that is there before it is done
        data: str = ""
        script: str = ""

    accepts = frozenset({"hf", "adapter"})
    produces = "hf"
    libraries = ("blake3",)
    works_with = ("no_module_of_that_name", "slow_to_import")

    def data_names(self):
        return [self.params.data] if self.params.data else []

    def run(self, model, context):
        if self.params.counter:
            with Path(self.params.counter).open("a") as file:
                file.write(f"{os.getpid()}\n")
        done = [path for path in context.scratch.iterdir() if path.suffix == ".part"]
        context.report.record(n_resumed=len(done))
        for index in range(self.params.n_files):
            self._part(context, index)
            context.report.progress(index + 1, self.params.n_files, loss=1.0 / (index + 1))
            print("written", index)
        self._wait()
        (context.output / "config.json").write_text("{}")
        return Model("hf", context.output)

    def _wait(self):
        """For the file, and for the others; not for ever, as what a test forgot would be there for ever."""
        give_up = time.monotonic() + 120
        while not self._may_end() and time.monotonic() < give_up:
            time.sleep(0.01)

    def _may_end(self):
        if self.params.until and not Path(self.params.until).exists():
            return False
        return not self.params.n_together or _n_lines(self.params.counter) >= self.params.n_together

    def _part(self, context, index):
        part = context.scratch / f"{index}.part"
        if not part.exists():
            with part.with_suffix(".tmp").open("wb") as file:
                for _ in range(10):
                    file.write((self.params.text.encode() * self.params.n_bytes)[: self.params.n_bytes // 10])
                    file.flush()
                    time.sleep(self.params.pause_seconds / 10)
            part.with_suffix(".tmp").rename(part)
        shutil.copyfile(part, context.output / f"part{index}.safetensors")


def _n_lines(path):
    return len(Path(path).read_text().splitlines())


class Tune(Write):
    """Train, it says, on rows that a param of its own names."""

    class Params(Write.Params):
        corpus: str
        kept_apart: float

    def data_names(self):
        return [self.params.corpus]

    def trains_on(self):
        return TrainingRows(self.params.corpus, eval_size=self.params.kept_apart, seed=7)


class Adapt(Pass):
    """Give an adapter of the input model."""

    accepts = frozenset({"hf"})
    produces = "adapter"

    def run(self, model, context):
        (context.output / "adapter_config.json").write_text("{}")
        return Model("adapter", context.output, base=model)


class Scale(Pass):
    """Give another adapter of the input adapter's base."""

    accepts = frozenset({"adapter"})
    produces = "adapter"

    def run(self, model, context):
        assert model.base is not None
        (context.output / "adapter_config.json").write_text("{}")
        return Model("adapter", context.output, base=model.base)


class Stray(Pass):
    """Give a model that lies elsewhere."""

    accepts = frozenset({"hf"})
    produces = "hf"

    def run(self, model, context):
        return Model("hf", context.scratch)


class Fail(Pass):
    """End in the way that the params say; with `once`, only while that file does not exist."""

    class Params(PassParams):
        how: str = "raise"
        once: str = ""
        pid_file: str = ""

    accepts = frozenset({"hf"})
    produces = "hf"

    def run(self, model, context):
        if self.params.pid_file:
            fresh = Path(self.params.pid_file + ".tmp")
            fresh.write_text(str(os.getpid()))
            fresh.rename(self.params.pid_file)
        (context.output / "half-written").write_text("half")
        if not self.params.once or not Path(self.params.once).exists():
            if self.params.once:
                Path(self.params.once).touch()
            print("about to fail")
            getattr(self, f"_{self.params.how}")(context)
        (context.output / "config.json").write_text("{}")
        return Model("hf", context.output)

    def _raise(self, context):
        raise RuntimeError("the flux capacitor is empty")

    def _request(self, context):
        raise DataError("train.jsonl:37: the field 'phrase' is missing")

    def _memory(self, context):
        raise MemoryError("a tensor of 3 TB")

    def _kill(self, context):
        os.kill(os.getpid(), signal.SIGKILL)

    def _exit(self, context):
        os._exit(3)

    def _sysexit(self, context):
        sys.exit(4)

    def _segfault(self, context):
        ctypes.string_at(0)

    def _hang(self, context):
        time.sleep(600)

    def _full(self, context):
        with (context.output / "large.safetensors").open("wb") as file:
            for _ in range(64):
                file.write(b"x" * 65536)

    def _orphan(self, context):
        """Leave a child behind that holds every descriptor it could get, then die."""
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        os._exit(5)

    def _noise(self, context):
        print("printed by Python")
        os.write(1, b'{"event": "done", "result": {}}\n')
        os.write(2, b"printed by native code\n")
        subprocess.run(["echo", "printed by a child"], check=True)

    def _input(self, context):
        input("go on? ")

    def _miss(self, context):
        context.report.record(missed=["the check says no"])

    def _note(self, context):
        context.report.note("going on from step 6 of 16")
        logging.getLogger("olivine.kernels").info("compiling loops")

    def _warn(self, context):
        context.report.warn("the rows are short")
        context.report.record(token=os.environ.get("SOME_TOKEN", ""), n_short=3)


class Spoil(Pass):
    """Write a model whose last norm is not a number."""

    accepts = frozenset({"hf"})
    produces = "hf"

    def run(self, model, context):
        import torch
        from safetensors.torch import load_file, save_file

        from olivine.models.materialize import materialize

        result = materialize(model, context.output)
        tensors = load_file(result.path / "model.safetensors")
        tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], torch.nan)
        save_file(tensors, result.path / "model.safetensors", {"format": "pt"})
        return result


class Claim(Write):
    """Write files of which it claims something that only a proof can tell."""

    class Params(Write.Params):
        holds: bool = True

    def claim(self):
        return self.params.model_dump(include={"holds"})

    def prove(self, model, context):
        if not self.params.holds:
            raise OlivineError("from 17 tokens on logits differ by 4.7")
        return {"lengths": [1, 20], "largest_difference": 1e-6, "unproven": ["a part of it is not proven"]}

"""A model in a process of its own, asked over pipes: JSON lines there, JSON lines and raw arrays back.

So that memory and speed are those of the one model, and a model that takes its process down is named.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any, Self

from olivine import errors, lazy
from olivine.errors import OlivineError
from olivine.models import Model
from olivine.reading import tell_reading
from olivine.runtimes.requests import Asked

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    np = lazy.module("numpy")

_END_SECONDS = 10.0


class RuntimeProcess:
    """The process of one model. Use it in a `with` statement: the process ends with it.

    device, dtype: of a model in transformers. accuracy_level: replaces that of an ONNX graph. takes_turns: others run
    beside it and wait while it works; False where its speed is measured.

    Every method raises the OlivineError that the process ran into, and OlivineError with the cause when it died.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: str | None,
        dtype: str,
        accuracy_level: int | None = None,
        takes_turns: bool = True,
    ) -> None:
        self._model = model
        self._process = subprocess.Popen(
            # -P: a file in the current folder must not stand in for a library
            [sys.executable, "-P", "-m", "olivine.runtimes._served"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # several models take turns: one that has nothing to do must not keep the cores spinning
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ} if takes_turns else None,
        )
        self._opening = {"model": model.to_json(), "device": device, "dtype": dtype, "accuracy_level": accuracy_level}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def open(self) -> dict[str, Any]:
        """Load the model for logits: {"n_vocabulary", "context_length", "device"}."""
        return self._ask("open", tell_reading, **self._opening)

    def feed(self, ids: Sequence[Sequence[int]], *, fresh: bool) -> "npt.NDArray[np.float32]":
        """Logits [rows, ids, vocabulary] after each id; the rows go on where they were unless `fresh`."""
        record = self._ask("feed", ids=ids, fresh=fresh)
        shape = tuple(record["shape"])
        values = np.frombuffer(self._read(4 * int(np.prod(shape))), dtype=np.float32)
        return values.reshape(shape)

    def sample(
        self,
        n_rows: int,
        length: int,
        seed: int,
        begin: int,
        end: Sequence[int],
        n_vocabulary: int,
        report: Any = None,
    ) -> list[list[int]]:
        """Rows of ids that the model writes at temperature 1; see Runtime.sample."""
        wish = {"n_rows": n_rows, "length": length, "seed": seed, "begin": begin, "end": list(end)}
        rows: list[list[int]] = self._ask("sample", report, **wish, n_vocabulary=n_vocabulary)["ids"]
        return rows

    def greedy(self, prompts: Sequence[Sequence[int]], n_new: int, n_vocabulary: int) -> list[list[int]]:
        """The `n_new` likeliest tokens after each prompt, all of one length."""
        rows: list[list[int]] = self._ask("greedy", prompts=prompts, n_new=n_new, n_vocabulary=n_vocabulary)["ids"]
        return rows

    def speed(self, prompt: Sequence[int], n_new: int) -> dict[str, Any]:
        """Load the model as it is used, and measure; see speed.measure. Ask a process that did nothing."""
        return self._ask("speed", **self._opening, prompt=list(prompt), n_new=n_new)

    def prepare(self, asked: Asked) -> int:
        """Load the model as it is used, for `request`; gives the tokens of a decoder's prompt, 0 for another model."""
        return int(self._ask("prepare", **self._opening, asked=asdict(asked))["n_prompt"])

    def request(self) -> tuple[list[float], int, int]:
        """Seconds of each part of one request, see `requests`, and bytes that the process took at most so far.

        First its largest resident set, then what it took of the GPU's memory: 0 where nobody looks.
        """
        record = self._ask("request")
        return record["seconds"], record["peak_memory_bytes"], record["peak_gpu_bytes"]

    def _ask(self, wish: str, report: Any = None, **fields: Any) -> dict[str, Any]:
        stdin, stdout = self._pipes()
        with suppress(OSError):  # it died; its output ends, and that is what is told
            stdin.write(json.dumps({"do": wish, **fields}).encode() + b"\n")
            stdin.flush()
        while line := stdout.readline():
            record: dict[str, Any] = json.loads(line)
            if "progress" in record:
                if report is not None:
                    report(*record["progress"])
                continue
            if "error" in record:
                raise self._error(record["error"])
            return record
        raise self._died()

    def _read(self, n_bytes: int) -> bytes:
        _, stdout = self._pipes()
        data = stdout.read(n_bytes)
        if len(data) != n_bytes:
            raise self._died()
        return data

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        return self._process.stdin, self._process.stdout

    def _error(self, record: dict[str, str]) -> OlivineError:
        """What went wrong there, as the same class of error here where it is one of ours."""
        kind = getattr(errors, record["type"], None)
        if isinstance(kind, type) and issubclass(kind, errors.RequestError) and kind is not errors.ConfigError:
            return kind(record["message"])
        return OlivineError(f"running '{self._model.path}' failed: {record['type']}: {record['message']}")

    def _died(self) -> OlivineError:
        try:
            code = self._process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            return OlivineError(f"the process that ran '{self._model.path}' closed its output")
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        hint = ": probably out of memory" if code in (-9, 137) else ""
        return OlivineError(f"the process that ran '{self._model.path}' {how}{hint}")

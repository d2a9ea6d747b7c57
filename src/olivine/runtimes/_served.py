"""`python -m olivine.runtimes._served`: the process of one model. Reads wishes, see process.RuntimeProcess."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, BinaryIO

from olivine import memory
from olivine.models import Model
from olivine.reading import hear_reading
from olivine.runtimes._base import Runtime
from olivine.runtimes.gpu_memory import GpuMemory
from olivine.runtimes.opening import open_runtime
from olivine.runtimes.requests import Asked, Request, open_requests
from olivine.runtimes.speed import measure


class _Server:
    """Answers wishes one after the other."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._runtime: Runtime | None = None
        self._request: Request = list
        self._gpu: GpuMemory | None = None

    def open(self, model: dict[str, Any], device: str | None, dtype: str, accuracy_level: int | None) -> None:
        self._runtime = open_runtime(Model.from_json(model), device, dtype, accuracy_level)
        facts = {"n_vocabulary": self._runtime.n_vocabulary, "context_length": self._runtime.context_length}
        self._send(**facts, device=self._runtime.device)

    def feed(self, ids: list[list[int]], *, fresh: bool) -> None:
        logits = self._opened.feed(ids, fresh=fresh)
        self._send(shape=logits.shape)
        self._stream.write(logits.data)
        self._stream.flush()

    def sample(self, **wish: Any) -> None:
        self._send(ids=self._opened.sample(**wish, report=lambda *far: self.tell(far)))

    def greedy(self, prompts: list[list[int]], n_new: int, n_vocabulary: int) -> None:
        self._send(ids=self._opened.generate(prompts, n_new, n_vocabulary=n_vocabulary))

    def speed(
        self, model: dict[str, Any], device: str | None, dtype: str, prompt: list[int], n_new: int, **_: Any
    ) -> None:
        costs = measure(Model.from_json(model), device, dtype, prompt, n_new)
        self._send(**costs, peak_memory_bytes=memory.peak_bytes())

    def prepare(self, model: dict[str, Any], device: str | None, dtype: str, asked: dict[str, Any], **_: Any) -> None:
        wish = Asked(**asked)
        self._gpu = GpuMemory() if wish.watches_gpu else None
        with self._counting():
            self._request, n_prompt = open_requests(Model.from_json(model), device, dtype, wish)
        self._send(n_prompt=n_prompt)

    def request(self) -> None:
        with self._counting():
            seconds = self._request()
        on_gpu = self._gpu.peak_bytes if self._gpu is not None else 0
        self._send(seconds=seconds, peak_memory_bytes=memory.peak_bytes(), peak_gpu_bytes=on_gpu)

    def _counting(self) -> AbstractContextManager[None]:
        return self._gpu.counting() if self._gpu is not None else nullcontext()

    def tell(self, far: tuple[int, int]) -> None:
        """How far the wish is."""
        self._send(progress=far)

    def fail(self, error: BaseException) -> None:
        """Send the parent the type of an error and its message in one line."""
        text = " ".join(str(error).split())
        self._send(error={"type": type(error).__name__, "message": text})

    @property
    def _opened(self) -> Runtime:
        if self._runtime is None:
            raise RuntimeError("no model is open")
        return self._runtime

    def _send(self, **record: Any) -> None:
        self._stream.write(json.dumps(record).encode() + b"\n")
        self._stream.flush()


def main() -> None:
    """Serve until the input ends. What libraries print goes to standard error, never between the answers."""
    server = _Server(os.fdopen(os.dup(1), "wb"))
    hear_reading(lambda *far: server.tell(far))
    os.dup2(2, 1)
    for line in sys.stdin:
        wish = json.loads(line)
        answer: Callable[..., None] = getattr(server, wish.pop("do"))
        try:
            answer(**wish)
        except Exception as error:  # noqa: BLE001 - the border of the process: the one who asked decides
            import traceback

            traceback.print_exc()
            server.fail(error)


if __name__ == "__main__":
    main()

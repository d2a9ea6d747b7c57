"""The process that is connected to a Ray cluster, and answers for it: `python -m olivine.systems._ray_driver`."""

import json
import os
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from olivine.systems._ray_cluster import Cluster
from olivine.systems._ray_line import described, write

_N_AT_ONCE = 256  # each asks for a moment only


def main() -> int:
    """Connect, and answer until there is nobody who asks."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Ray prints is no answer
    questions = iter(sys.stdin.readline, "")
    lock = threading.Lock()

    def tell(record: Mapping[str, Any]) -> None:
        with lock:
            write(answers, record)

    try:
        cluster = Cluster(json.loads(next(questions)))
    except Exception as error:  # noqa: BLE001 - the border of the process: whatever it was, the parent tells it
        tell({"error": described(error)})
        return 1
    tell({"connected": True})

    def reply(question: Mapping[str, Any]) -> None:
        try:
            answer = getattr(cluster, question["ask"])(**question["with"])
            tell({"id": question["id"], "answer": answer})
        except ConnectionError:  # the line to the cluster: another process makes another one
            os._exit(3)
        except Exception as error:  # noqa: BLE001 - as above
            tell({"id": question["id"], "error": described(error)})

    with ThreadPoolExecutor(_N_AT_ONCE) as threads:
        for line in questions:
            threads.submit(reply, json.loads(line))
        os._exit(0)  # whoever asked is gone, and waits for no answer


if __name__ == "__main__":
    sys.exit(main())

"""The runtime's tokenizer in a process of its own: `python -m olivine.passes.export._tokenizer_process FOLDER`.

The first line that it writes says whether the folder can be read. Then each line of its input is a wish,
{"encode": text} or {"messages": JSON text, "settings": {}}; each line of its output {"answer": ...} or {"error": ...}.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def main(folder: str) -> int:
    """Serve until the input ends."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the runtime prints is no answer

    def tell(make: Callable[[], Any]) -> bool:
        try:
            record = {"answer": make()}
        except Exception as error:  # noqa: BLE001 - the border of the process: whatever it was, the other side decides
            record = {"error": str(error)}
        print(json.dumps(record), file=output, flush=True)
        return "answer" in record

    loaded: list[Any] = []

    def load() -> bool:
        import onnxruntime_genai

        loaded.append(onnxruntime_genai.Model(folder))
        loaded.append(onnxruntime_genai.Tokenizer(loaded[0]))
        return True

    if not tell(load):
        return 1
    tokenizer = loaded[1]
    for line in sys.stdin:
        wish = json.loads(line)
        if "encode" in wish:
            tell(lambda: tokenizer.encode(wish["encode"]).tolist())  # noqa: B023 - called at once
        else:
            tell(lambda: tokenizer.apply_chat_template(wish["messages"], **wish["settings"]))  # noqa: B023 - as above
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

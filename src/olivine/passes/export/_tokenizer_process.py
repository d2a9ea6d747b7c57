"""The runtime's tokenizer in a process of its own: `python -m olivine.passes.export._tokenizer_process FOLDER`.

Each line of its input is a wish, {"encode": text} or {"messages": JSON text, "settings": {}}, and each line of its
output is {"answer": ...} or {"error": ...}. A folder that the runtime cannot read is the error of the first wish.
"""

import json
import os
import sys
from functools import cache
from typing import Any


def main(folder: str) -> int:
    """Serve until the input ends."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the runtime prints is no answer
    for line in sys.stdin:
        try:
            record = {"answer": _answer(folder, json.loads(line))}
        except RuntimeError as error:  # the runtime's own
            record = {"error": str(error)}
        print(json.dumps(record), file=output, flush=True)
    return 0


@cache
def _loaded(folder: str) -> tuple[Any, Any]:
    """Tokenizer and model: a tokenizer of the runtime does not outlive its model."""
    import onnxruntime_genai

    model = onnxruntime_genai.Model(folder)
    return onnxruntime_genai.Tokenizer(model), model


def _answer(folder: str, wish: dict[str, Any]) -> Any:
    tokenizer, _ = _loaded(folder)
    if "encode" in wish:
        return tokenizer.encode(wish["encode"]).tolist()
    return tokenizer.apply_chat_template(wish["messages"], **wish["settings"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

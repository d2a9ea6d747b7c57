"""The process of a detached run: `python -m olivine.cli._detached FILE ARGUMENT...` keeps a command's exit code."""

import json
import sys
import time
from pathlib import Path

PROGRAM = ("-P", "-m", "olivine.cli._detached")  # what a Python is given to do a command so


def main(arguments: list[str]) -> int:
    """Run the command line; however it ends, the exit code stands in the file."""
    from olivine.cli import exit_code
    from olivine.cli._process import end_in_order
    from olivine.store.files import write_synced

    end_in_order()
    code = 1  # of a bug, whose traceback follows
    try:
        code = exit_code(arguments[1:])
    finally:
        partial = Path(f"{arguments[0]}.partial")
        write_synced(partial, json.dumps({"exit_code": code, "time": time.time()}))
        partial.replace(arguments[0])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

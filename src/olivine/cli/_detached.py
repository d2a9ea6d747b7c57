"""The process of a detached run: `python -m olivine.cli._detached FILE ARGUMENT...` keeps a command's exit code."""

import sys
from pathlib import Path

PROGRAM = ("-P", "-m", "olivine.cli._detached")  # what a Python is given to do a command so


def main(arguments: list[str]) -> int:
    """Run the command line; however it ends, the exit code stands in the file."""
    from olivine.cli import exit_code
    from olivine.cli._process import end_in_order
    from olivine.workflow.detached import write_end

    end_in_order()
    code = 1  # of a bug, whose traceback follows
    try:
        code = exit_code(arguments[1:])
    finally:
        write_end(Path(arguments[0]), code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

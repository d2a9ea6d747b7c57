"""A process that stops in the middle of its work: who ends it there meets the same moment on any machine, fast or slow."""

import os
import threading
import time
from pathlib import Path

SECONDS = 600  # a process that nobody lets go on is not there for ever; a busy machine takes minutes to come that far
# What every Python that sees the folder of this file begins with
SITE = """
import os, sys, time

def look(event, arguments):
    if event == "os.mkdir" and str(arguments[0]).endswith({name!r}) and not os.path.exists({go!r}):
        open({held!r}, "w").close()
        give_up = time.monotonic() + {seconds}
        while not os.path.exists({go!r}) and time.monotonic() < give_up:
            time.sleep(0.01)

sys.addaudithook(look)
"""


class Held:
    """Where processes stop: each Python with `site` in its PYTHONPATH that is about to make a folder of that name."""

    def __init__(self, folder: Path, name: str) -> None:
        self.site, self._held, self._go = folder / "site", folder / "held", folder / "go"
        self.site.mkdir(parents=True)
        places = {"held": str(self._held), "go": str(self._go)}
        (self.site / "sitecustomize.py").write_text(SITE.format(name=f"/{name}", seconds=SECONDS, **places))
        self.pythonpath = os.pathsep.join([str(self.site), *filter(None, [os.environ.get("PYTHONPATH")])])

    def then(self, act) -> threading.Thread:
        """Do that when a process stands there, and let it go on; what comes there later does not stop."""

        def wait():
            give_up = time.monotonic() + SECONDS
            while not self._held.exists():
                assert time.monotonic() < give_up, "no process has come there"
                time.sleep(0.01)
            try:
                act()
            finally:
                self._go.touch()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread

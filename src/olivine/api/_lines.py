"""What is said while a function of the API works: a line for each step, as a notebook or a log shows it."""

import sys

from olivine.workflow.events import Event, Noted, StepDone, StepStarted, Warned


class Lines:
    """A listener that writes a line for each step that begins or ends, and for each warning, to standard error."""

    def __call__(self, event: Event) -> None:
        """Write what a person should see of the event."""
        match event:
            case StepStarted():
                self._write(f"{event.step}: {event.description} ...")
            case StepDone():  # of which one from the cache is a kind
                told = "cached" if event.is_cached else f"{event.seconds:.1f} s"
                self._write(f"✓ {event.step}: {', '.join(filter(None, [told, event.summary]))}")
            case Noted():
                self._write(f"{event.step}: {event.message}")
            case Warned():
                self._write(f"! {event.step}: {event.message}")

    def _write(self, line: str) -> None:
        sys.stderr.write(f"{line}\n")

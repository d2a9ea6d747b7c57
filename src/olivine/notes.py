"""What code that is handed no Reporter says while a job is at work: what it logs, and how much of a model is read."""

import logging

from olivine.messages import Events
from olivine.reading import hear_reading


class Notes(logging.Handler):
    """What our own code logs while a job is at work, as notes of that job: for code that is handed no Reporter.

    What it tells with `tell_reading` is the progress of the job.
    """

    def __init__(self, events: Events) -> None:
        super().__init__(logging.INFO)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        self._events.note(record.getMessage())

    def listen(self) -> None:
        """Hear it all from now on, in this process."""
        log = logging.getLogger("olivine")
        log.setLevel(logging.INFO)
        log.addHandler(self)
        hear_reading(lambda done, total: self._events.progress(done, total, reading=_amount(done, total)))


def _amount(done: float, total: float) -> str:
    """As "1.2 of 4.0 GB"."""
    unit, name = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
    return f"{done / unit:.1f} of {total / unit:.1f} {name}"

"""What a model takes in memory while it is used."""

from typing import ClassVar

from olivine.evaluate._base import Metric, Number, TimingParams, Timings


class Memory(Metric):
    """The largest resident set of a process that loads the model and answers requests, libraries included."""

    Params = TimingParams
    reads = Timings
    numbers: ClassVar = {
        name: Number("peak_memory_bytes", higher_is_better=False, unit="bytes") for name in ("peak_rss", "memory")
    }
    only_when_asked = True

    def compute(self, evidence: Timings) -> dict[str, float]:
        """`peak_memory_bytes`."""
        return {"peak_memory_bytes": evidence.peak_memory_bytes} if evidence.peak_memory_bytes else {}

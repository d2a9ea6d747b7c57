"""What a model takes in memory while it is used."""

from typing import ClassVar

from olivine.evaluate._base import Metric, Number, TimingParams, Timings


class Memory(Metric):
    """The most memory that a process takes which loads the model and answers requests, libraries included."""

    Params = TimingParams
    reads = Timings
    numbers: ClassVar = {
        **dict.fromkeys(
            ("peak_rss", "memory"), Number("peak_memory_bytes", higher_is_better=False, unit="bytes", best=0.0)
        ),
        "gpu_peak": Number("peak_gpu_bytes", higher_is_better=False, unit="bytes", best=0.0),
    }
    only_when_asked = True

    def compute(self, evidence: Timings) -> dict[str, float]:
        """`peak_memory_bytes`, the largest resident set, and `peak_gpu_bytes`, where there is a GPU to be asked."""
        peaks = {"peak_memory_bytes": evidence.peak_memory_bytes, "peak_gpu_bytes": evidence.peak_gpu_bytes}
        return {name: n_bytes for name, n_bytes in peaks.items() if n_bytes}

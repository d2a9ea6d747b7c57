"""How much a model gets done."""

from typing import TYPE_CHECKING, ClassVar

from olivine import lazy
from olivine.evaluate._base import Evidence, Metric, Number, OutputEvidence, TimingParams, Timings
from olivine.evaluate.latency import PERCENTILES

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")


class Throughput(Metric):
    """Tokens a second that a decoder reads and writes, of all texts of a batch; of any other model, rows a second."""

    Params = TimingParams
    reads = Timings
    numbers: ClassVar = {
        name: Number(f"throughput_{name}", higher_is_better=True, unit="/s")
        for name in ("avg", "min", "max", *PERCENTILES)
    } | {
        "decode": Number("decode_tokens_per_second", higher_is_better=True, unit="/s", of=Evidence),
        "prefill": Number("prefill_tokens_per_second", higher_is_better=True, unit="/s", of=Evidence),
        "rows": Number("rows_per_second", higher_is_better=True, unit="/s", of=OutputEvidence),
    }
    only_when_asked = True

    def compute(self, evidence: Timings) -> dict[str, float]:
        """`throughput_avg`, `throughput_p90` and so on of tokens or rows a second; by median seconds, the others."""
        steps = np.asarray(evidence.steps)
        if not len(steps):
            return {}
        n_each = evidence.batch_size
        rates = n_each / steps
        numbers = {"avg": len(steps) * n_each / steps.sum(), "min": rates.min(), "max": rates.max()}
        numbers |= {name: np.percentile(rates, share) for name, share in PERCENTILES.items()}
        median = n_each / float(np.median(steps))
        told = {f"throughput_{name}": float(value) for name, value in numbers.items()}
        if not evidence.n_prompt:
            return told | {"rows_per_second": median}
        prefill = n_each * evidence.n_prompt / float(np.median(evidence.first))
        return told | {"decode_tokens_per_second": median, "prefill_tokens_per_second": prefill}

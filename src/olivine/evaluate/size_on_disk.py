"""What a model takes on disk."""

from typing import ClassVar

from olivine.evaluate._base import Artifact, Metric, Number


class SizeOnDisk(Metric):
    """Bytes of all files of the model."""

    reads = Artifact
    numbers: ClassVar = {
        "bytes": Number("size_bytes", higher_is_better=False, unit="bytes", best=0.0),
        "size_on_disk": Number("size_bytes", higher_is_better=False, unit="bytes", best=0.0),
    }

    def compute(self, evidence: Artifact) -> dict[str, float]:
        """`size_bytes`; nothing where the weights are computed from another model's."""
        return {} if evidence.size_bytes is None else {"size_bytes": evidence.size_bytes}

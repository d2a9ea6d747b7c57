"""Size: which tensors of the result take the room, and in how many bits."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from olivine.report.html import rendered
from olivine.report.run import Run
from olivine.report.section import Section
from olivine.report.values import size

N_SHOWN = 14


class Contents(Section):
    """Bits and bytes of the result."""

    title = "What takes the room"
    place = 75

    def draw(self, run: Run) -> Markup | None:
        """Bytes by bits as one bar, and the largest tensors."""
        if run.delivered is None or not run.delivered.tensors:
            return None
        tensors = list(run.delivered.tensors)
        whole = sum(one["n_bytes"] for one in tensors) or 1
        rows = [
            {**one, "size": size(one["n_bytes"]), "share": round(100 * one["n_bytes"] / whole, 1)}
            for one in tensors[:N_SHOWN]
        ]
        rest = whole - sum(one["n_bytes"] for one in tensors[:N_SHOWN])
        return rendered(
            "contents.html",
            rows=rows,
            bits=_by_bits(tensors, whole),
            whole=size(whole),
            rest=size(rest),
            n_rest=max(0, len(tensors) - N_SHOWN),
        )


def _by_bits(tensors: Sequence[Mapping[str, Any]], whole: int) -> list[dict[str, Any]]:
    """Bytes in each width, the narrowest first."""
    sums: dict[int, int] = {}
    for one in tensors:
        sums[one["bits"]] = sums.get(one["bits"], 0) + one["n_bytes"]
    return [
        {"bits": bits, "size": size(n_bytes), "share": round(100 * n_bytes / whole, 1)}
        for bits, n_bytes in sorted(sums.items())
    ]

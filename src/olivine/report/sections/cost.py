"""Cost: when each step ran, how long, and how much memory it took."""

from markupsafe import Markup

from olivine.report.html import rendered
from olivine.report.run import Job, Run
from olivine.report.section import Section
from olivine.report.values import size
from olivine.workflow.units import duration

N_LONGEST = 24  # steps of a long search that are drawn


class Cost(Section):
    """A timeline with a row for each step."""

    title = "Time and memory"
    place = 70

    def draw(self, run: Run) -> Markup | None:
        """The steps in order of their beginning; of very many those that took longest."""
        jobs = sorted(run.jobs, key=lambda job: job.began)
        if not jobs:
            return None
        if len(jobs) > N_LONGEST:
            longest = sorted(jobs, key=lambda job: job.began - job.ended)[:N_LONGEST]
            jobs = sorted(longest, key=lambda job: job.began)
        whole = max(run.seconds, 0.001)
        most = max((_memory(job) for job in jobs), default=0) or 1
        rows = [_row(job, whole, most) for job in jobs]
        on_device = any(row["device_memory"] for row in rows)
        return rendered(
            "cost.html", rows=rows, whole=duration(run.seconds), left_out=len(run.jobs) - len(rows), on_device=on_device
        )


def _memory(job: Job) -> int:
    return getattr(job.event, "peak_memory_bytes", None) or 0


def _row(job: Job, whole: float, most: int) -> dict[str, object]:
    device = getattr(job.event, "peak_device_memory_bytes", None)
    return {
        "name": job.event.step,
        "state": job.state,
        "start": round(100 * job.began / whole, 2),
        "width": round(100 * max(0.0, job.ended - job.began) / whole, 2),
        "time": duration(job.ended - job.began)
        if job.state != "cached"
        else f"cached ({duration(getattr(job.event, 'seconds', 0.0))})",
        "memory": size(_memory(job)),
        "share": round(100 * _memory(job) / most, 1),
        "device_memory": size(device) if device else "",
        "host": job.event.host or "",
    }

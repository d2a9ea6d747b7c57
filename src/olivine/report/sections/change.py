"""What is other than in the run before: config, versions, scores."""

from markupsafe import Markup

from olivine.report.difference import differences
from olivine.report.html import rendered
from olivine.report.run import Run
from olivine.report.section import Section


class Change(Section):
    """Differences to the last finished run of the same output folder."""

    title = "Since the last run"
    place = 80

    def draw(self, run: Run) -> Markup | None:
        """Tables of what differs; of the first run none."""
        before = next((one for one in reversed(run.earlier) if one.done is not None), None)
        if before is None:
            return None
        return rendered("change.html", before=before, differences=differences(before, run))

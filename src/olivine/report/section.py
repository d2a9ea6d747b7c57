"""The contract of a section: events of a run in, HTML out."""

from abc import ABC, abstractmethod
from typing import ClassVar

from markupsafe import Markup

from olivine.report.run import Run


class Section(ABC):
    """One file, one section; the file's name is its anchor on the page.

    title: its heading. place: sections stand in that order.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    place: ClassVar[int]

    @abstractmethod
    def draw(self, run: Run) -> Markup | None:
        """What stands below the heading; None for a run of which there is nothing to say."""

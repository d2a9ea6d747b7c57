"""The contract of a strategy: it lays samples out; cutting, dropping, padding and counting are done by `samples`."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from olivine.config.schema import PreProcess

if TYPE_CHECKING:
    from olivine.data.strategies._layout import Layout, Source


class Strategy(ABC):
    """How rows become samples.

    joins: whether samples are cut from one stream of all rows, with the joiner between two of them; else a sample is
    made of one row.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    joins: ClassVar[bool] = False

    @classmethod
    def check(cls, settings: PreProcess) -> Iterator[tuple[str, str]]:  # noqa: ARG003
        """What the settings lack, with what to do: a sentence each."""
        yield from ()

    @classmethod
    def longest(cls, settings: PreProcess) -> int:
        """Tokens that a sample holds at most."""
        return settings.max_seq_len

    @abstractmethod
    def layout(self, source: "Source", settings: PreProcess) -> "Layout":
        """The samples of the rows, in order; the same ones for the same seed."""


def needs_number(settings: PreProcess) -> Iterator[tuple[str, str]]:
    """What a strategy says that draws, where nothing says how often."""
    if settings.max_samples is None:
        yield f"the strategy '{settings.strategy}' needs 'max_samples'.", "Write how many samples are to be drawn."

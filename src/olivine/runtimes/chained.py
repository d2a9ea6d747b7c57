"""Parts that follow each other, run as the one model that they are together."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from olivine.errors import ModelError
from olivine.models.chained import Chained
from olivine.models.signature import Signature

if TYPE_CHECKING:
    import numpy.typing as npt

    from olivine.runtimes.seq2seq import PartSession


class ChainedSession:
    """The parts one after the other: each is given what it takes of the inputs and of what those before it gave.

    signatures, sessions: of the parts, by name. heard: is called with what each part is given.
    """

    def __init__(
        self, chain: Chained, signatures: Mapping[str, Signature], sessions: "Mapping[str, PartSession]"
    ) -> None:
        self._chain, self._signatures, self._sessions = chain, signatures, sessions
        self.heard: Callable[[str, Mapping[str, Any]], None] = lambda _part, _inputs: None

    def run(self, inputs: Mapping[str, Any]) -> "dict[str, npt.NDArray[Any]]":
        """The outputs of the whole, by name and in order. ModelError, with the part's name, where one does not run."""
        there = dict(inputs)
        for part in self._chain.parts:
            names = [spec.name for spec in self._signatures[part].inputs]
            if lacking := next((name for name in names if name not in there), None):
                raise ModelError(f"the part '{part}' takes '{lacking}', which is not given")
            feed = {name: there[name] for name in names}
            self.heard(part, feed)
            try:
                there |= self._sessions[part].run(feed)
            except ModelError as error:
                raise ModelError(f"the part '{part}': {error}") from error
        return {spec.name: there[spec.name] for spec in self._chain.signature.outputs}

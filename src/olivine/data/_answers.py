"""Rows that teach or tell nothing: without an answer, and held-out ones that are trained on as well."""

import math
from dataclasses import dataclass

from olivine.config.schema import DataConfig
from olivine.data.forms import Form
from olivine.errors import DataError


@dataclass(frozen=True)
class Unanswered:
    """How many rows have no answer, of how many in all, and where the first of them stands."""

    n: int
    n_rows: int
    first: str

    def sentence(self, config: DataConfig, form: Form) -> str:
        """What is done with them."""
        return f"{self._counted(config, form)} and {'is' if self.n == 1 else 'are'} left out (first: {self.first})"

    def fault(self, config: DataConfig, form: Form) -> tuple[str, str] | None:
        """Why so many are refused and what to do, a sentence each; None when they are few enough."""
        most = config.pre_process_data_config.max_unanswered
        if not self.n or (self.n < self.n_rows and self.n <= most * self.n_rows):
            return None
        counted = f"{self._counted(config, form)} (first: {self.first})"
        if self.n == self.n_rows:
            return f"{counted}, so that there is nothing to learn.", "Write the answers, or name their column."
        share = math.ceil(100 * self.n / self.n_rows) / 100
        allowed = (
            f"more than the share of {most:g} that max_unanswered lets be left out"
            if most
            else ("and max_unanswered: 0 lets none be left out")
        )
        return f"{counted}, {allowed}.", f"Write the answers, remove the rows, or set max_unanswered: {share:g}."

    def refuse(self, config: DataConfig, form: Form) -> None:
        """Raise DataError when they are too many."""
        if (fault := self.fault(config, form)) is not None:
            raise DataError(" ".join(fault).removesuffix("."))

    def _counted(self, config: DataConfig, form: Form) -> str:
        have = "has" if self.n == 1 else "have"
        return f"{self.n:,} of {self.n_rows:,} rows of '{config.name}' {have} no {form.lack}"


def doubled_sentence(n: int, n_rows: int) -> str | None:
    """What is said of `n` rows of `n_rows` that are there before; None where there are none."""
    if not n:
        return None
    return f"{n:,} of {n_rows:,} rows {'has' if n == 1 else 'have'} the text of an earlier one"


def seen_sentence(n: int, n_rows: int, name: str) -> str | None:
    """What is said of `n` held-out rows of `n_rows` whose text is also trained on; None where there are none."""
    if not n:
        return None
    are = "is" if n == 1 else "are"
    return (
        f"{n:,} of the {n_rows:,} held-out rows of '{name}' ({n / n_rows:.0%}) {are} also among those that are trained "
        "on: what is scored on them says little of new rows"
    )

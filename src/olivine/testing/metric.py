"""What every metric keeps to, as tests that a metric's own test class inherits."""

import copy
import json
import math
from typing import TYPE_CHECKING, ClassVar

from olivine import lazy
from olivine.evaluate import Artifact, Evidence, Metric, OutputEvidence, Timings
from olivine.testing._plugin import check_help, check_params

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")


class MetricContract:
    """Set `metric` to the class.

    needs_labels: whether it has nothing to say where the rows are plain text, without labels and answers.
    """

    metric: ClassVar[type[Metric]]
    needs_labels: ClassVar[bool] = False

    def evidence(
        self, *, is_text: bool = False, is_first: bool = False
    ) -> Evidence | OutputEvidence | Artifact | Timings:
        """What a model did on three rows, of a kind that the metric reads.

        is_text: without labels. is_first: no model came before.
        """
        if issubclass(Evidence, self.metric.reads):
            return self._of_text(is_text, is_first)
        if self._reads_outputs:
            return self._of_outputs(is_text, is_first)
        if self.metric.reads is Timings:
            return Timings(
                [] if is_text else [[0.5, 0.25, 0.125]] * 3, n_prompt=64, peak_memory_bytes=2_000_000, peak_gpu_bytes=1
            )
        return Artifact(None if is_text else 1_000_000)

    @property
    def _reads_outputs(self) -> bool:
        return issubclass(OutputEvidence, self.metric.reads)

    def _of_outputs(self, is_text: bool, is_first: bool) -> OutputEvidence:
        values = np.random.default_rng(1).normal(size=(2, 3, 1, 4)).astype(np.float32)
        before, after = ([{"logits": row, "state": row[..., :2]} for row in rows] for rows in values)
        labels = [] if is_text else [0, 3, int(after[2]["logits"].argmax())]
        return OutputEvidence(after, None if is_first else before, ["logits"], labels)

    def _of_text(self, is_text: bool, is_first: bool) -> Evidence:
        logits = np.random.default_rng(1).normal(size=(2, 6, 8))
        log_probabilities = (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).astype(np.float16)
        return Evidence(
            labels=[] if is_text else ["joy", "fear", "great joy"],
            generated=[] if is_text else ["joy", "anger", "great joy\nand more"],
            token_losses=np.asarray([0.5, 1.0, 0.25, 2.0, 0.0, 0.125]),
            log_probabilities=log_probabilities[0],
            previous=None if is_first else log_probabilities[1],
        )

    def test_docstring_and_params_can_be_shown_and_written(self) -> None:
        """The help of the plugin is the first line of its docstring."""
        check_help(self.metric)
        check_params(self.metric.Params)

    def test_numbers_have_names_and_can_be_written(self) -> None:
        """Plain numbers of Python, which JSON has."""
        numbers = self.metric().compute(self.evidence())
        assert numbers
        for name, value in numbers.items():
            assert name.isidentifier(), f"'{name}' is no name for a table"
            assert type(value) in (int, float), f"'{name}' is a {type(value).__name__}"
            assert math.isfinite(value)
        assert json.loads(json.dumps(numbers)) == numbers

    def test_same_evidence_gives_the_same_numbers_and_stays_as_it_is(self) -> None:
        """A metric only reads."""
        evidence = self.evidence()
        before = copy.deepcopy(evidence)
        assert self.metric().compute(evidence) == self.metric().compute(evidence)
        for name, value in vars(before).items():
            np.testing.assert_equal(getattr(evidence, name), value)

    def test_number_that_cannot_be_had_is_left_out(self) -> None:
        """Text without labels, the first model of a run, no rows at all: never an error."""
        on_text = self.metric().compute(self.evidence(is_text=True))
        assert not (self.needs_labels and on_text)
        self.metric().compute(self.evidence(is_first=True))
        if self._reads_outputs:
            self.metric().compute(OutputEvidence([], []))
        if not issubclass(Evidence, self.metric.reads):
            return
        nothing = np.zeros((0, 8), np.float16)
        self.metric().compute(Evidence([], [], np.zeros(0), nothing, nothing))

    def test_numbers_that_evaluators_name_are_there(self) -> None:
        """Every sub type leads to a number that is computed."""
        evidence = self.evidence()
        keys = {number.key for number in self.metric.numbers.values()}
        computed = set(self.metric().compute(evidence))
        if isinstance(evidence, Timings):  # some are of decoders, others of graphs
            computed |= self.metric().compute(Timings([[0.5]], batch_size=4, peak_memory_bytes=1)).keys()
        assert keys <= computed
        assert all(name == name.lower() for name in self.metric.numbers)

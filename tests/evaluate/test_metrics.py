"""Every metric of ours keeps the contract that third parties' inherit; params and names of a config are checked."""

import json

import numpy as np
import pytest

from olivine.errors import RequestError
from olivine.evaluate import Evidence, OutputEvidence, check_metrics, measured, metrics
from olivine.evaluate.label_accuracy import standard_error
from olivine.testing.metric import MetricContract


class TestLabelAccuracy(MetricContract):
    metric = metrics.own["label_accuracy"]
    needs_labels = True


class TestPerplexity(MetricContract):
    metric = metrics.own["perplexity"]


class TestDivergence(MetricContract):
    metric = metrics.own["divergence"]


class TestOutputAgreement(MetricContract):
    metric = metrics.own["output_agreement"]


class TestClassAccuracy(MetricContract):
    metric = metrics.own["class_accuracy"]
    needs_labels = True


class TestExactMatch(MetricContract):
    metric = metrics.own["exact_match"]
    needs_labels = True


class TestFScore(MetricContract):
    metric = metrics.own["f_score"]
    needs_labels = True


class TestTopK(MetricContract):
    metric = metrics.own["top_k"]
    needs_labels = True


class TestAuroc(MetricContract):
    metric = metrics.own["auroc"]
    needs_labels = True


class TestSizeOnDisk(MetricContract):
    metric = metrics.own["size_on_disk"]


class TestLatency(MetricContract):
    metric = metrics.own["latency"]


class TestThroughput(MetricContract):
    metric = metrics.own["throughput"]


class TestMemory(MetricContract):
    metric = metrics.own["memory"]


def classified(logits, labels):
    """Evidence of a classifier with these rows of logits."""
    return OutputEvidence([{"logits": row[None]} for row in logits], None, ["logits"], labels)


def of_class(one, labels, given):
    """Precision, recall and F1 of a class, by counting."""
    hits = sum(label == said == one for label, said in zip(labels, given, strict=True))
    precision, recall = hits / max(1, given.count(one)), hits / max(1, labels.count(one))
    return precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0


@pytest.mark.parametrize("seed", range(3))
def test_f_scores_are_those_of_counting(seed):
    random = np.random.default_rng(seed)
    logits, labels = random.normal(size=(40, 5)), random.integers(0, 4, 40).tolist()  # class 4 is only ever given
    given = logits.argmax(1).tolist()
    each = np.array([of_class(one, labels, given) for one in range(5)])
    support = np.array([labels.count(one) for one in range(5)])[:, None]
    same = sum(map(int.__eq__, labels, given)) / 40
    for average, expected in (
        ("macro", each.mean(0)),
        ("weighted", (each * support).sum(0) / 40),
        ("micro", [same] * 3),
        ("binary", each[1]),
    ):
        numbers = measured({"f_score": {"average": average}}, classified(logits, labels))
        assert [numbers[name] for name in ("precision", "recall", "f1")] == pytest.approx(list(expected))


@pytest.mark.parametrize("seed", range(3))
def test_auroc_counts_pairs_in_order_and_top_k_classes_that_are_larger(seed):
    random = np.random.default_rng(seed)
    logits, labels = random.normal(size=(30, 4)).round(1), random.integers(0, 4, 30).tolist()
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    areas = []
    for one in range(4):
        pairs = [
            np.sign(shares[i, one] - shares[j, one]) / 2 + 0.5
            for i in range(30)
            for j in range(30)
            if labels[i] == one != labels[j]
        ]
        areas.append(np.mean(pairs))
    larger = [(row > row[label]).sum() for row, label in zip(logits, labels, strict=True)]
    for scores in (logits, shares):
        numbers = measured({"auroc": {}, "top_k": {"k": 2}}, classified(scores, labels))
        assert numbers["auroc"] == pytest.approx(np.mean(areas))
        assert numbers["top_k_accuracy"] == pytest.approx(np.mean(np.array(larger) < 2), abs=2 / 30)  # but for ties


def test_text_that_is_no_label_lowers_recall_alone():
    nothing = np.zeros((0, 4), np.float16)
    said = ["Joy", "joy!\nand more", "gladness", "fear"]
    evidence = Evidence(["joy", "joy", "joy", "fear"], said, np.zeros(0), nothing)
    numbers = measured({"f_score": {"average": "binary", "positive": "Joy"}, "exact_match": {}}, evidence)
    assert (numbers["precision"], numbers["recall"], numbers["exact_match"]) == (1, pytest.approx(2 / 3), 0.25)


def test_only_what_is_asked_for_is_measured():
    numbers = measured({}, classified(np.eye(3), [0, 1, 2]))
    assert numbers.keys() == {"label_accuracy", "label_accuracy_standard_error"}


@pytest.mark.parametrize(("n_hits", "n_rows"), [(0, 16), (16, 16), (15, 16), (140, 160), (1, 1)])
def test_standard_error_is_half_of_wilsons_interval(n_hits, n_rows):
    share = n_hits / n_rows
    # the shares p that are one standard error sqrt(p (1 - p) / n) away from the measured one
    low, high = sorted(np.roots([1 + 1 / n_rows, -(2 * share + 1 / n_rows), share**2]).real)
    assert standard_error(n_hits, n_rows) == pytest.approx((high - low) / 2)
    assert standard_error(n_hits, n_rows) > 0


LENGTH = '''
from pydantic import Field
from olivine.evaluate import Metric, MetricParams

class AnswerLength(Metric):
    """Mean characters of an answer."""

    class Params(MetricParams):
        at_most: int = Field(100, gt=0, description="longer answers count as this long")

    def compute(self, evidence):
        lengths = [min(len(text), self.params.at_most) for text in evidence.generated]
        return {"answer_length": sum(lengths) / len(lengths)} if lengths else {}

class Thief(Metric):
    """The loss, once more."""

    def compute(self, evidence):
        return {"loss": 0.0}
'''
EVIDENCE = Evidence(["Joy", "fear"], ["joy", "fear itself"], np.ones(2), np.zeros((2, 4), np.float16))


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    info = tmp_path / "lengths-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lengths\nVersion: 1.0\n")
    points = "answer_length = lengths:AnswerLength\nthief = lengths:Thief\nbroken = lengths:Nothing\n"
    (info / "entry_points.txt").write_text(f"[olivine.evaluate]\n{points}")
    (tmp_path / "lengths.py").write_text(LENGTH)
    monkeypatch.syspath_prepend(tmp_path)
    metrics.forget()
    yield
    metrics.forget()


def test_ours_are_always_measured_and_those_of_a_plugin_where_they_are_named(third_party):
    assert measured({}, EVIDENCE).keys() == {"label_accuracy", "label_accuracy_standard_error", "loss", "perplexity"}
    numbers = measured({"answer_length": {"at_most": 5}}, EVIDENCE)
    assert numbers["answer_length"] == 4
    assert numbers["of_plugins"] == ["answer_length"]
    assert json.dumps(numbers)


def test_params_of_a_metric_decide_its_numbers(third_party):
    assert measured({}, EVIDENCE)["label_accuracy"] == 0.5
    assert measured({"label_accuracy": {"ignore_case": False}}, EVIDENCE)["label_accuracy"] == 0


def test_number_of_another_metric_is_not_replaced(third_party):
    with pytest.raises(RequestError, match="metric 'thief' gives the number 'loss', which is there already"):
        measured({"thief": {}}, EVIDENCE)


@pytest.mark.parametrize(
    ("given", "says", "key"),
    [
        (
            {"label_acuracy": {}},
            "there is no metric 'label_acuracy'; did you mean 'label_accuracy'?",
            ("label_acuracy",),
        ),
        ({"broken": {}}, "'broken' of the package 'lengths' does not load", ("broken",)),
        ({"answer_length": {"at_most": 0}}, "at_most: input should be greater than 0", ("answer_length", "at_most")),
        ({"perplexity": {"base": 2}}, "base: extra inputs are not permitted", ("perplexity", "base")),
    ],
)
def test_wrong_metric_is_one_problem_at_its_key(third_party, given, says, key):
    (problem,) = check_metrics(given)
    assert says in problem.message
    assert problem.key == key

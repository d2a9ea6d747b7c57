"""Rows that are read and written in one pass get the numbers that each gets alone."""

import numpy as np
import pytest

from olivine.data import Example
from olivine.evaluate import Question, answers_of
from olivine.models import Model
from olivine.passes import Context, Machine, passes
from olivine.runtimes.genai import GenaiRuntime
from olivine.runtimes.opening import open_runtime
from olivine.runtimes.together import Together, groups, reads_together, writes_together
from olivine.work import Silent
from tiny import tiny_model

pytestmark = pytest.mark.usefixtures("warm")

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
# grouped and single heads of keys and values; windows in the graph, and as a ring in the runtime; 4 bits
BUILT = {
    "llama": ("llama", "fp32"),
    "window": ("mistral", "fp32"),
    "window and fused": ("phi3", "fp32"),
    "one head": ("qwen2", "fp32"),
    "ring": ("gemma2", "fp32"),
    "int4": ("llama", "int4"),
}
N_NEW, PAD, ENDS = 6, 2, (1, 6)  # padding and end tokens of the folder


@pytest.fixture(scope="module", params=BUILT)
def built(request, tmp_path_factory):
    """A tiny model as it is delivered."""
    architecture, precision = BUILT[request.param]
    folder, build = tmp_path_factory.mktemp("together"), passes.classes["build"]
    model = Model("hf", tiny_model(folder / "hf", architecture, hidden_size=64))
    for place in ("built", "scratch"):
        (folder / place).mkdir()
    context = Context(folder / "built", folder / "scratch", MACHINE, Silent())
    return build(build.Params(precision=precision)).run(model, context)


def rows_of(lengths, seed=0):
    random = np.random.default_rng(seed)
    return [tuple(random.integers(7, 300, length).tolist()) for length in lengths]


def test_logits_of_texts_are_those_of_each_alone(built):
    texts, starts = rows_of([9, 40, 22, 22, 3]), [4, 30, 5, 21, 2]
    together, alone = open_runtime(built).logits(texts, starts), open_runtime(built)
    for text, start, logits in zip(texts, starts, together, strict=True):
        np.testing.assert_allclose(logits, alone.logits([text], [start])[0], atol=1e-5)
        assert len(logits) == len(text) - start


def n_followed(target, tokens, n_most):
    """Steps that began with nothing but the target before them: up to the first other token, or the end."""
    right = next((n for n, pair in enumerate(zip(target, tokens, strict=False)) if pair[0] != pair[1]), len(tokens))
    return min(right + 1, n_most, len(target))


def test_answers_of_rows_are_those_of_each_alone(built):
    """Unequal and equal lengths, below and above the windows, one that ends like padding, one as long as the context."""
    prompts = [*rows_of([9, 40, 22, 22, 3, 22]), (*rows_of([7])[0], PAD), *rows_of([252], 1)]
    runtime = GenaiRuntime(built.path)
    targets = [(*runtime.generate(prompt, 3, ()), *rows_of([2], 2)[0]) for prompt in prompts]
    for n_most in (N_NEW, 2):
        together = runtime.answers(prompts, targets, n_most, ENDS)
        parts = runtime.answers(prompts, targets, n_most, ENDS, n_positions=60)
        assert [row.tokens for row in parts] == [row.tokens for row in together]
        for prompt, target, row in zip(prompts, targets, together, strict=True):
            (alone,) = runtime.answers([prompt], [target], n_most, ENDS)
            assert row.tokens == alone.tokens == runtime.generate(prompt, n_most, ENDS)
            np.testing.assert_allclose(row.logits, alone.logits, atol=1e-5)
            assert len(row.logits) == n_followed(target, row.tokens, n_most)


def stepped(graph, prompt, target):
    """The logits that predict the target, read as it is written: the prompt, then token after token."""
    logits = [graph.feed([prompt], fresh=True, last_only=True)[0, -1]]
    logits += [graph.feed([[token]], fresh=False)[0, -1] for token in target[:-1]]
    return np.stack(logits)


def test_logits_of_targets_are_those_of_the_graph_written_or_not(built):
    example, prompts = Example("", "", "", "rows.jsonl:1"), rows_of([9, 40, 22])
    right = [tuple(GenaiRuntime(built.path).generate(prompt, 4, ())) for prompt in prompts]
    targets = [*right, *rows_of([3, 1, 2], 5)]
    questions = [Question(example, prompt, target) for prompt, target in zip(prompts * 2, targets, strict=True)]
    answers = answers_of(built, "cpu", "CPUExecutionProvider").answer(questions, N_NEW, [])
    graph = open_runtime(built)
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        prompt, target = question.prompt, question.target
        whole = graph.logits([(*prompt, *target)], [len(prompt)])[0]
        expected = stepped(graph, prompt, target) if number < len(right) else whole
        np.testing.assert_allclose(answer.logits, expected, atol=1e-4)


CACHES = {"past_key_names": "past.%d.key", "past_value_names": "past.%d.value", "input_ids": "input_ids"}
CPU = "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("operators", "provider", "decoder", "reads", "writes"),
    [
        (["GroupQueryAttention"], CPU, {}, Together.PADDED, Together.PADDED),
        (["GroupQueryAttention"], "CUDAExecutionProvider", {}, Together.PADDED, Together.EQUAL_LENGTHS),
        (["GroupQueryAttention"], "DmlExecutionProvider", {}, Together.PADDED, Together.ALONE),
        (["GroupQueryAttention"], CPU, {"sliding_window": {"window_size": 8}}, Together.PADDED, Together.EQUAL_LENGTHS),
        (["MultiHeadAttention"], CPU, {}, Together.PADDED, Together.EQUAL_LENGTHS),
        (["GroupQueryAttention", "LinearAttention"], CPU, {}, Together.PADDED, Together.EQUAL_LENGTHS),
        (["GroupQueryAttention", "If"], CPU, {}, Together.EQUAL_LENGTHS, Together.EQUAL_LENGTHS),
        (["GroupQueryAttention", "DynamicQuantizeLinear"], CPU, {}, Together.ALONE, Together.ALONE),
    ],
)
def test_graphs_whose_numbers_depend_on_the_other_rows_are_not_mixed(operators, provider, decoder, reads, writes):
    assert reads_together(operators) is reads
    assert writes_together(operators, provider, {"inputs": CACHES, **decoder}) is writes


def test_states_beside_the_caches_take_no_padding():
    decoder = {"inputs": CACHES | {"past_conv_names": "past.%d.conv"}}
    assert writes_together(["GroupQueryAttention"], CPU, decoder) is Together.EQUAL_LENGTHS


def test_groups_hold_every_row_once():
    def last_is_alone(index):
        return index == 3

    lengths = [5, 7, 5, 5]
    assert list(groups(lengths, Together.PADDED, last_is_alone)) == [[0, 1, 2], [3]]
    assert list(groups(lengths, Together.EQUAL_LENGTHS, last_is_alone)) == [[0, 2], [1], [3]]
    assert list(groups(lengths, Together.ALONE, last_is_alone)) == [[0], [1], [2], [3]]

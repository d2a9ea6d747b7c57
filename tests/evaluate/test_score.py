"""Scores against a slow, obvious evaluation: one row at a time, no padding, no cache."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from olivine.config.schema import DataConfig, PreProcess
from olivine.data import examples, read_rows, split
from olivine.errors import DataError
from olivine.evaluate import KEPT_FILE, Evidence, _score, degenerate, known_answer, measured, passages, score
from olivine.evaluate.label_accuracy import matches
from olivine.models import Model
from olivine.models.loading import load_causal_lm, load_tokenizer
from olivine.passes import Context, Machine, passes
from olivine.workflow.rows import PASSAGES
from tiny import VOCABULARY, tiny_adapter

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
WORDS = ["joy", "sadness", "fear", "surprise"]


class Reporter:
    def progress(self, done, total, **metrics):
        assert 0 < done <= total

    def warn(self, message):
        pass

    def record(self, **facts):
        pass


@pytest.fixture
def rows(tmp_path):
    """Rows of very different lengths, so that padding matters."""
    lines = [{"q": "what a day " * (1 + 3 * (i % 4)) + str(i), "a": WORDS[i % 4]} for i in range(21)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"text_template": "{q} is: {a}", "max_seq_len": 64, "strategy": "line-by-line"}
    return DataConfig.model_validate(
        {"name": "rows", "load_dataset_config": {"data_files": str(path)}, "pre_process_data_config": settings}
    )


def params(config, **changes):
    base = {"data": config.model_dump(mode="json"), "part": "all", "eval_size": None, "seed": 0, "target": "a"}
    return base | {"max_rows": 100, "previous": None} | changes


def scored(model, config, folder, kept_bytes=2**20, **changes):
    folder.mkdir()
    return score(model, params(config, **changes), folder, MACHINE, Reporter(), kept_bytes=kept_bytes)


def obvious(model, config):
    """Loss and greedy text of every row, by the book."""
    tokenizer, module = load_tokenizer(model), load_causal_lm(model)
    losses, texts = [], []
    for example in examples(config, read_rows(config), tokenizer, "a"):
        encoded = tokenizer(example.prompt + example.target, add_special_tokens=False, return_offsets_mapping=True)
        cut = next(i for i, (_, end) in enumerate(encoded.offset_mapping) if end > len(example.prompt))
        ids = [*encoded.input_ids, tokenizer.eos_token_id]
        with torch.no_grad():
            log_probabilities = torch.log_softmax(module(torch.tensor([ids])).logits[0].double(), -1)
        losses += [-log_probabilities[i - 1, ids[i]].item() for i in range(cut, len(ids))]
        prompt, written = ids[:cut], []
        for _ in range(40):
            with torch.no_grad():
                token = module(torch.tensor([prompt + written])).logits[0, -1].argmax().item()
            if token in tokenizer.convert_tokens_to_ids(["</s>", "<|end|>"]):  # the end of a text, of a turn
                break
            written.append(token)
        texts.append(written)
    return losses, texts, tokenizer


@pytest.mark.parametrize("fixture", ["tiny_llama", "tiny_phi3"])
def test_scores_equal_the_obvious_evaluation(fixture, request, rows, tmp_path):
    model = Model("hf", request.getfixturevalue(fixture))
    result = scored(model, rows, tmp_path / "s")
    losses, texts, tokenizer = obvious(model, rows)
    assert result["scores"]["n_tokens"] == len(losses)
    assert result["scores"]["loss"] == pytest.approx(np.mean(losses), abs=1e-4)
    assert result["scores"]["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-3)
    for sample, tokens in zip(result["samples"], texts, strict=False):
        # a text may end within a character, which further tokens would finish
        written = sample["generated"].rstrip("\N{REPLACEMENT CHARACTER}")
        assert tokenizer.decode(tokens, skip_special_tokens=True).startswith(written)
    answers = result["answers"]
    assert sum(answer["right"] for answer in answers) / len(answers) == result["scores"]["label_accuracy"]
    assert [answer["text"] for answer in answers[:8]] == [sample["generated"] for sample in result["samples"]]


@pytest.fixture(scope="module")
def built_llama(tiny_llama, tmp_path_factory):
    """The tiny Llama in float32, as a folder of onnxruntime-genai; read only."""
    build, folder = passes.classes["build"], tmp_path_factory.mktemp("built")
    context = Context(folder, tmp_path_factory.mktemp("scratch"), MACHINE, Reporter())
    return build(build.Params(precision="fp32")).run(Model("hf", tiny_llama), context)


def test_onnx_in_float32_agrees_with_transformers(tiny_llama, built_llama, rows, tmp_path):
    first = scored(Model("hf", tiny_llama), rows, tmp_path / "a")
    second = scored(built_llama, rows, tmp_path / "b", previous=str(tmp_path / "a"))
    assert second["scores"]["kl"] < 1e-6
    assert second["scores"]["top1_agreement"] == 1.0
    assert second["scores"]["loss"] == pytest.approx(first["scores"]["loss"], abs=1e-4)
    # onnxruntime-genai's decoder leaves off where bytes are no UTF-8, which a random model writes
    texts = [[s["generated"].partition("\ufffd")[0] for s in one["samples"]] for one in (first, second)]
    assert texts[0] == texts[1]


def test_folder_whose_tokenizer_the_runtime_cannot_read_is_scored_in_token_ids_and_says_so(
    tiny_llama, built_llama, rows, tmp_path
):
    told, reporter, folders = [], Reporter(), []
    reporter.warn = told.append
    for name, folder in (("hf", tiny_llama), ("onnx", built_llama.path)):
        folders.append(shutil.copytree(folder, tmp_path / name))
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        model = {"type": "WordLevel", "vocab": tokenizer["model"]["vocab"], "unk_token": "a"}
        (folders[-1] / "tokenizer.json").write_text(json.dumps(tokenizer | {"model": model}))
    first = scored(Model("hf", folders[0]), rows, tmp_path / "a")
    (tmp_path / "b").mkdir()
    second = score(replace(built_llama, path=folders[1]), params(rows), tmp_path / "b", MACHINE, reporter)
    (sentence,) = told
    assert "cannot read the tokenizer of" in sentence
    assert "(WordLevel) has no merges" in sentence
    assert second["scores"].pop("token_ids_only")
    assert second["scores"].keys() == first["scores"].keys()
    assert second["scores"]["loss"] == pytest.approx(first["scores"]["loss"], abs=1e-4)


@pytest.mark.parametrize("text", [{}, {"text_template": "{q} is:\n{a}"}, {"begin_token": True}])
def test_plain_lines_of_the_runtime_reach_the_scores(text, tiny_llama, built_llama, rows, tmp_path):
    """Text in, text out: what a stranger types, with the tokenizer and the settings of the folder."""
    import onnxruntime_genai

    settings = rows.pre_process_data_config.model_copy(update=text)
    rows = rows.model_copy(update={"pre_process_data_config": settings})
    told = []
    reporter = Reporter()
    reporter.warn = told.append
    (tmp_path / "s").mkdir()
    result = score(built_llama, params(rows), tmp_path / "s", MACHINE, reporter)
    model = onnxruntime_genai.Model(str(built_llama.path))
    tokenizer = onnxruntime_genai.Tokenizer(model)
    for sample in result["samples"]:
        prompt = tokenizer.encode(sample["prompt"].rstrip(" "))
        options = onnxruntime_genai.GeneratorParams(model)
        options.set_search_options(max_length=len(prompt) + 8, do_sample=False)
        generator = onnxruntime_genai.Generator(model, options)
        generator.append_tokens(prompt)
        while not generator.is_done():
            generator.generate_next_token()
        written = tokenizer.decode(generator.get_sequence(0)[len(prompt) :]).partition("\ufffd")[0]
        assert written.startswith(sample["generated"].partition("\ufffd")[0][:6])
    if text.get("begin_token"):
        assert result["scores"]["n_other_tokens"] == 21
        assert "reads 21 of 21 prompts as other tokens than transformers" in told[0]
    else:
        assert "n_other_tokens" not in result["scores"]
        assert [sentence.partition(";")[0] for sentence in told] == (
            [] if text else ["21 of 21 prompts end in white space that belongs to the first token of the answer"]
        )


def test_another_model_diverges(tiny_llama, rows, tmp_path):
    base = Model("hf", tiny_llama)
    scored(base, rows, tmp_path / "a")
    adapter = Model("adapter", tiny_adapter(tiny_llama, tmp_path / "adapter"), base=base)
    result = scored(adapter, rows, tmp_path / "b", previous=str(tmp_path / "a"))
    assert result["scores"]["kl"] > 0.01
    assert "kl" not in scored(base, rows, tmp_path / "c")["scores"]  # nothing to compare with


def test_parts_are_those_of_the_split(tiny_llama, rows, tmp_path):
    model = Model("hf", tiny_llama)
    train, held_out = split(21, 0.3, 7)
    for part, indices in (("eval", held_out), ("train", train)):
        result = scored(model, rows, tmp_path / part, part=part, eval_size=0.3, seed=7)
        assert result["scores"]["n_rows"] == len(indices)
        assert [s["expected"] for s in result["samples"]] == [WORDS[i % 4] for i in indices][:8]


def test_rows_past_the_most_are_left_out_evenly(tiny_llama, rows, tmp_path):
    result = scored(Model("hf", tiny_llama), rows, tmp_path / "s", max_rows=7)
    assert result["scores"]["n_rows"] == 7
    assert [s["expected"] for s in result["samples"]] == [WORDS[i % 4] for i in range(0, 21, 3)]


def of_lengths(folder, lengths):
    """Rows of so many tokens: an 'x' is one, its space none."""
    path = folder / "long.jsonl"
    path.write_text("".join(json.dumps({"q": "x" * n, "a": "joy"}) + "\n" for n in lengths))
    settings = {"text_template": "{q}\n{a}", "strategy": "line-by-line", "max_seq_len": 1024}
    return DataConfig.model_validate(
        {"name": "long", "load_dataset_config": {"data_files": str(path)}, "pre_process_data_config": settings}
    )


@pytest.mark.parametrize("kind", ["hf", "onnx"])
def test_rows_longer_than_the_context_are_left_out_and_counted(kind, tiny_llama, built_llama, tmp_path):
    model = Model("hf", tiny_llama) if kind == "hf" else built_llama
    fits = 256 - len("\njoy") - 2  # begin and end token; no token of the tokenizer holds two letters of the rows
    result = scored(model, of_lengths(tmp_path, [20, fits - 30, fits, fits + 30, 400]), tmp_path / "s")
    assert 0 < result["scores"]["n_left_out"] < 4
    assert result["scores"]["n_rows"] == 5 - result["scores"]["n_left_out"]
    assert math.isfinite(result["scores"]["loss"])
    with pytest.raises(DataError, match="each of the 2 rows to score is longer than the 256 tokens"):
        scored(model, of_lengths(tmp_path, [400, 500]), tmp_path / "none")


def test_text_without_a_prompt_is_refused_by_its_row(tiny_llama, tmp_path):
    config = of_lengths(tmp_path, [20])
    settings = config.pre_process_data_config
    changes = {"text_template": "{a} {q}", "add_special_tokens": False}
    config = config.model_copy(update={"pre_process_data_config": settings.model_copy(update=changes)})
    with pytest.raises(DataError, match=r"long.jsonl:1: the text begins with what is to be predicted"):
        scored(Model("hf", tiny_llama), config, tmp_path / "s")


def test_kept_log_probabilities_are_bounded_and_the_same_positions(tiny_llama, rows, tmp_path):
    room = 10 * 2 * VOCABULARY
    scored(Model("hf", tiny_llama), rows, tmp_path / "a", kept_bytes=room)
    kept = np.load(tmp_path / "a" / KEPT_FILE)
    assert kept.shape == (10, VOCABULARY)
    again = scored(Model("hf", tiny_llama), rows, tmp_path / "b", kept_bytes=room, previous=str(tmp_path / "a"))
    assert again["scores"]["kl"] == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [({"begin_token": False}, True), ({}, False), ({"begin_token": False, "chat_template": "x"}, False)],
)
def test_begin_token_that_texts_go_without_is_told_first(text, told):
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"<s>": 0, "a": 1}, unk_token="a"))
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    reporter, warnings = Reporter(), []
    reporter.warn = warnings.append
    _score._tell_begin(PreProcess(**text), PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>"), reporter)
    assert [sentence.partition(",")[0] for sentence in warnings] == ["transformers puts <s> before a text"] * told


def test_models_without_rows_are_compared_on_text(tiny_llama, built_llama, tmp_path):
    config = DataConfig.model_validate(PASSAGES)
    wish = {"target": "", "max_rows": 16, "on_text": True}
    first = scored(Model("hf", tiny_llama), config, tmp_path / "a", **wish)
    second = scored(built_llama, config, tmp_path / "b", previous=str(tmp_path / "a"), **wish)
    assert second["scores"]["n_rows"] == 12
    assert second["scores"]["kl"] < 1e-6
    assert second["scores"]["top1_agreement"] == 1.0
    assert second["scores"]["loss"] == pytest.approx(first["scores"]["loss"], abs=1e-4)
    assert "label_accuracy" not in second["scores"]
    assert "n_empty" not in second["scores"]


def test_passages_are_cut_to_what_a_model_reads(tiny_llama):
    texts = [line for line in Path(PASSAGES["load_dataset_config"]["data_files"]).read_text().splitlines() if line]
    tokenizer = load_tokenizer(Model("hf", tiny_llama))
    assert {len(one.prompt) + len(one.target) for one in passages(texts, tokenizer, 40)} == {40}
    assert all(len(one.prompt) == 10 for one in passages(texts, tokenizer, 40))


def test_known_answer_needs_every_token_first_and_an_end():
    logits = np.zeros((2, 5), dtype=np.float32)
    logits[0, 3] = logits[1, 1] = 1
    assert known_answer(logits, [3, 1], [1]) == [3]
    assert known_answer(logits, [4, 1], [1]) is None  # another token comes first
    assert known_answer(logits, [3, 2], [1]) is None  # no end token: decoding would go on


def evidence(**changes):
    values = {
        "labels": ["joy", "fear"],
        "generated": ["Joy.", "joy"],
        "token_losses": np.array([1.0, 3.0]),
        "log_probabilities": np.zeros((1, 4), dtype=np.float16),
    }
    return Evidence(**(values | changes))


def test_metrics_of_hand_made_evidence():
    found = measured({}, evidence())
    error = pytest.approx(12**-0.5)
    assert found == {
        "label_accuracy": 0.5,
        "label_accuracy_standard_error": error,
        "loss": 2.0,
        "perplexity": math.exp(2),
    }


def test_nan_is_no_number_and_agrees_with_nothing():
    flat, nan = np.full((4, 8), -np.log(8), np.float16), np.full((4, 8), np.nan, np.float16)
    found = measured({}, evidence(token_losses=np.full(4, np.nan), log_probabilities=nan, previous=flat))
    assert all(math.isnan(found[name]) for name in ("loss", "perplexity", "kl"))
    assert found["top1_agreement"] == 0


@pytest.mark.parametrize(
    ("label", "generated", "expected"),
    [
        ("joy", " Joy.\n### Text: more", True),
        ("joy", "\n\njoy", True),
        ("joy", "joyful", False),
        ("joy", "", False),
        ("New  York", "new york!", True),
        ("two\nlines", "two\nlines", True),
        ("two\nlines", "two", False),
    ],
)
def test_labels_match_after_normalisation(label, generated, expected):
    assert matches(label, generated) is expected


def test_degenerate_output_is_named():
    ok = [False, False]
    assert degenerate(ok, ok, ["joy", "fear"]) is None
    assert "NaN logits in 1 of 2 rows" in degenerate([True, False], ok, ["joy", "fear"])
    assert "flat logits" in degenerate(ok, [True, True], ["a", "b"])
    assert "repetition: 2 of 2" in degenerate(ok, ok, ["la la la la la la la", "no no no no no no"])


def test_broken_model_is_named(tiny_llama, rows, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(tiny_llama, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"].zero_()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert "flat logits" in scored(Model("hf", folder), rows, tmp_path / "s")["scores"]["degenerate"]

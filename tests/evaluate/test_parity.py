"""Parity: two models on the same tokens, against whole logits computed here at once, and what is refused."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from graphs import text_classifier
from olivine.config.schema import DataConfig
from olivine.errors import DataError, ModelError, OlivineError, Unsupported
from olivine.evaluate.parity import (
    Gate,
    Settings,
    TextFile,
    band,
    common_prefix,
    compare,
    degenerate_sides,
    loops,
    open_model,
    read_windows,
    remarks,
    sample,
)
from olivine.kernels.divergence import Positions, compare_logits, summarize
from olivine.models import Model
from olivine.models.loading import load_causal_lm, load_tokenizer
from olivine.passes import Context, Machine, passes
from olivine.runtimes import draw, onnx_folder
from olivine.runtimes.process import RuntimeProcess
from olivine.work import Silent
from tiny import VOCABULARY, tiny_adapter

pytestmark = pytest.mark.usefixtures("warm")

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
QUICK = Settings(n_tokens=160, length=40, n_prompts=3, n_new=12, speed=False, device="cpu")
WINDOWS = [[(7 * i + 3 * j) % 370 for i in range(40)] for j in range(4)]


def build(model, folder, **params):
    scratch = folder.parent / f"{folder.name}-scratch"
    folder.mkdir()
    scratch.mkdir()
    plugin = passes.classes["build"]
    return plugin(plugin.Params(**params)).run(Model("hf", model), Context(folder, scratch, MACHINE, Silent())).path


@pytest.fixture(scope="module")
def exported(tiny_llama, tmp_path_factory):
    return build(tiny_llama, tmp_path_factory.mktemp("exported") / "fp32", precision="fp32")


@pytest.fixture(scope="module")
def int4(tiny_llama, tmp_path_factory):
    return build(tiny_llama, tmp_path_factory.mktemp("rounded") / "int4", precision="int4")


def whole_logits(folder, window, level=None):
    """Of all positions in one run of onnxruntime."""
    config = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
    path = folder / config["filename"]
    if level is not None:  # a copy with its weights inside
        graph = onnx.load(str(path))
        for node in graph.graph.node:
            for one in node.attribute:
                if one.name == "accuracy_level":
                    one.i = level
        path = graph.SerializeToString()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    n = len(window)
    feed = {"input_ids": np.array([window]), "attention_mask": np.ones((1, n), np.int64)}
    feed["position_ids"] = np.arange(n)[None]
    for value in session.get_inputs():
        if value.name not in feed:
            feed[value.name] = np.zeros((1, config["num_key_value_heads"], 0, config["head_size"]), np.float32)
    given = {value.name for value in session.get_inputs()}
    return session.run(["logits"], {name: value for name, value in feed.items() if name in given})[0][0]


def by_hand(reference, candidate):
    """The summary of whole logits, a function of a window each."""
    parts = [compare_logits(reference(w)[:-1], candidate(w)[:-1], w[1:]) for w in WINDOWS]
    return summarize(Positions.joined(parts))


def agree(found, expected):
    for name, value in expected.to_json().items():
        assert found.to_json()[name] == pytest.approx(value, rel=2e-3, abs=2e-5), name


@pytest.mark.slow
def test_float32_export_equals_its_checkpoint_in_every_number(tiny_llama, exported):
    found = compare(tiny_llama, exported, WINDOWS, Settings(n_prompts=3, n_new=12, device="cpu"))
    module = load_causal_lm(Model("hf", tiny_llama))

    def by_torch(window):
        with torch.no_grad():
            return module(torch.tensor([window])).logits[0].numpy()

    agree(found.summary, by_hand(by_torch, lambda window: whole_logits(exported, window)))
    assert found.summary.kl < 1e-6
    assert found.summary.top1_agreement_clear == 1
    assert found.verdict == "excellent"
    assert (found.weights, found.runtime) == (None, None)  # nothing in it is rounded
    assert found.summary.n_positions == sum(len(window) - 1 for window in WINDOWS)
    assert found.greedy.n_same == found.greedy.n_prompts == 3
    n_parameters = sum(tensor.numel() for tensor in module.state_dict().values())
    for side, kind in ((found.reference, "hf"), (found.candidate, "onnx")):
        assert side.format == kind
        assert side.n_parameters == n_parameters
        assert 32 <= side.bits_per_weight < 36
        assert side.degenerate is None
        assert side.peak_memory_bytes > 10**7
        assert min(side.load_seconds, side.prefill_tokens_per_second, side.decode_tokens_per_second) > 0
    assert found.reference.size_bytes == sum(file.stat().st_size for file in tiny_llama.iterdir())
    assert json.loads(json.dumps(found.to_json()))["verdict"] == "excellent"


def test_error_of_an_int4_model_is_split_into_weights_and_run_time(exported, int4):
    found = compare(exported, int4, WINDOWS, QUICK)
    agree(found.summary, by_hand(lambda w: whole_logits(exported, w), lambda w: whole_logits(int4, w)))
    agree(found.weights, by_hand(lambda w: whole_logits(exported, w), lambda w: whole_logits(int4, w, level=1)))
    agree(found.runtime, by_hand(lambda w: whole_logits(int4, w, level=1), lambda w: whole_logits(int4, w)))
    assert found.summary.kl > found.runtime.kl > 1e-6
    assert found.candidate.bits_per_weight < found.reference.bits_per_weight
    assert found.candidate.n_parameters == found.reference.n_parameters
    assert "accuracy level 4" in found.candidate.run_as


def test_greedy_prefix_is_that_of_texts_written_one_by_one(exported, int4):
    found = compare(exported, int4, WINDOWS, QUICK).greedy

    def write(folder, prompt):
        text = list(prompt)
        for _ in range(QUICK.n_new):
            text.append(int(whole_logits(folder, text)[-1].argmax()))
        return text[len(prompt) :]

    assert (found.n_prompts, found.prompt_tokens) == (3, 32)
    for window, prefix, length in zip(WINDOWS, found.common_prefix, found.lengths, strict=False):
        ours, theirs = write(exported, window[:32]), write(int4, window[:32])
        ours = ours[: ours.index(1) + 1] if 1 in ours else ours  # 1 is the end token
        assert length == len(ours)
        assert prefix == common_prefix(ours, theirs)


def test_logits_that_travel_in_small_pieces_are_the_same(exported, int4):
    whole = compare(exported, int4, WINDOWS[:2], QUICK)
    small = replace(QUICK, piece_bytes=7 * 4 * VOCABULARY)
    agree(compare(exported, int4, WINDOWS[:2], small).summary, whole.summary)


def test_graph_with_a_pruned_head_is_read_token_by_token(tiny_llama, exported, tmp_path):
    pruned = build(tiny_llama, tmp_path / "pruned", precision="fp32", extra_options={"prune_lm_head": True})
    found = compare(exported, pruned, WINDOWS[:1], QUICK)
    assert found.summary.kl < 1e-6
    assert found.summary.n_positions == len(WINDOWS[0]) - 1


@pytest.mark.slow
def test_adapter_is_compared_with_its_base(tiny_llama, tmp_path):
    adapter = open_model(tiny_adapter(tiny_llama, tmp_path / "adapter"))  # its record names the base
    assert adapter.base.path == tiny_llama
    found = compare(tiny_llama, adapter, None, QUICK)
    assert found.summary.kl > 0.01
    assert found.tokens.seed == 0
    assert found.tokens.n_tokens == QUICK.n_tokens
    assert found.candidate.bits_per_weight > found.reference.bits_per_weight


@pytest.mark.slow
@pytest.mark.parametrize("method", ["LoHaConfig", "LoKrConfig"])
def test_adapter_of_another_method_is_the_model_that_peft_runs(method, tiny_llama, tmp_path):
    adapter = tiny_adapter(tiny_llama, tmp_path / "adapter", method=method)
    module = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), adapter).eval()
    module.merge_and_unload().save_pretrained(tmp_path / "merged")
    load_tokenizer(Model("hf", tiny_llama)).save_pretrained(tmp_path / "merged")
    assert compare(tmp_path / "merged", adapter, WINDOWS, QUICK).summary.kl < 1e-6


@pytest.mark.slow
def test_adapter_of_split_layers_is_compared_on_its_fused_base(tiny_phi3, llama_adapter, tmp_path):
    adapter = llama_adapter  # of q_proj, k_proj, v_proj, gate_proj and up_proj, in the shapes of the fused layers
    merge = passes.classes["merge"]
    context = Context(tmp_path / "out", tmp_path / "scratch", MACHINE, Silent())
    for folder in (context.output, context.scratch):
        folder.mkdir()
    merged = merge(merge.Params()).run(open_model(adapter, tiny_phi3), context)
    assert compare(merged, open_model(adapter, tiny_phi3), WINDOWS, QUICK).summary.kl < 1e-6


def test_adapter_that_names_no_base_says_what_to_do(tiny_llama, tmp_path):
    adapter = tiny_adapter(tiny_llama, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ModelError, match="does not say which base it adapts; name its base with --base"):
        open_model(adapter)


def test_sampled_text_is_the_same_for_a_seed_and_begins_each_text(exported):
    first = sample(exported, QUICK)
    assert first == sample(exported, QUICK)
    assert first != sample(exported, Settings(n_tokens=160, length=40, seed=1))
    assert [len(window) for window in first] == [40] * 4
    for window in first:
        assert window[0] == 0
        assert all(after == 0 for token, after in itertools.pairwise(window) if token == 1)


def test_draw_follows_the_probabilities():
    logits = np.log(np.array([[0.1, 0.6, 0.0, 0.3]]) + 1e-30).repeat(4000, axis=0).astype(np.float32) + 5
    drawn = draw(logits, np.random.default_rng(0).random(4000))
    shares = np.bincount(drawn, minlength=4) / 4000
    np.testing.assert_allclose(shares, [0.1, 0.6, 0.0, 0.3], atol=0.03)
    assert draw(logits[:2], np.array([0.0, 0.0999])).tolist() == [0, 0]
    assert draw(logits[:2], np.array([0.101, 0.9999999])).tolist() == [1, 3]


def broken(source, folder, change):
    """A copy of a checkpoint whose weights `change` spoilt."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_model_whose_head_is_zero_is_named_flat(exported, tiny_llama, tmp_path):
    flat = broken(tiny_llama, tmp_path / "flat", lambda tensors: tensors["lm_head.weight"].zero_())
    found = compare(exported, flat, WINDOWS, QUICK)
    assert "flat logits" in found.candidate.degenerate
    assert found.reference.degenerate is None
    assert found.verdict == "degenerate"
    assert "degenerate" in Gate().missed(found)[0]
    # where the reference is broken too, the candidate is not to blame
    both = replace(found, reference=found.candidate)
    assert not Gate().missed(both)
    assert "reference itself is degenerate" in next(remarks(both, None))


@pytest.mark.slow
def test_model_with_nan_is_named_and_misses_every_limit(exported, tiny_llama, tmp_path):
    spoilt = broken(tiny_llama, tmp_path / "nan", lambda tensors: tensors["lm_head.weight"].fill_(float("nan")))
    found = compare(exported, spoilt, WINDOWS, QUICK)
    assert "NaN" in found.candidate.degenerate
    assert found.to_json()["kl"] is None
    assert found.candidate.degenerate == "NaN logits at 156 of 156 positions"
    assert len(Gate(max_kld=1e9, max_logit_error=1e9).missed(found)) == 3
    # its "best token" is the first of the vocabulary: whoever else gives NaN has it too
    assert (found.summary.top1_agreement, found.summary.top5_overlap) == (0, 0)
    same = compare(spoilt, spoilt, WINDOWS, QUICK)
    assert (same.summary.top1_agreement, same.summary.top5_overlap) == (0, 0)


def test_nan_of_the_reference_is_no_success(exported, tiny_llama, tmp_path):
    spoilt = broken(tiny_llama, tmp_path / "nan", lambda tensors: tensors["lm_head.weight"].fill_(float("nan")))
    (said,) = Gate().missed(compare(spoilt, exported, WINDOWS, QUICK))
    assert said == "no divergence can be computed: the reference has NaN logits at 156 of 156 positions"


@pytest.mark.slow
def test_windows_as_long_as_the_context_leave_room_for_the_measurement_of_speed(tiny_llama, exported):
    settings = Settings(n_tokens=512, length=1024, n_prompts=2, n_new=200, device="cpu")
    found = compare(tiny_llama, exported, None, settings)  # both read 256 tokens at most
    assert found.tokens.n_windows == 2
    assert found.greedy.new_tokens == 128
    assert found.candidate.decode_tokens_per_second > 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [([5] * 32, True), ([1, 2] * 16, True), (list(range(8)) + [4, 5, 6] * 8, True), (list(range(32)), False)],
)
def test_loops_are_repetition(text, expected):
    assert loops(text) is expected


def test_repetition_is_held_against_the_candidate_alone(tiny_llama):
    tokenizer = load_tokenizer(Model("hf", tiny_llama))
    logits = np.random.default_rng(0).normal(size=(4, VOCABULARY)).astype(np.float32) * 4
    positions = compare_logits(logits, logits, [0] * 4)
    varied, looping = [list(range(40 + i, 72 + i)) for i in range(4)], [[50, 51, 52] * 10 for _ in range(4)]
    assert degenerate_sides(positions, [(8, varied), (8, looping)], tokenizer) == (
        None,
        "repetition: 4 of 4 greedy texts run in a loop, 0 of the reference's",
    )
    assert degenerate_sides(positions, [(8, looping), (8, looping)], tokenizer) == (None, None)
    assert degenerate_sides(positions, [], tokenizer) == (None, None)


def test_bands_and_gate_name_what_is_missed(exported, int4):
    assert [band(kl) for kl in (0.0, 0.00999, 0.01, 0.0499, 0.05, 0.149, 0.15, float("nan"))] == [
        "excellent",
        "excellent",
        "good",
        "good",
        "usable",
        "usable",
        "poor",
        "poor",
    ]
    found = compare(exported, int4, WINDOWS[:1], QUICK)
    kl = found.summary.kl
    assert Gate(max_kld=kl).missed(found) == []
    strict = Gate(
        kl / 2, min_top1=1.0, min_prefix=13, max_logit_error=0, max_logits_above_0_1=0, max_logits_above_0_01=0
    )
    missed = strict.missed(found)
    assert len(missed) == 6
    assert f"{kl:.4g} nat, but at most" in missed[0]


def test_run_time_that_costs_more_than_half_of_the_weights_is_told(exported, int4):
    found = compare(int4, int4, WINDOWS[:1], QUICK)  # no error of weights but that of the run time
    assert found.summary.kl == 0
    assert "accuracy level 1" in found.warnings[0]


def test_another_tokenizer_is_refused_with_an_example(tiny_llama, exported, tmp_path):
    shutil.copytree(exported, tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    text = json.loads(path.read_text())
    vocabulary = text["model"]["vocab"]
    a, b = list(vocabulary)[20:22]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    path.write_text(json.dumps(text))
    with pytest.raises(Unsupported, match=rf"do not share a vocabulary.*2 of {VOCABULARY} ids differ, e.g. 20 is"):
        compare(tiny_llama, tmp_path / "other", WINDOWS, QUICK)


def test_tokens_that_do_not_fit_are_refused(exported):
    with pytest.raises(Unsupported, match=f"token {VOCABULARY} is beyond the vocabulary of {VOCABULARY}"):
        compare(exported, exported, [[1, VOCABULARY]], QUICK)
    with pytest.raises(Unsupported, match="300 tokens is longer than the context of 256"):
        compare(exported, exported, [[1] * 300], QUICK)
    with pytest.raises(ValueError, match="two tokens"):
        compare(exported, exported, [[1]], QUICK)


def test_paths_that_hold_no_model_are_told(tiny_llama, exported, tmp_path):
    for make, message in (
        (lambda: tmp_path / "none", "does not exist"),
        (lambda: tmp_path, "holds no model: neither genai_config.json"),
        (lambda: tiny_llama / "config.json", r"neither a model folder nor a \.gguf file"),
    ):
        with pytest.raises(ModelError, match=message):
            open_model(make())
    with pytest.raises(ModelError, match=r"an ONNX graph without a genai_config\.json, which writes no text"):
        open_model(text_classifier(tmp_path / "graph" / "model.onnx").parent)
    adapter = tiny_adapter(tiny_llama, tmp_path / "adapter")
    record = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": "gone"}
    (adapter / "adapter_config.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"adapter of 'gone'.*name its base with --base"):
        open_model(adapter)
    assert open_model(adapter, tiny_llama).base.path == tiny_llama
    with pytest.raises(ModelError, match="format onnx, not a checkpoint"):
        open_model(adapter, exported)
    shutil.copytree(tiny_llama, tmp_path / "run" / "model")
    with pytest.raises(ModelError, match=r"did you mean '.*run.model'"):
        open_model(tmp_path / "run")


def test_onnx_folder_with_a_missing_file_is_told(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "half")
    data = next(file for file in (tmp_path / "half").iterdir() if "data" in file.name)
    data.unlink()
    with pytest.raises(ModelError, match=f"lacks the weights '{data.name}'"):
        compare(exported, tmp_path / "half", WINDOWS, QUICK)
    (tmp_path / "half" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="is no ONNX graph"):
        onnx_folder.read(Model("onnx", tmp_path / "half"))
    (tmp_path / "half" / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"lacks the graph 'model\.onnx'"):
        open_model(tmp_path / "half")
    (tmp_path / "half" / "genai_config.json").write_text("{}")
    with pytest.raises(ModelError, match="damaged"):
        open_model(tmp_path / "half")


def test_process_that_dies_is_named_with_its_model(exported):
    with RuntimeProcess(open_model(exported), device="cpu", dtype="float32") as runner:
        runner.open()
        runner._process.kill()
        with pytest.raises(OlivineError, match="fp32' was ended by signal 9: probably out of memory"):
            runner.feed([[1, 2]], fresh=True)


def test_fault_of_a_process_is_told_and_it_goes_on(exported):
    with RuntimeProcess(open_model(exported), device="cpu", dtype="float32") as runner:
        with pytest.raises(OlivineError, match="no model is open"):
            runner.feed([[1, 2]], fresh=True)
        assert runner.open()["n_vocabulary"] == VOCABULARY
        assert runner.feed([[1, 2]], fresh=True).shape == (1, 2, VOCABULARY)


def test_provider_is_read_from_the_folder(exported, tmp_path):
    assert open_model(exported).attributes["execution_provider"] == "CPUExecutionProvider"
    shutil.copytree(exported, tmp_path / "cuda")
    path = tmp_path / "cuda" / "genai_config.json"
    config = json.loads(path.read_text())
    config["model"]["decoder"]["session_options"]["provider_options"] = [{"cuda": {}}]
    path.write_text(json.dumps(config))
    assert open_model(tmp_path / "cuda").attributes["execution_provider"] == "CUDAExecutionProvider"


def test_model_with_added_tokens_is_compared_on_what_both_know(exported, tmp_path):
    model = tmp_path / "more"
    shutil.copytree(exported, model)
    tokenizer = load_tokenizer(Model("hf", model))
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(model)
    found = compare(exported, model, WINDOWS[:1], QUICK)
    assert found.summary.kl == 0
    assert "1 added tokens are known to one of the tokenizers only" in found.warnings


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return load_tokenizer(Model("hf", tiny_llama))


# questions and answers reach the model's chat template
CHAT = "<|user|>\nwhat a <|end|>\n<|assistant|>\nday<|end|>\n"


def test_text_file_is_one_text_in_windows(tokenizer, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog.\n" * 20)
    windows = read_windows(path, tokenizer, 50, 16)
    assert [len(window) for window in windows] == [16, 16, 16, 2]
    flat = [token for window in windows for token in window]
    assert flat == tokenizer(path.read_text()).input_ids[:50]  # it begins as the tokenizer begins a text


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"text": "a lovely day"}, "a lovely day"),
        ({"prompt": "what a ", "completion": "day"}, CHAT),
        ({"messages": [{"role": "user", "content": "joy"}]}, "<|user|>\njoy<|end|>\n"),
        ({"conversations": [{"from": "human", "value": "joy"}]}, "<|user|>\njoy<|end|>\n"),
        ({"input": "what a ", "output": "day"}, CHAT),
    ],
)
def test_rows_are_texts_of_their_own(tokenizer, tmp_path, row, text):
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps(row) + "\n") * 3)
    windows = read_windows(path, tokenizer, 1000, 64)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert windows == [[*ids, tokenizer.eos_token_id]] * 3


def test_data_config_says_how_rows_become_text(tokenizer, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"q": "fox", "a": "dog"}) + "\n")
    config = {
        "name": "rows",
        "load_dataset_config": {"data_files": str(path)},
        "pre_process_data_config": {"text_template": "{q}: {a}", "add_special_tokens": False},
    }
    windows = read_windows(DataConfig.model_validate(config), tokenizer, 1000, 64)
    assert windows == [tokenizer("fox: dog", add_special_tokens=False).input_ids]


def test_template_says_how_rows_of_any_columns_become_text(tokenizer, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"q": "fox", "a": "dog"}) + "\n")
    (window,) = read_windows(TextFile(path, "{q}: {a}"), tokenizer, 1000, 64)
    assert window[:-1] == tokenizer("fox: dog", add_special_tokens=False).input_ids


def test_text_that_cannot_be_read_is_told(tokenizer, tmp_path):
    def refused(name, content, message):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_windows(path, tokenizer, 100, 16)

    refused("none.txt", None, "none.txt cannot be read: No such file")
    refused("none.jsonl", None, "'.*none.jsonl' does not exist")
    refused("text.doc", b"x", r"must be a \.txt, \.md, \.json")
    refused("latin.txt", b"\xff\xfe", "not UTF-8")
    refused("empty.txt", b"  \n", "no text of at least 2 tokens")
    refused(
        "rows.jsonl", b'{"q": 1}\n', "has the columns q, which do not tell how a row becomes text; write text_template"
    )
    refused("bad.jsonl", b'{"text": "a"}\n{\n', "bad.jsonl:2")

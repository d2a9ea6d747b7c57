"""Models that forget: layers with a window, with the state of a convolution; each against passes without a cache."""

import numpy as np
import pytest
import torch

from olivine.data import Example
from olivine.evaluate import Question, answers_of
from olivine.models import Model
from olivine.models.loading import load_causal_lm
from olivine.runtimes.opening import open_runtime
from olivine.runtimes.speed import measure
from tiny import COMMON, VOCABULARY, tiny_tokenizer

N_NEW = 12
# transformers' config class, and what makes the tiny model forget; every row below is longer than the window
FORGETFUL = {
    "mistral": ("MistralConfig", {"sliding_window": 16}),
    "phi3": ("Phi3Config", {"sliding_window": 16, "original_max_position_embeddings": 256}),
    "gemma2": ("Gemma2Config", {"sliding_window": 16, "head_dim": 16, "tie_word_embeddings": True}),
    "gemma3": ("Gemma3TextConfig", {"sliding_window": 16, "head_dim": 16, "num_hidden_layers": 6}),
    "gptoss": (
        "GptOssConfig",
        {"sliding_window": 16, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"], "tie_word_embeddings": True}),
    "llama": ("LlamaConfig", {}),
}
# the model builder makes graphs of these whose cache is a ring, or that hold a state
EXPORTED = ("gemma2", "lfm2")


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory):
    """Makes the models, each once."""
    made = {}

    def make(name):
        if name not in made:
            import transformers

            folder = tmp_path_factory.mktemp(name) / "model"
            tokenizer = tiny_tokenizer(folder)
            kind, settings = FORGETFUL[name]
            special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": tokenizer.pad_token_id}
            config = getattr(transformers, kind)(vocab_size=VOCABULARY, **{**COMMON, **special, **settings})
            torch.manual_seed(0)
            transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
            made[name] = Model("hf", folder)
        return made[name]

    return make


@pytest.fixture(scope="module")
def exported(forgetful, tmp_path_factory):
    """The graphs that onnxruntime-genai's builder makes of them, in float32."""
    made = {}

    def make(name):
        if name not in made:
            from onnxruntime_genai.models import builder

            folder = tmp_path_factory.mktemp(f"{name}-onnx") / "model"
            scratch = tmp_path_factory.mktemp("builder")
            arguments = ("", str(forgetful(name).path), str(folder), "fp32", "cpu", str(scratch))
            builder.create_model(*arguments, **builder.parse_extra_options(*arguments, []))
            made[name] = Model("onnx", folder, attributes={"execution_provider": "CPUExecutionProvider"})
        return made[name]

    return make


def unequal_questions(seed=0):
    """Rows below, at and above the window, in one batch."""
    random = np.random.default_rng(seed)
    lengths = [(5, 3), (13, 3), (14, 4), (31, 2), (40, 8)]
    example = Example("", "", "", "rows.jsonl:1")
    return [
        Question(
            example,
            (0, *random.integers(7, VOCABULARY, n - 1).tolist()),
            tuple(random.integers(7, VOCABULARY, m).tolist()),
        )
        for n, m in lengths
    ]


def obvious(module, question):
    """Target logits and greedy text, each token from a pass over everything before it."""
    ids = [*question.prompt, *question.target]
    with torch.no_grad():
        logits = module(torch.tensor([ids]), use_cache=False).logits[0]
        written = list(question.prompt)
        while len(written) < len(question.prompt) + N_NEW:
            written.append(int(module(torch.tensor([written]), use_cache=False).logits[0, -1].argmax()))
    first = len(question.prompt) - 1
    return logits[first : first + len(question.target)].numpy(), written[len(question.prompt) :]


@pytest.mark.parametrize("name", FORGETFUL)
def test_answers_of_unequal_rows_are_those_of_passes_without_a_cache(name, forgetful):
    model, rows = forgetful(name), unequal_questions()
    module = load_causal_lm(model)
    answers = answers_of(model, "cpu", "").answer(rows, N_NEW, [])
    for question, answer in zip(rows, answers, strict=True):
        logits, text = obvious(module, question)
        np.testing.assert_allclose(answer.logits, logits, atol=1e-4)
        assert answer.tokens == text


@pytest.mark.parametrize("name", FORGETFUL)
def test_pieces_give_the_logits_of_the_whole(name, forgetful):
    model = forgetful(name)
    module, runtime = load_causal_lm(model), open_runtime(model, "cpu", "float32")
    ids = np.random.default_rng(1).integers(7, VOCABULARY, 50).tolist()
    with torch.no_grad():
        whole = module(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    for size in (1, 9, 20):
        pieces = [runtime.feed([ids[at : at + size]], fresh=at == 0)[0] for at in range(0, 50, size)]
        np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-4)


@pytest.mark.parametrize("name", EXPORTED)
def test_graphs_that_forget_answer_like_transformers(name, forgetful, exported):
    module, rows = load_causal_lm(forgetful(name)), unequal_questions()
    answers = answers_of(exported(name), "cpu", "CPUExecutionProvider").answer(rows, N_NEW, [])
    for question, answer in zip(rows, answers, strict=True):
        logits, text = obvious(module, question)
        np.testing.assert_allclose(answer.logits, logits, atol=1e-4)
        assert answer.tokens == (text[: text.index(1)] if 1 in text else text)


@pytest.mark.parametrize("name", EXPORTED)
def test_graphs_that_forget_are_stepped_and_timed(name, forgetful, exported):
    module, runtime = load_causal_lm(forgetful(name)), open_runtime(exported(name), None, "float32")
    ids = np.random.default_rng(1).integers(7, VOCABULARY, 50).tolist()
    with torch.no_grad():
        whole = module(torch.tensor([ids])).logits[0].numpy()
    for size in (1, 9, 20):
        pieces = [runtime.feed([ids[at : at + size]], fresh=at == 0)[0] for at in range(0, 50, size)]
        np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-4)
    prompts = [ids[:20], ids[20:40]]
    assert runtime.generate(prompts, 8) == open_runtime(forgetful(name), "cpu").generate(prompts, 8)
    assert measure(exported(name), None, "float32", ids[:4], 3)["decode_tokens_per_second"] > 0  # below the window

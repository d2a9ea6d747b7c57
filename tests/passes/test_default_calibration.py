"""Without data an int4 export calibrates layer by layer on general text, on any machine; own text is asked for by name."""

from dataclasses import replace

import pytest

from olivine.models import Model
from olivine.models.facts import DecoderFacts, ModelFacts
from olivine.models.inspect import read_facts
from olivine.passes import Context, Machine, passes
from reports import Told
from tiny import tiny_model

Build = passes.classes["build"]
GB = 10**9
PLAIN = Machine("cpu", "CPUExecutionProvider", 16 * GB, 10**12, 2)
# the shape of Llama-3.2-1B, with fewer words
FACTS = ModelFacts(
    "LlamaForCausalLM",
    n_parameters=1_040_000_000,
    decoder=DecoderFacts(
        hidden_size=2048,
        n_layers=16,
        vocab_size=32_000,
        intermediate_size=8192,
        context_length=131_072,
        tied_embeddings=True,
    ),
    config={"num_attention_heads": 32, "num_key_value_heads": 8},
)


def memory(machine, **params):
    return Build(Build.Params(**params)).estimate(FACTS, machine, {}).memory_bytes


def notes(machine, **params):
    return list(Build(Build.Params(**params)).notes(FACTS, machine, {}))


def test_own_text_is_counted_with_what_a_weight_takes_on_this_processor():
    own = {"calibration_text": "own"}
    assert 4.9 * GB < memory(PLAIN, **own) < 5.6 * GB  # 4 bytes a weight
    assert 2.9 * GB < memory(replace(PLAIN, multiplies_bf16=True), **own) < 3.3 * GB  # 2 bytes
    on_gpu = replace(PLAIN, device="cuda", device_memory_bytes=24 * GB)
    estimate = Build(Build.Params(**own)).estimate(FACTS, on_gpu, {})
    assert 2.0 * GB < estimate.device_memory_bytes < 2.4 * GB


def test_what_is_calibrated_on_does_not_depend_on_the_machine():
    small = replace(PLAIN, memory_bytes=4 * GB)
    assert memory(small) == memory(PLAIN) < 2.8 * GB
    assert notes(small) == notes(PLAIN)


def test_models_that_the_builder_itself_reads_are_counted_whole():
    assert memory(PLAIN, use_qdq=True, int4_algo_config="default") > 8 * FACTS.n_parameters


def test_the_plan_tells_what_is_calibrated_on_where_nobody_says_it():
    (note,) = notes(PLAIN)
    assert "general text that comes with olivine" in note
    assert "name them in calibration_data_config" in note
    (note,) = notes(PLAIN, calibration_text="own")
    assert "4,096 tokens that the model writes itself, with the whole model in memory" in note
    assert notes(PLAIN, int4_algo_config="default") == []
    assert notes(PLAIN, calibration_data_config="rows") == []
    assert notes(PLAIN, calibration_text="mine.txt") == []
    assert notes(PLAIN, precision="fp32") == []


def test_the_plan_tells_of_a_length_that_is_cut():
    (note,) = notes(PLAIN, precision="fp32", max_length=200_000)
    assert "131072 is written" in note


@pytest.mark.parametrize(
    ("text", "source"), [("general", "general text"), ("own", "text that the model wrote"), (None, "mine.txt")]
)
def test_what_was_calibrated_on_is_recorded(text, source, tiny_llama, tmp_path):
    kept = Told()
    for place in ("built", "scratch"):
        (tmp_path / place).mkdir()
    mine = tmp_path / "mine.txt"
    mine.write_text("the quick brown fox " * 300)
    context = Context(tmp_path / "built", tmp_path / "scratch", replace(PLAIN, memory_bytes=1), kept)
    step = Build(Build.Params(calibration_tokens=512, calibration_text=text or mine))
    assert step.files() == ([] if text else [mine])
    step.ensures(step.run(Model("hf", tiny_llama), context))
    assert kept.facts["calibration"]["source"].endswith(source)


def test_facts_of_a_model_count_what_is_stored(tmp_path):
    folder = tiny_model(tmp_path / "model", "llama")
    assert Build(Build.Params()).estimate(read_facts(folder), PLAIN, {}).memory_bytes < 1.1 * GB


def shape(n_parameters, hidden, inner, n_layers, vocabulary, *, tied):
    decoder = DecoderFacts(
        hidden_size=hidden,
        n_layers=n_layers,
        vocab_size=vocabulary,
        intermediate_size=inner,
        context_length=2048,
        tied_embeddings=tied,
    )
    return ModelFacts("LlamaForCausalLM", n_parameters=n_parameters, decoder=decoder, config={})


@pytest.mark.parametrize(
    ("facts", "peak"),
    [
        (shape(73_675_264, 512, 1536, 12, 32_000, tied=False), 0.693 * GB),
        (shape(501_797_888, 1024, 4096, 26, 32_000, tied=False), 1.100 * GB),
        (shape(331_585_408, 896, 4864, 12, 151_936, tied=True), 0.965 * GB),
    ],
)
def test_the_estimate_is_within_a_fifth_of_what_was_measured(facts, peak):
    """The whole pass and its check, with 1,024 tokens, on two cores."""
    step = Build(Build.Params(calibration_tokens=1024))
    assert step.estimate(facts, PLAIN, {}).memory_bytes == pytest.approx(peak, rel=0.2)

"""Without data an int4 export calibrates on what the model writes, where all of it fits in memory, and the plan says so."""

from dataclasses import replace

import pytest

from olivine.calibration.tokens import FEWEST
from olivine.models import Model
from olivine.models.facts import DecoderFacts, ModelFacts
from olivine.models.inspect import read_facts
from olivine.passes import Context, Machine, passes
from olivine.passes.export.build import GENERAL
from olivine.runtimes.own_text import calibration_tokens
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


def test_the_estimate_counts_what_a_weight_takes_on_this_processor():
    assert 4.9 * GB < memory(PLAIN) < 5.6 * GB  # 4 bytes a weight
    assert 2.9 * GB < memory(replace(PLAIN, multiplies_bf16=True)) < 3.3 * GB  # 2 bytes
    assert memory(PLAIN, int4_algo_config="default") < 1.5 * GB


def test_on_a_gpu_the_model_that_writes_lies_on_the_gpu():
    machine = replace(PLAIN, device="cuda", device_memory_bytes=24 * GB)
    estimate = Build(Build.Params()).estimate(FACTS, machine, {})
    assert 2.0 * GB < estimate.device_memory_bytes < 2.4 * GB


def test_models_that_the_builder_itself_reads_are_counted_whole():
    assert memory(PLAIN, use_qdq=True, int4_algo_config="default") > 8 * FACTS.n_parameters


def test_the_plan_tells_of_the_text_that_the_model_writes():
    (note,) = notes(PLAIN)
    assert "4,096 tokens that the model writes itself" in note
    assert "name calibration_data_config or int4_algo_config: default to avoid it" in note
    assert notes(PLAIN, int4_algo_config="default") == []
    assert notes(PLAIN, calibration_data_config="rows") == []
    assert notes(PLAIN, precision="fp32") == []


def test_the_plan_tells_of_a_length_that_is_cut():
    (note,) = notes(PLAIN, precision="fp32", max_length=200_000)
    assert "131072 is written" in note


def test_a_model_that_does_not_fit_is_calibrated_on_general_text_layer_by_layer():
    small = replace(PLAIN, memory_bytes=4 * GB)
    assert memory(small) < 4 * GB
    (note,) = notes(small)
    assert "general text" in note


@pytest.mark.parametrize(("room", "source"), [(16 * GB, "text that the model wrote"), (1, "general text")])
def test_what_was_calibrated_on_is_recorded(room, source, tiny_llama, tmp_path):
    kept = Told()
    for place in ("built", "scratch"):
        (tmp_path / place).mkdir()
    context = Context(tmp_path / "built", tmp_path / "scratch", replace(PLAIN, memory_bytes=room), kept)
    step = Build(Build.Params(calibration_tokens=512))
    step.ensures(step.run(Model("hf", tiny_llama), context))
    assert kept.facts["calibration"]["source"] == source


def test_the_general_text_is_enough_for_every_tokenizer(tiny_llama):
    tokens = calibration_tokens(Model("hf", tiny_llama), text=GENERAL)
    assert tokens.numel() >= FEWEST
    assert len(GENERAL.read_text(encoding="utf-8").split()) > 2 * FEWEST  # a token is a word at most


def test_facts_of_a_model_count_what_is_stored(tmp_path):
    folder = tiny_model(tmp_path / "model", "llama")
    assert Build(Build.Params()).estimate(read_facts(folder), PLAIN, {}).memory_bytes < 1.1 * GB

"""What a plan says that a training needs follows the rows and the model, not the most that they could be."""

import json
from dataclasses import replace

import pytest
from training_tools import adapted

from olivine.config.schema import DataConfig
from olivine.data import row_sizes
from olivine.models.inspect import read_facts
from olivine.passes import Machine
from olivine.passes.export.build import Build
from olivine.passes.finetune.full_finetune import FullFinetune
from olivine.passes.finetune.lora import Lora
from olivine.training import memory
from olivine.training.duration import range_in_words
from tiny import VOCABULARY

MACHINE = Machine("cpu", "CPUExecutionProvider", 64 * 10**9, 10**11, 2)


def data(folder, texts, **settings):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return DataConfig(
        name="rows",
        load_dataset_config={"data_files": str(path)},
        pre_process_data_config={"text_template": "{text}", "strategy": "line-by-line", "max_seq_len": 512, **settings},
    )


@pytest.fixture
def large(tiny_llama):
    """The facts of a model whose activations are most of what training needs."""
    facts = read_facts(tiny_llama)
    decoder = replace(facts.as_decoder, hidden_size=1024, n_layers=24, vocab_size=32_000)
    return replace(facts, decoder=decoder, n_parameters=10**8)


def planned(plugin, facts, config, **params):
    given = plugin.Params(train_data_config="rows", **params)
    return plugin(given).estimate(facts, MACHINE, {"rows": config}).memory_bytes


@pytest.mark.parametrize("plugin", [Lora, FullFinetune])
def test_short_rows_need_less_than_long_ones(plugin, large, tmp_path):
    short = planned(plugin, large, data(tmp_path, ["yes"] * 40))
    full = planned(plugin, large, data(tmp_path, ["yes " * 2000] * 40))
    joined = planned(plugin, large, data(tmp_path, ["yes"] * 40, strategy="join"))
    assert short < 0.8 * full
    assert joined == full


def test_sizes_are_rather_more_than_less(tmp_path):
    sizes = row_sizes(data(tmp_path, ["word " * 20] * 9 + ["word " * 60]), 32_000)
    assert sizes.n_rows == 10
    assert 20 < sizes.mean < 60
    assert 60 < sizes.longest < 180
    assert row_sizes(data(tmp_path, ["word " * 900]), 32_000).longest == 512
    assert row_sizes(data(tmp_path, ["word"]), VOCABULARY).mean > row_sizes(data(tmp_path, ["word"]), 32_000).mean


def test_edited_rows_are_measured_again(tmp_path):
    before = row_sizes(data(tmp_path, ["a"]), 32_000)
    assert row_sizes(data(tmp_path, ["a" * 900]), 32_000).longest > before.longest


def test_rows_that_are_not_here_are_taken_as_full():
    config = DataConfig(name="rows", load_dataset_config={"data_name": "some/set"})
    assert row_sizes(config, 32_000) is None
    assert memory.tokens_of(config, 4, 32_000) == (1024, 4096)


@pytest.mark.parametrize("targets", [None, ["q_proj", "down_proj"]])
def test_adapter_has_the_weights_that_are_told(tiny_llama, targets):
    model = adapted(tiny_llama, r=4, target_modules=targets or "all-linear")
    n_trained = sum(one.numel() for name, one in model.named_parameters() if "lora_" in name)
    assert 4 * memory.adapter_size(read_facts(tiny_llama), targets) == n_trained


def test_less_memory_means_smaller_micro_batches_before_a_refusal(large, tmp_path):
    config = data(tmp_path, ["yes " * 2000] * 40)
    needed = planned(Lora, large, config)
    tight = replace(MACHINE, memory_bytes=int(needed * 0.8))
    step = Lora(Lora.Params(train_data_config="rows"))
    assert step.estimate(large, tight, {"rows": config}).memory_bytes < tight.memory_bytes


def times(plugin, params, facts, machine, config):
    """What a plan notes of the time that a training takes."""
    notes = plugin(plugin.Params(**params)).notes(facts, machine, {"rows": config})
    return [note for note in notes if note.startswith("trains ")]


@pytest.mark.parametrize(
    ("arguments", "n_steps"),
    [
        ({"max_steps": 60}, 60),
        ({"num_train_epochs": 2, "per_device_train_batch_size": 4}, 16),  # 32 of 40 rows
        ({"epochs": "many"}, 12),
    ],
)
def test_time_of_a_training_is_told_by_steps_and_tokens(large, tmp_path, arguments, n_steps):
    config = data(tmp_path, ["word " * 30] * 40)
    params = {"train_data_config": "rows", "eval_dataset_size": 0.2, "training_args": arguments}
    (told,) = times(Lora, params, large, MACHINE, config)
    assert told.startswith(f"trains {n_steps} steps of about ")
    assert times(FullFinetune, params, large, MACHINE, config) != [told]  # with other gradients
    assert times(Lora, params, large, replace(MACHINE, device="cuda"), config) == []


@pytest.mark.parametrize(
    ("least", "most", "said"),
    [
        (0.1, 0.5, "less than a second"),
        (1, 7, "about 1 to 7 seconds"),
        (30, 210, "about 1 to 4 minutes"),
        (2e5, 1.4e6, "about 2 to 16 days"),
        (1e300, float("inf"), "longer than a year"),
    ],
)
def test_time_is_a_range_in_one_unit(least, most, said):
    assert range_in_words(least, most) == said


@pytest.mark.parametrize(("algorithm", "most"), [("default", 1e9), ("search", 2e9)])
def test_int4_needs_some_layers_whatever_the_size_of_the_model(algorithm, most, tiny_llama):
    facts, machine = read_facts(tiny_llama), replace(MACHINE, multiplies_bf16=True)
    shape = {"hidden_size": 3072, "intermediate_size": 8192, "vocab_size": 32_064, "tied_embeddings": False}
    needed = [
        Build(Build.Params(int4_algo_config=algorithm))
        .estimate(
            replace(facts, decoder=replace(facts.as_decoder, n_layers=n, **shape), n_parameters=n_all), machine, {}
        )
        .memory_bytes
        for n, n_all in ((32, 3_820_000_000), (96, 11_070_000_000))
    ]
    assert needed[0] < most
    assert needed[1] < 1.02 * needed[0]

"""LoRA's params: which layers they choose, and what is refused before, during and after the training."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from test_lora import MACHINE, Lora, context, data, params, train

from olivine.errors import RequestError
from olivine.models import Model
from olivine.models.inspect import read_facts


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small only lose by a second thread, above all where tests run beside each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained_layers(adapter):
    """Names of the layers that the saved adapter changes, without what they all begin with."""
    with safe_open(adapter.path / "adapter_model.safetensors", "pt") as file:
        names = file.keys()
    return {name.removeprefix("base_model.model.model.").partition(".lora_")[0] for name in names}


@pytest.mark.parametrize(
    ("wanted", "trained"),
    [
        (r".*layers\.0\..*(q|v)_proj", {"layers.0.self_attn.q_proj", "layers.0.self_attn.v_proj"}),
        ([r".*\.1\..*\.up_proj", "layers.0.mlp.down_proj"], {"layers.1.mlp.up_proj", "layers.0.mlp.down_proj"}),
        (["self_attn.k_proj"], {"layers.0.self_attn.k_proj", "layers.1.self_attn.k_proj"}),
    ],
)
def test_pattern_or_end_of_a_name_chooses_layers(wanted, trained, tiny_llama, tmp_path):
    assert list(Lora(params(target_modules=wanted)).check(read_facts(tiny_llama), MACHINE, {})) == []
    adapter, _ = train(tiny_llama, tmp_path, target_modules=wanted, training_args={"max_steps": 2})
    assert trained_layers(adapter) == trained


@pytest.mark.parametrize("pattern", ["(q|v_proj", "(q|v)_proj{99999999999}"])
def test_pattern_that_cannot_be_read_is_a_problem(pattern, tiny_llama):
    (problem,) = Lora(params(target_modules=pattern)).check(read_facts(tiny_llama), MACHINE, {})
    assert problem.kind == "invalid-value"
    assert f"'{pattern}' is no regular expression" in problem.message


def test_all_linear_in_a_list_is_every_layer(tiny_llama, tmp_path):
    adapter, _ = train(tiny_llama, tmp_path, target_modules=["all-linear"], training_args={"max_steps": 2})
    assert len(trained_layers(adapter)) == 14


def test_excluded_layers_are_left_out(tiny_llama, tmp_path):
    adapter, _ = train(tiny_llama, tmp_path, exclude_modules="q_proj, up_proj", training_args={"max_steps": 2})
    leaves = {name.rpartition(".")[2] for name in trained_layers(adapter)}
    assert leaves == {"k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modules_to_save": ["lm_hed"]}, r"modules_to_save 'lm_hed' match no layer; did you mean 'lm_head'\?"),
        ({"exclude_modules": "q_prj"}, "exclude_modules 'q_prj' match no layer; did you mean 'q_proj'"),
        ({"target_modules": ["input_layernorm"]}, "target_modules 'input_layernorm' match no layer"),
        ({"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]}, "the adapter cannot be made: No modules"),
    ],
)
def test_list_of_modules_that_does_nothing_is_refused(changes, message, tiny_llama, tmp_path):
    with pytest.raises(RequestError, match=message):
        train(tiny_llama, tmp_path, **changes)


def test_last_step_that_ruins_the_adapter_fails_the_training(tiny_llama, tmp_path):
    with pytest.raises(ArithmeticError, match="is not finite after the last step; lower"):
        train(tiny_llama, tmp_path, training_args={"max_steps": 1, "learning_rate": 1e38, "warmup_steps": 0})


@pytest.mark.parametrize("arguments", [{"max_steps": 1, "warmup_steps": 1}, {"max_steps": -1, "num_train_epochs": 0}])
def test_training_that_changes_nothing_fails(arguments, tiny_llama, tmp_path):
    with pytest.raises(RequestError, match="training changed nothing: there was no step with a learning rate above 0"):
        train(tiny_llama, tmp_path, training_args=arguments)


def test_arguments_that_the_libraries_refuse_are_the_configs_mistake(tiny_llama, tmp_path):
    with pytest.raises(RequestError, match=r"training_args are refused: .*save and eval strategy"):
        train(tiny_llama, tmp_path, training_args={"load_best_model_at_end": True})


def test_evaluation_without_rows_is_said(tiny_llama, tmp_path):
    _, report = train(tiny_llama, tmp_path, training_args={"max_steps": 2, "evaluation_strategy": "steps"})
    (warning,) = report.warnings
    assert "eval_strategy 'steps' has no rows to evaluate on and is left out" in warning


def test_own_evaluation_rows_win_over_held_out_ones(tiny_llama, tmp_path):
    where = context(tmp_path, other=data(tmp_path, n_rows=24).model_copy(update={"name": "other"}))
    step = Lora(params(eval_data_config="other", eval_dataset_size=0.5, training_args={"max_steps": 2}))
    assert step.data_names() == ["rows", "other"]
    step.run(Model("hf", tiny_llama), where)
    assert where.report.facts["data"]["n_rows"] == 24
    assert where.report.facts["eval_data"]["n_rows"] == 24


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"training_args": {"optim": "galore_adamw"}}, "missing-extra", "needs the package galore-torch"),
        ({"training_args": {"fp16": True}}, "hardware", "fp16 needs a GPU"),
        ({"training_args": {"load_best_model_at_end": True}}, "invalid-value", "needs rows to evaluate on"),
        ({"eval_dataset_size": 1.5}, "invalid-value", "a whole number of rows, but is 1.5"),
    ],
)
def test_what_cannot_work_is_a_problem_before_anything_runs(changes, kind, message, tiny_llama):
    (problem,) = Lora(params(**changes)).check(read_facts(tiny_llama), MACHINE, {})
    assert problem.kind == kind
    assert message in problem.message


@pytest.mark.parametrize("value", ["ten", 0, -3, True])
def test_estimate_of_wrong_arguments_is_that_of_the_defaults(value, tiny_llama):
    facts = read_facts(tiny_llama)
    wrong = Lora(params(training_args={"per_device_train_batch_size": value}))
    assert len(list(wrong.check(facts, MACHINE, {}))) == 1
    right = Lora(params(training_args={"per_device_train_batch_size": 8}))
    assert wrong.estimate(facts, MACHINE, {}) == right.estimate(facts, MACHINE, {})


def test_estimate_knows_what_costs_memory(tiny_llama):
    facts = read_facts(tiny_llama)
    facts = replace(facts, decoder=replace(facts.as_decoder, hidden_size=2048, n_layers=24, vocab_size=32_000))

    def memory(**arguments):
        return Lora(params(training_args=arguments)).estimate(facts, MACHINE, {}).memory_bytes

    # a step's rows travel in micro-batches that are no larger than what pays
    assert memory(per_gpu_train_batch_size=16) == memory(per_device_train_batch_size=4)
    assert memory(gradient_checkpointing=True) == memory(activation_checkpointing=True) < memory()

"""The table of TrainingArguments is that of the installed release, and old names find their place."""

import dataclasses

import pytest
from transformers import TrainingArguments

from olivine.training.optimizers import OPTIMIZERS, check_package
from olivine.training.training_arguments import (
    AT_LEAST,
    CHOICES,
    FIELDS,
    FLAGS,
    OWNED,
    RENAMED,
    Defaults,
    check,
    split_seed,
    today,
)


def test_table_is_the_installed_release():
    assert set(FIELDS) == {field.name for field in dataclasses.fields(TrainingArguments)}


def test_choices_are_those_of_the_installed_release():
    from transformers import trainer_utils, training_args

    enums = {
        "eval_strategy": trainer_utils.IntervalStrategy,
        "logging_strategy": trainer_utils.IntervalStrategy,
        "save_strategy": trainer_utils.SaveStrategy,
        "hub_strategy": trainer_utils.HubStrategy,
        "lr_scheduler_type": trainer_utils.SchedulerType,
        "optim": training_args.OptimizerNames,
    }
    installed = {field: {member.value for member in enum} for field, enum in enums.items()}
    for field in dataclasses.fields(TrainingArguments):  # choices of a machine, such as start methods, are not listed
        if choices := field.metadata.get("choices"):
            installed[field.name] = set(choices)
    assert {field: set(choices) for field, choices in CHOICES.items()} == {field: installed[field] for field in CHOICES}
    assert set(AT_LEAST) <= set(FIELDS)


def test_every_successor_exists():
    successors = {*RENAMED.values(), *(field for field, _ in FLAGS.values()), *dataclasses.asdict(Defaults())}
    assert successors <= set(FIELDS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"evaluation_strategy": "steps"}, {"eval_strategy": "steps"}),
        ({"group_by_length": True}, {"train_sampling_strategy": "group_by_length"}),
        ({"group_by_length": False}, {}),
        ({"warmup_ratio": 0.1}, {"warmup_steps": 0.1}),
        ({"per_gpu_train_batch_size": 4}, {"per_device_train_batch_size": 4}),
        ({"no_cuda": True}, {"use_cpu": True}),
        ({"overwrite_output_dir": True}, {}),
        ({"learning_rate": 1e-4, "max_steps": 3}, {"learning_rate": 1e-4, "max_steps": 3}),
    ],
)
def test_old_names_become_todays(old, new):
    assert list(check(old, "lora")) == []
    assert today(old) == new


def test_unknown_name_is_a_problem_with_the_nearest():
    (problem,) = check({"learning_rat": 1.0}, "lora")
    assert problem.kind == "unknown-key"
    assert "Did you mean 'learning_rate'?" in problem.fix


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_steps": "ten"},
        {"learning_rate": True},
        {"fp16": 1},
        {"seed": 1.5},
        {"warmup_ratio": "0.1"},
        {"warmup_ratio": 1.0},
        {"warmup_ratio": -0.1},
        {"neftune_noise_alpha": -1},
    ],
)
def test_wrong_type_is_a_problem_with_the_value(arguments):
    (problem,) = check(arguments, "lora")
    assert problem.kind == "invalid-value"
    assert repr(next(iter(arguments.values()))) in problem.message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"lr_scheduler_type": "cosin"}, "Did you mean 'cosine'?"),
        ({"evaluation_strategy": "step"}, "Did you mean 'steps'?"),
        ({"optim": "adamw_hf"}, "Did you mean 'adamw_torch'?"),
        ({"train_sampling_strategy": "xyz"}, "There are: random, sequential, group_by_length, batch_rebalance."),
        ({"per_gpu_train_batch_size": 0}, "must be at least 1, but is 0"),
        ({"gradient_accumulation_steps": -2}, "must be at least 1, but is -2"),
        ({"learning_rate": -1e-4}, "must be at least 0, but is -0.0001"),
        ({"learning_rate": float("nan")}, "must be at least 0, but is nan"),
    ],
)
def test_value_that_no_release_takes_is_a_problem(arguments, said):
    (problem,) = check(arguments, "lora")
    assert problem.kind == "invalid-value"
    assert said in str(problem)


def test_optimizers_of_torch_need_no_package():
    free = [name for name, module in OPTIMIZERS.items() if module is None]
    assert "adamw_torch" in free
    assert [problem for name in free for problem in check_package(name, "lora")] == []
    assert list(check_package(["adamw_torch"], "lora")) == []  # the wrong type is reported by `check`


@pytest.mark.parametrize("name", OWNED)
def test_what_olivine_decides_is_refused_by_name(name):
    (problem,) = check({name: "x"}, "lora")
    assert problem.kind == "unsupported"
    assert name in problem.message


def test_held_out_rows_follow_data_seed_then_seed():
    assert split_seed({"data_seed": 7, "seed": 1}) == 7
    assert split_seed({"seed": 1}) == 1
    assert split_seed({}) == 42

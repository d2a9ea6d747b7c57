"""What a plan refuses in training_args is what the installed transformers refuses, and nothing else."""

import itertools
import warnings

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_reporting_integration_callbacks
from transformers.optimization import get_scheduler
from transformers.trainer_optimizer import _parse_optim_args

from olivine.models.facts import DecoderFacts, ModelFacts
from olivine.passes import Machine, passes
from olivine.training import argument_rules, trainer
from olivine.training.training_arguments import FIELDS, SYNONYMS, nearest

MACHINE = Machine("cpu", "CPUExecutionProvider", 10**10, 10**11, 2)
FACTS = ModelFacts("LlamaForCausalLM", 10**8, DecoderFacts(hidden_size=64, n_layers=2, vocab_size=384))
Lora = passes.classes["lora"]
HELD_OUT = {"eval_dataset_size": 0.25}


def problems(arguments, **params):
    step = Lora(Lora.Params(train_data_config="rows", training_args=arguments, **params))
    return list(step.check(FACTS, MACHINE, {}))


def library_refuses(arguments, folder, *, evaluates):
    """What happens before the first step: the arguments, the tools, the optimizer's settings, the schedule."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = trainer.arguments(arguments, folder, on_cpu=True, has_eval=evaluates)
            for callback in get_reporting_integration_callbacks(made.report_to):
                callback()
            _parse_optim_args(made.optim_args)
            optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=made.learning_rate)
            schedule = get_scheduler(
                made.lr_scheduler_type, optimizer, made.get_warmup_steps(20), 20, made.lr_scheduler_kwargs
            )
            optimizer.step()
            for _ in range(3):
                schedule.step(*[0.5] * (made.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")))
    except Exception as error:  # noqa: BLE001 - whatever it is, it would end the step
        return error
    return None


VALUES = {
    "save_steps": [1, 4, 5, 0.1, 0.25, 2.5],
    "eval_steps": [1, 2, 0.1, 0.05, 2.5, None],
    "logging_steps": [1, 0, 0.5, 1.5],
    "save_strategy": ["no", "steps", "epoch", "best"],
    "eval_strategy": ["no", "steps", "epoch"],
    "logging_strategy": ["no", "steps"],
    "load_best_model_at_end": [True, False],
    "metric_for_best_model": ["loss", "eval_loss"],
    "bf16": [True, False],
    "fp16": [False],
    "report_to": ["none", "wandb", ["mlflow", "clearml"], "nothing", ["none"], []],
    "lr_scheduler_type": [*argument_rules.SCHEDULERS, "constant", "constant_with_warmup"],
    "lr_scheduler_kwargs": [
        None,
        {},
        {"num_cycles": 2},
        {"min_lr": 1e-6},
        {"min_lr_rate": 0.1},
        {"min_lr": 1e-6, "min_lr_rate": 0.1},
        {"num_decay_steps": 4},
        {"num_decay_steps": 4, "decay_type": "square"},
        {"lr_end": 1.0},
        {"factor": 0.5},
        {"factor": 2.0},
        {"mode": "most"},
        '{"num_cycles": 3}',
        "num_cycles",
    ],
    "dataloader_num_workers": [0, 2],
    "dataloader_prefetch_factor": [2, None],
    "tf32": [True, False],
    "debug": ["underflow_overflow", "everything"],
    "accelerator_config": [{"even_batches": True}, {"odd_batches": True}, "/no/such/file.json"],
    "optim_args": ["a=1,b=2", "a"],
    "warmup_steps": [0, 0.1, 5],
}


@given(
    st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in VALUES.items()}),
    st.booleans(),
)
@example({"save_steps": 5, "eval_steps": 2, "eval_strategy": "steps", "load_best_model_at_end": True}, True)
@example({"lr_scheduler_type": "reduce_lr_on_plateau"}, True)
@example({"lr_scheduler_type": "cosine_with_min_lr"}, False)
@settings(max_examples=120, deadline=None)
def test_plan_refuses_what_the_library_would(tmp_path_factory, arguments, evaluates):
    refused = library_refuses(arguments, tmp_path_factory.getbasetemp() / "checkpoints", evaluates=evaluates)
    told = problems(arguments, **(HELD_OUT if evaluates else {}))
    if refused is not None:
        assert told, refused
    # stricter only where the run would end without what was asked for
    stricter = {"load_best_model_at_end", "save_strategy", "lr_scheduler_type"}
    assert refused is not None or {problem.key[-1] for problem in told} <= stricter, told


def test_every_reporting_tool_of_the_release_is_known():
    assert set(argument_rules.REPORTERS) == set(INTEGRATION_TO_CALLBACK)


def test_schedules_are_those_of_the_release():
    from transformers.trainer_utils import SchedulerType

    assert set(argument_rules.SCHEDULERS) == {kind.value for kind in SchedulerType} - {
        "constant",
        "constant_with_warmup",
    }


@pytest.mark.parametrize(
    ("arguments", "key", "said"),
    [
        ({"learning_rate": 0}, "learning_rate", "nothing would be trained"),
        ({"max_steps": -1, "num_train_epochs": 0}, "num_train_epochs", "nothing would be trained"),
        ({"max_steps": 1, "warmup_ratio": 0.1}, "warmup_ratio", "the only step"),
        ({"report_to": "wandb"}, "report_to", "needs the package wandb"),
        ({"report_to": ["tensorbored"]}, "report_to", "no 'tensorbored'"),
        ({"report_to": [{"tool": "wandb"}]}, "report_to", "training_args.report_to has no"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type", "needs one of min_lr"),
        ({"lr_scheduler_kwargs": {"cycles": 2}}, "lr_scheduler_kwargs", "'cycles'"),
        ({"evaluation_strategy": "steps", "eval_steps": 2.5}, "eval_steps", "whole number"),
        ({"seed": -1}, "seed", "at least 0"),
        ({"adam_beta2": 1.0}, "adam_beta2", "below 1"),
        ({"ddp_backend": "gloo"}, "ddp_backend", "this step has one"),
        ({"adam_epsilon": 0}, "adam_epsilon", "divided by 0"),
        ({"warmup_ratio": 2}, "warmup_ratio", "a share of all steps"),
        ({"weight_decay": float("inf")}, "weight_decay", "finite"),
        ({"optim": "adafactor", "optim_args": "lr"}, "optim_args", "pairs"),
        ({"metric_for_best_model": "accuracy", "eval_strategy": "epoch"}, "metric_for_best_model", "is not measured"),
        ({"gradient_checkpointing_kwargs": {"reentrant": True}}, "gradient_checkpointing_kwargs", "'reentrant'"),
        ({"lr_scheduler_kwargs": '{"a": '}, "lr_scheduler_kwargs", "must be a mapping"),
    ],
)
def test_problem_is_about_the_argument_that_is_wrong(arguments, key, said):
    found = problems(arguments, **HELD_OUT)
    assert [problem.key for problem in found] == [("training_args", key)], found
    assert said in found[0].message


def test_wrong_value_is_one_problem_and_hides_no_other():
    found = problems({"save_steps": "often", "report_to": "wandb"}, **HELD_OUT)
    assert sorted(problem.key[-1] for problem in found) == ["report_to", "save_steps"]


def test_best_of_the_training_needs_one_rhythm_only():
    for arguments in ({"eval_strategy": "epoch"}, {"eval_strategy": "steps", "eval_steps": 2}, {"save_steps": 5}, {}):
        assert problems({"load_best_model_at_end": True, **arguments}, **HELD_OUT) == [], arguments


@pytest.mark.parametrize(
    ("name", "meant"),
    [("lr", "learning_rate"), ("epochs", "num_train_epochs"), ("batch-size", "per_device_train_batch_size")],
)
def test_names_of_other_tools_are_understood(name, meant):
    assert nearest(name) == meant
    assert problems({name: 1})[0].fix == f"Did you mean '{meant}'?"


def test_synonyms_lead_to_fields():
    assert set(SYNONYMS.values()) <= set(FIELDS)
    assert set(SYNONYMS).isdisjoint(FIELDS)


@pytest.mark.parametrize("evaluates", [True, False])
def test_our_own_defaults_hold_for_every_schedule_that_needs_nothing(evaluates):
    for strategy, steps in itertools.product(("no", "steps", "epoch"), (0.1, 5)):
        given = {"save_strategy": strategy, "save_steps": steps}
        assert problems(given, **(HELD_OUT if evaluates else {})) == []

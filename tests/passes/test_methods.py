"""Every method: it learns, the same seed gives the same bytes, a cut training ends with them, several devices agree."""

import json
import os
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file
from test_kills import workers
from test_lora import MACHINE, context
from training_tools import adapted, arguments, rows
from transformers import AutoModelForCausalLM, Trainer

from held import Held
from olivine.config import load
from olivine.errors import StepFailed
from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.models.loading import load_causal_lm
from olivine.passes import passes
from olivine.training import learning_rates, setup, trainer
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan
from reports import Told
from tiny import tiny_model, write_rows

IDS = torch.tensor([[1, 40, 50, 60, 70, 80]])
METHODS = {
    "LoRA+": ("LoRA", {"loraplus_lr_ratio": 16, "lora_dropout": 0.1}),
    "LoRA+ with an embedding": ("LoRA", {"loraplus_lr_ratio": 4, "target_modules": ["q_proj", "embed_tokens"]}),
    "PiSSA": ("LoRA", {"init_lora_weights": "pissa_niter_4"}),
    "LoftQ": ("LoftQ", {"loftq_iter": 2}),
    "DoRA": ("DoRA", {"lora_dropout": 0.1}),
    "LoHa": ("LoHa", {"rank_dropout": 0.1, "module_dropout": 0.1}),
    "LoKr": ("LoKr", {"rank_dropout": 0.1, "decompose_both": True}),
    "FullFinetune": ("FullFinetune", {}),
    "FullFinetune in bfloat16": ("FullFinetune", {"torch_dtype": "bfloat16"}),
}


def step_of(method, **changes):
    kind, given = METHODS[method]
    plugin = passes.find(kind)
    settings = {"max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "save_steps": 1}
    rank = {} if kind == "FullFinetune" else {"r": 4, "alpha": 8}
    settings |= changes.pop("training_args", {})
    return plugin(plugin.Params(train_data_config="rows", training_args=settings, **rank | given | changes))


def train(method, model, folder, name="a", machine=MACHINE, **changes):
    where = replace(context(folder, name), machine=machine)
    return step_of(method, **changes).run(Model("hf", model), where), where.report


def bytes_of(model):
    names = ("adapter_model.safetensors", "adapter_config.json", "model.safetensors", "config.json")
    return {name: (model.path / name).read_bytes() for name in names if (model.path / name).is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_cut_training_and_second_one_end_with_the_same_bytes(method, tiny_llama, tmp_path, monkeypatch):
    whole, report = train(method, tiny_llama, tmp_path, "whole")
    again, _ = train(method, tiny_llama, tmp_path, "again")
    assert bytes_of(again) == bytes_of(whole)
    real = trainer._Trainer.training_step

    def stop_at_four(self, *more):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return real(self, *more)

    with monkeypatch.context() as patched:
        patched.setattr(trainer._Trainer, "training_step", stop_at_four)
        with pytest.raises(KeyboardInterrupt):
            train(method, tiny_llama, tmp_path, "cut")
    resumed, told = train(method, tiny_llama, tmp_path, "cut")
    assert min(told.steps) == 5
    assert bytes_of(resumed) == bytes_of(whole)
    assert told.facts["loss_curve"] == report.facts["loss_curve"]


@pytest.mark.parametrize("method", METHODS)
def test_loss_falls(method, tiny_llama, tmp_path):
    long = {"max_steps": 40, "per_device_train_batch_size": 8, "save_steps": 40}
    _, report = train(method, tiny_llama, tmp_path, training_args=long)
    losses = [loss for _, loss in report.facts["loss_curve"]]
    assert losses[-1] < 0.8 * losses[0]
    assert report.facts["packed"] is True


@pytest.mark.parametrize("method", METHODS)
def test_training_without_a_step_that_counts_fails(method, tiny_llama, tmp_path):
    with pytest.raises(Exception, match="training changed nothing"):
        train(method, tiny_llama, tmp_path, training_args={"max_steps": 1, "warmup_steps": 5})


@pytest.mark.parametrize("method", ["LoHa", "LoKr"])
def test_adapter_of_lycoris_is_pefts_and_its_merge_is_exact(method, tiny_llama, tmp_path):
    adapter, _ = train(method, tiny_llama, tmp_path)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), str(adapter.path)).eval()
    merge = passes.find("MergeAdapterWeights")
    merged = merge(merge.Params()).run(adapter, context(tmp_path, "merge"))
    assert (load_causal_lm(merged)(IDS).logits - plain(IDS).logits).abs().max() <= 1e-4
    assert (plain(IDS).logits - load_causal_lm(adapter.base)(IDS).logits).abs().max() > 1e-3


def test_params_of_lycoris_reach_peft(tiny_llama, tmp_path):
    given = {
        "decompose_factor": 4,
        "layers_to_transform": [1],
        "rank_pattern": {"q_proj": 2},
        "exclude_modules": "o_proj",
    }
    adapter, _ = train("LoKr", tiny_llama, tmp_path, alpha_pattern={"up_proj": 32}, init_weights=False, **given)
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    assert config["decompose_factor"] == 4
    assert config["rank_dropout"] == 0.1
    names = load_file(adapter.path / "adapter_model.safetensors")
    assert {name.split(".layers.")[1][0] for name in names} == {"1"}
    assert not [name for name in names if "o_proj" in name]
    shapes = {
        name.split(".self_attn.")[1]: tensor.shape for name, tensor in names.items() if ".q_proj.lokr_w2_a" in name
    }
    assert shapes == {"q_proj.lokr_w2_a": (16, 2)}


def optimizer_of(monkeypatch, method, model, folder, **changes):
    """The groups of the optimizer that a training made: names of their parameters, and the rest."""
    seen, real = {}, learning_rates.LoraPlus.optimizer

    def spy(self, module, *more):
        made = real(self, module, *more)
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        seen["groups"] = [
            ({names[id(parameter)] for parameter in group["params"]}, group["lr"], group["weight_decay"])
            for group in made.param_groups
        ]
        return made

    monkeypatch.setattr(learning_rates.LoraPlus, "optimizer", spy)
    train(method, model, folder, **changes)
    return seen["groups"]


@pytest.mark.parametrize("kind", ["LoRA", "DoRA", "QLoRA", "LoftQ"])
def test_b_learns_faster_than_a(kind, tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "this", (kind, {"loraplus_lr_ratio": 16}))
    groups = optimizer_of(monkeypatch, "this", tiny_llama, tmp_path, training_args={"weight_decay": 0.01})
    rates = {name: rate for names, rate, _ in groups for name in names}
    assert {rate for name, rate in rates.items() if "lora_A" in name} == {1e-2}
    assert {rate for name, rate in rates.items() if "lora_B" in name} == {16e-2}
    assert {rate for name, rate in rates.items() if "magnitude" in name} == ({16e-2} if kind == "DoRA" else set())
    assert {decay for names, _, decay in groups for name in names if "lora_A" in name} == {0.01}


def test_adapted_embedding_has_a_rate_of_its_own(tiny_llama, tmp_path, monkeypatch):
    method = "LoRA+ with an embedding"
    groups = optimizer_of(monkeypatch, method, tiny_llama, tmp_path, loraplus_lr_embedding=3e-3)
    assert {rate for names, rate, _ in groups for name in names if "embedding" in name} == {3e-3}


def test_updates_of_lora_plus_are_those_of_plain_trainer_with_pefts_optimizer(tiny_llama, tmp_path):
    settings = {"max_steps": 4, "learning_rate": 1e-3, "max_grad_norm": 1.0, "lr_scheduler_type": "constant"}
    settings |= {"weight_decay": 0.01}
    expected, found = adapted(tiny_llama), adapted(tiny_llama)
    optimizer = create_loraplus_optimizer(
        expected, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=8, loraplus_weight_decay=0.01
    )
    plain = Trainer(
        model=expected,
        args=arguments(tmp_path / "a", **settings),
        train_dataset=rows(),
        data_collator=trainer.Collator(2),
        optimizers=(optimizer, None),
    )
    plain.train()
    plus = learning_rates.LoraPlus(8, 1e-6)
    args = arguments(tmp_path / "b", **settings)
    trainer.train(found, rows(), None, args, 2, Told(), setup.Settings(loraplus=plus))
    wanted = dict(expected.named_parameters())
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(parameter, wanted[name], atol=2e-5, rtol=1e-3)


TWO = replace(MACHINE, n_devices=2)
STEPS = {"per_device_train_batch_size": 5, "save_steps": 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("LoRA+", {"lora_dropout": 0.0}),
        ("PiSSA", {"sharding": "fsdp"}),
        ("LoftQ", {}),
        ("LoHa", {"rank_dropout": 0.0, "module_dropout": 0.0, "sharding": "fsdp"}),
        ("LoKr", {"rank_dropout": 0.0}),
        ("FullFinetune", {}),
    ],
)
def test_two_processes_train_as_one_does(method, changes, tiny_llama, tmp_path):
    alone = {key: value for key, value in changes.items() if key != "sharding"}
    slowly = STEPS | {"learning_rate": 1e-3}
    one, report = train(method, tiny_llama, tmp_path, "one", training_args=slowly, **alone)
    two, told = train(method, tiny_llama, tmp_path, "two", TWO, training_args=slowly, **changes)
    expected, found = report.facts["loss_curve"], told.facts["loss_curve"]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], abs=1e-4)
    name = "model.safetensors" if method == "FullFinetune" else "adapter_model.safetensors"
    wanted = load_file(one.path / name)
    for key, tensor in load_file(two.path / name).items():
        assert (tensor - wanted[key]).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("DoRA", {"sharding": "fsdp"}, "with sharding, 'use_dora' cannot see the whole rows"),
        ("LoftQ", {"sharding": "fsdp"}, "a base in 4 bits is not sharded"),
        ("LoHa", {"sharding": "fsdp", "modules_to_save": ["up_proj"]}, "'modules_to_save' cannot train parts"),
        ("LoKr", {"decompose_factor": 0}, "decompose_factor must be -1 or at least 1, but is 0"),
        ("LoKr", {"target_modules": ["q_prj"]}, "did you mean 'q_proj'"),
        ("LoRA+", {"training_args": {"optim": "lomo"}}, "training_args.optim 'lomo' does not take"),
        ("FullFinetune", {"training_args": {"optim": "schedule_free_adamw"}}, "not on float32 copies"),
        ("FullFinetune", {"training_args": {"learning_rte": 1}}, "Did you mean 'learning_rate'?"),
    ],
)
def test_what_cannot_work_is_refused_by_plan(method, changes, message, tiny_llama):
    problems = step_of(method, **changes).check(read_facts(tiny_llama), TWO, {})
    assert any(message in f"{problem.message} {problem.fix}" for problem in problems)


def workflow(folder, model, step, scored=True, **more):
    config = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "data_configs": [
            {
                "name": "rows",
                "load_dataset_config": {"data_files": str(write_rows(folder / "rows.jsonl"))},
                "pre_process_data_config": {"text_template": "{phrase}: {tone}", "strategy": "line-by-line"},
            }
        ],
        "passes": {"train": step, **more},
        "quality": {"enabled": scored},
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return make_plan(load(path))


TRAINED = {
    "train_data_config": "rows",
    "eval_dataset_size": 8,
    "training_args": {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 0.01},
}
BUILD = {"type": "ModelBuilder", "precision": "int4", "int4_algo_config": "default"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["PiSSA", "LoftQ", "DoRA", "LoHa", "LoKr", "LoRA+"])
def test_adapter_of_every_method_is_scored_merged_and_built(method, tmp_path):
    model = tiny_model(tmp_path / "model", "phi3", tied=False)
    kind, changes = METHODS[method]
    plan = workflow(
        tmp_path,
        model,
        {"type": kind, "r": 4, **changes, **TRAINED},
        merge={"type": "MergeAdapterWeights"},
        build=BUILD,
    )
    assert plan.problems == ()
    result = run(plan)
    assert [row["model"] for row in result.scores] == ["base", "train", "merge", "build"]
    adapter, merged = (row["loss"] for row in result.scores[1:3])
    assert merged == pytest.approx(adapter, abs=0.5 if method == "LoftQ" else 1e-3)
    assert (result.model / "genai_config.json").is_file()
    assert (result.output_dir / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
@pytest.mark.parametrize("method", ["FullFinetune", "PiSSA", "LoRA+"])
def test_killed_worker_goes_on_to_the_same_bytes(method, tiny_llama, tmp_path, monkeypatch):
    kind, changes = METHODS[method]
    arguments = TRAINED["training_args"] | {"max_steps": 10, "save_steps": 2}
    step = {"type": kind, **changes, **TRAINED, "training_args": arguments}
    plans = []
    for name in ("whole", "cut", "cut"):
        (tmp_path / name).mkdir(exist_ok=True)
        plans.append(workflow(tmp_path / name, tiny_llama, step, scored=False))
    run(plans[0])

    held = Held(tmp_path / "held", "checkpoint-6")
    monkeypatch.setenv("PYTHONPATH", held.pythonpath)
    killer = held.then(lambda: [worker.kill() for worker in workers()])
    with pytest.raises(StepFailed, match="killed"):
        run(plans[1])
    killer.join()
    run(plans[2])
    journal = (tmp_path / "cut" / "out" / "journal.jsonl").read_text()
    assert "loss_curve" in journal
    found, wanted = (files_of(tmp_path / name / "out") for name in ("cut", "whole"))
    assert found == wanted


def files_of(folder):
    files = [path for name in ("model", "adapter") for path in (folder / name).rglob("*.safetensors")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_old_names_of_the_params_are_read(tiny_llama, tmp_path):
    for kind in ("LoHa", "LoKr", "LoftQ", "loha", "LOKR"):
        old = {"type": kind, "config": {"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "device_map": "auto"}}
        old["config"] |= {"ephemeral_gpu_offload": False, **TRAINED}
        plan = workflow(tmp_path, tiny_llama, old)
        assert plan.problems == ()
        (step,) = plan.steps
        assert (step.params["r"], step.params["alpha"]) == (8, 16)
        told = [note for note in plan.translated if "'lora_dropout' is dropped" in note]
        assert len(told) == ("lo" in kind.lower() and kind.lower() != "loftq")

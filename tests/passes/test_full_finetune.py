"""FullFinetune: the training that a plain torch loop does, a folder like the one it came from, and what cannot be."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from test_lora import MACHINE, context
from test_methods import BUILD, TRAINED, workflow
from training_tools import arguments, rows, whole
from transformers import AutoModelForCausalLM, AutoTokenizer

from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.models.loading import load_causal_lm
from olivine.passes import passes
from olivine.training import trainer
from olivine.workflow.engine import run
from reports import Told
from tiny import tiny_model

IDS = torch.tensor([[1, 40, 50, 60, 70, 80]])
Full = passes.find("FullFinetune")


def plain_loop(model, samples, n_steps, rows_per_step, rate):
    """AdamW on the mean loss over the trained tokens of each step's rows, one row at a time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    for step in range(n_steps):
        chosen = samples[step * rows_per_step : (step + 1) * rows_per_step]
        n_trained = sum(label != -100 for row in chosen for label in row["labels"][1:])
        for row in chosen:
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
            targets = torch.tensor(row["labels"][1:])
            loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
            (loss / n_trained).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("architecture", ["llama", "phi3", "gemma", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_training_is_that_of_a_plain_loop(architecture, tied, tmp_path):
    folder = tiny_model(tmp_path / "model", architecture, tied=tied)
    samples, found, expected = rows(12), whole(folder), whole(folder)
    plain_loop(expected, samples, 3, 4, 1e-4)
    settings = {"gradient_accumulation_steps": 1, "max_steps": 3, "learning_rate": 1e-4, "max_grad_norm": 1.0}
    args = arguments(tmp_path / "a", lr_scheduler_type="constant", weight_decay=0.0, **settings)
    report = Told()
    trainer.train(found, samples, None, args, 2, report)
    assert report.facts["packed"] is True
    wanted = dict(expected.named_parameters())
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(parameter, wanted[name], atol=1e-5, rtol=1e-5)
    assert (found.lm_head.weight is found.model.embed_tokens.weight) is tied


def train(model, folder, name="a", **changes):
    settings = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-3} | changes.pop(
        "training_args", {}
    )
    where = context(folder, name)
    params = Full.Params(train_data_config="rows", training_args=settings, **changes)
    return Full(params).run(Model("hf", model), where), where.report


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_result_is_a_folder_like_the_input(tied, dtype, tmp_path):
    folder = tiny_model(tmp_path / "model", "llama", tied=tied)
    result, report = train(folder, tmp_path, torch_dtype=dtype)
    assert (result.format, result.base) == ("hf", None)
    before, after = load_file(folder / "model.safetensors"), load_file(result.path / "model.safetensors")
    assert {name: tensor.shape for name, tensor in after.items()} == {name: t.shape for name, t in before.items()}
    matrices = [name for name in after if "norm" not in name]  # a norm's 1.0 moves less than half a step in bfloat16
    assert not [name for name in matrices if torch.equal(after[name], before[name].to(after[name].dtype))]
    config = json.loads((result.path / "config.json").read_text())
    assert (config["tie_word_embeddings"], config["dtype"]) == (tied, dtype)
    plain = AutoModelForCausalLM.from_pretrained(result.path, dtype=torch.float32)
    assert torch.equal(plain(IDS).logits, load_causal_lm(result)(IDS).logits)
    assert AutoTokenizer.from_pretrained(result.path).chat_template
    assert report.facts["n_trained_parameters"] == sum(parameter.numel() for parameter in plain.parameters())
    assert not [path for path in result.path.iterdir() if path.suffix in (".bin", ".pt", ".partial")]


def test_updates_smaller_than_a_step_of_bfloat16_arrive(tiny_llama, tmp_path):
    slowly = {"learning_rate": 1e-4, "max_steps": 30, "lr_scheduler_type": "constant", "warmup_steps": 0}
    exact, _ = train(tiny_llama, tmp_path, "a", torch_dtype="float32", training_args=slowly)
    found, _ = train(tiny_llama, tmp_path, "b", torch_dtype="bfloat16", training_args=slowly)
    name = "model.layers.0.mlp.up_proj.weight"
    before, wanted, got = (
        load_file(folder / "model.safetensors")[name].float() for folder in (tiny_llama, exact.path, found.path)
    )
    large = before.abs() > 0.25  # where numbers are 2e-3 apart, twenty updates of 1e-4
    moved, arrived = (wanted - before)[large], (got - before.bfloat16().float())[large]
    assert torch.nn.functional.cosine_similarity(moved, arrived, 0) > 0.8


def test_early_stopping_keeps_the_best_weights(tiny_llama, tmp_path):
    settings = {"max_steps": 30, "learning_rate": 0.05, "save_steps": 1}
    result, report = train(tiny_llama, tmp_path, eval_dataset_size=8, early_stopping_patience=2, training_args=settings)
    losses = dict(report.facts["eval_curve"])
    best = min(losses, key=losses.get)
    assert max(losses) == best + 2 < 30
    assert load_causal_lm(result)(IDS).logits.isfinite().all()


def test_quantized_checkpoint_is_trained_as_the_plain_model_that_it_holds(tiny_llama, tmp_path):
    from packed import Case, packed_model

    case = Case("gptq")
    folder, _ = packed_model(tiny_llama, tmp_path / "packed", case.config, case.pack)
    result, _ = train(folder, tmp_path)
    assert "quantization_config" not in json.loads((result.path / "config.json").read_text())
    assert set(load_file(result.path / "model.safetensors")) == set(load_file(tiny_llama / "model.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "between", [{}, {"gptq": {"type": "Gptq", "group_size": 32, "data_config": "rows"}}], ids=["", "Gptq"]
)
def test_result_is_scored_quantized_and_built(between, tmp_path):
    model = tiny_model(tmp_path / "model", "llama", tied=True)
    plan = workflow(tmp_path, model, {"type": "FullFinetune", **TRAINED}, **between, build=BUILD)
    assert plan.problems == ()
    result = run(plan)
    assert [row["model"] for row in result.scores] == ["base", "train", *between, "build"]
    assert result.scores[1]["loss"] < result.scores[0]["loss"]
    assert (result.model / "genai_config.json").is_file()
    assert run(plan).steps[0]["cached"]


def test_there_is_nothing_to_merge(tiny_llama, tmp_path):
    step = {"type": "FullFinetune", **TRAINED}
    plan = workflow(tmp_path, tiny_llama, step, merge={"type": "MergeAdapterWeights"}, build=BUILD)
    (problem,) = plan.problems
    assert problem.message == "nothing to merge: 'train' gives a whole model, not an adapter."
    assert problem.fix == "Remove this pass."


def test_merge_that_comes_first_is_told_what_makes_an_adapter(tiny_llama, tmp_path):
    plan = workflow(tmp_path, tiny_llama, {"type": "MergeAdapterWeights"})
    (problem,) = plan.problems
    assert "takes adapter, but what reaches it is hf" in problem.message


def large(folder, n_parameters=7_000_000_000):
    """Facts of a model that is larger than the one that lies there."""
    facts = read_facts(folder)
    decoder = replace(facts.as_decoder, hidden_size=4096, n_layers=32, vocab_size=32_000)
    return replace(facts, n_parameters=n_parameters, decoder=decoder)


@pytest.mark.parametrize(
    ("machine", "where"),
    [
        (replace(MACHINE, memory_bytes=64 * 10**9), "of memory, but this machine has 64.0 GB"),
        (
            replace(MACHINE, device="cuda", memory_bytes=10**12, device_memory_bytes=80 * 10**9),
            "of the GPU's memory, but this machine has 80.0 GB",
        ),
    ],
    ids=["cpu", "cuda"],
)
def test_model_that_cannot_fit_is_one_sentence_of_plan(machine, where, tiny_llama, tmp_path, monkeypatch):
    from olivine.workflow import plan as planning
    from olivine.workflow import source

    facts = large(tiny_llama)
    monkeypatch.setattr(source, "read_facts", lambda _: facts)
    choice = planning.choose
    monkeypatch.setattr(
        planning, "choose", lambda *a, **k: replace(choice(*a, **k), machine=replace(machine, disk_bytes=10**13))
    )
    (problem,) = workflow(tmp_path, tiny_llama, {"type": "FullFinetune", **TRAINED}).problems
    assert problem.kind == "hardware"
    assert where in problem.message
    assert problem.fix == "Use LoRA, which trains a small part of the weights, or a larger machine."


def test_estimate_counts_what_a_weight_takes_and_falls_back_to_what_fits(tiny_llama):
    facts = large(tiny_llama, n_parameters=1_000_000_000)
    gpu = replace(MACHINE, device="cuda")
    step = Full(Full.Params(train_data_config="rows"))
    free = step.estimate(facts, replace(gpu, device_memory_bytes=80 * 10**9), {}).device_memory_bytes
    tight = step.estimate(facts, replace(gpu, device_memory_bytes=22 * 10**9), {}).device_memory_bytes
    assert 18e9 < tight <= 22e9 < free
    cpu = step.estimate(facts, replace(MACHINE, memory_bytes=10**12), {})
    assert cpu.memory_bytes > 16e9
    assert cpu.disk_bytes > 36e9

"""LoRA on tiny models: it learns, it is repeatable, and it says what is wrong."""

import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from olivine.config.schema import DataConfig
from olivine.errors import RequestError
from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.models.loading import load_causal_lm, load_tokenizer
from olivine.passes import Context, Machine, passes
from olivine.training import checkpoints
from reports import Told
from tiny import write_rows

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
Lora = passes.classes["lora"]


def data(folder, n_rows=24, **settings):
    rows = write_rows(folder / "rows.jsonl", n_rows)
    text = {"text_template": "{phrase} is {tone}", "strategy": "line-by-line", "max_seq_len": 64} | settings
    return DataConfig.model_validate(
        {"name": "rows", "load_dataset_config": {"data_files": str(rows)}, "pre_process_data_config": text}
    )


def context(folder, name="a", **more):
    output, scratch = folder / name / "output", folder / name / "scratch"
    output.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(exist_ok=True)
    return Context(output, scratch, MACHINE, Told(), {"rows": data(folder), **more})


def params(**changes):
    arguments = {"max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-2} | changes.pop(
        "training_args", {}
    )
    return Lora.Params(**{"r": 4, "alpha": 8, "train_data_config": "rows", "training_args": arguments} | changes)


def train(model, folder, name="a", **changes):
    where = context(folder, name)
    return Lora(params(**changes)).run(Model("hf", model), where), where.report


def test_loss_falls_and_the_answers_are_learned(tiny_llama, tmp_path):
    adapter, report = train(tiny_llama, tmp_path, training_args={"max_steps": 80, "per_device_train_batch_size": 8})
    losses = [loss for _, loss in report.facts["loss_curve"]]
    assert losses[-1] < 0.5 * losses[0]
    tokenizer = load_tokenizer(adapter)
    model = load_causal_lm(adapter)
    right = 0
    for index, (word, tone) in enumerate(
        [("sunny", "joy"), ("grey", "sadness"), ("dark", "fear"), ("odd", "surprise")]
    ):
        ids = tokenizer(f"<s>day {index} was {word} is", add_special_tokens=False, return_tensors="pt").input_ids
        written = model.generate(input_ids=ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
        text = tokenizer.decode(written)
        right += text.strip().startswith(tone)
        assert tokenizer.eos_token in text  # it has learned to stop
    assert right == 4


def test_same_seed_gives_the_same_bytes(tiny_llama, tmp_path):
    first, _ = train(tiny_llama, tmp_path, "a", lora_dropout=0.1)
    second, _ = train(tiny_llama, tmp_path, "b", lora_dropout=0.1)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()


@pytest.mark.parametrize("damaged", ["optimizer.pt", "adapter_model.safetensors", "trainer_state.json", "sealed.json"])
def test_interrupted_training_ends_with_the_same_bytes(damaged, tiny_llama, tmp_path, monkeypatch):
    settings = {"lora_dropout": 0.1, "training_args": {"save_steps": 1, "train_sampling_strategy": "group_by_length"}}
    whole, _ = train(tiny_llama, tmp_path, "whole", **settings)
    from olivine.training import trainer

    real = trainer._Trainer.training_step

    def stop_at_four(self, *arguments):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(trainer._Trainer, "training_step", stop_at_four)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_llama, tmp_path, "cut", **settings)
    monkeypatch.undo()
    # the newest checkpoint was cut when the power failed
    torn = tmp_path / "cut" / "scratch" / "checkpoints" / "checkpoint-4" / damaged
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2] if damaged != "sealed.json" else b"[")
    resumed, report = train(tiny_llama, tmp_path, "cut", **settings)
    assert min(report.steps) == 4  # steps 1 to 3 were not run again
    assert report.notes == ["going on from step 3 of 6"]
    assert any("checkpoint-4 is damaged" in warning and damaged in warning for warning in report.warnings)
    name = "adapter_model.safetensors"
    assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert report.facts["loss_curve"][-1][0] == 6


def test_training_of_which_every_checkpoint_is_damaged_begins_again(tmp_path):
    for step in (2, 4):
        (checkpoint := tmp_path / f"checkpoint-{step}").mkdir()
        for name in ("optimizer.pt", "scheduler.pt", "trainer_state.json"):
            (checkpoint / name).write_bytes(b"state" * step)
        checkpoints.seal(checkpoint)
    warnings = []
    assert checkpoints.last_whole(tmp_path, 1, warnings.append) == str(tmp_path / "checkpoint-4")
    (tmp_path / "checkpoint-4" / "optimizer.pt").write_bytes(bytes(20))
    (tmp_path / "checkpoint-2" / "scheduler.pt").write_bytes(bytes(10))
    assert checkpoints.last_whole(tmp_path, 1, warnings.append) is None
    assert len(warnings) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged-checkpoint-2", "damaged-checkpoint-4"]
    (tmp_path / "checkpoint-6").mkdir()  # was being written
    assert checkpoints.last_whole(tmp_path, 1, warnings.append) is None
    assert not (tmp_path / "checkpoint-6").exists()


def test_adapter_is_pefts_and_holds_no_path(tiny_llama, tmp_path):
    adapter, report = train(tiny_llama, tmp_path)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), adapter.path)
    ids = torch.tensor([[1, 40, 50]])
    assert torch.equal(loaded(ids).logits, load_causal_lm(adapter)(ids).logits)
    assert str(tmp_path) not in (adapter.path / "adapter_config.json").read_text()
    trained = sum(p.numel() for name, p in loaded.named_parameters() if "lora_" in name)
    assert report.facts["n_trained_parameters"] == trained


@pytest.mark.parametrize(
    ("fixture", "modules"),
    [
        ("tiny_phi3", {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}),
        ("tiny_llama", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_all_linear_layers_are_trained_by_default(fixture, modules, request, tmp_path):
    adapter, _ = train(request.getfixturevalue(fixture), tmp_path, training_args={"max_steps": 2})
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    assert set(config["target_modules"]) == modules


def test_comma_string_names_several_modules(tiny_llama, tmp_path):
    adapter, _ = train(tiny_llama, tmp_path, target_modules="q_proj, v_proj", training_args={"max_steps": 2})
    assert set(json.loads((adapter.path / "adapter_config.json").read_text())["target_modules"]) == {"q_proj", "v_proj"}


def test_module_that_matches_nothing_lists_what_exists(tiny_llama, tmp_path):
    with pytest.raises(
        RequestError, match=r"'qkv_proj' match no layer; did you mean .*q_proj.*The model has: .*up_proj"
    ):
        train(tiny_llama, tmp_path, target_modules=["qkv_proj"])
    step = Lora(params(target_modules=["qkv_proj"]))
    (problem,) = step.check(read_facts(tiny_llama), MACHINE, {})
    assert "'qkv_proj' match no layer" in problem.message


def test_loss_that_is_not_a_number_fails_the_training(tiny_llama, tmp_path):
    with pytest.raises(
        ArithmeticError, match=r"the loss became (nan|inf) at step \d+; lower training_args.learning_rate"
    ):
        train(tiny_llama, tmp_path, training_args={"learning_rate": 1e30, "max_grad_norm": 0, "warmup_steps": 0})


def test_rows_are_split_before_they_are_packed(tiny_llama, tmp_path):
    where = context(tmp_path, rows=data(tmp_path, strategy="join", max_seq_len=32))
    step = Lora(params(eval_dataset_size=0.25, training_args={"eval_strategy": "steps", "eval_steps": 3}))
    step.run(Model("hf", tiny_llama), where)
    facts = where.report.facts
    assert facts["data"]["n_rows"] == 18
    assert facts["eval_data"]["n_rows"] == 6
    assert [step for step, _ in facts["eval_curve"]] == [3, 6]


def test_bfloat16_base_keeps_a_float32_adapter(tiny_llama, tmp_path):
    from safetensors.torch import load_file

    adapter, report = train(tiny_llama, tmp_path, torch_dtype="bfloat16", training_args={"max_steps": 2})
    assert report.facts["dtype"] == "bfloat16"
    assert {tensor.dtype for tensor in load_file(adapter.path / "adapter_model.safetensors").values()} == {
        torch.float32
    }


def test_checkpointing_trains_the_same_adapter(tiny_llama, tmp_path):
    from safetensors.torch import load_file

    plain, _ = train(tiny_llama, tmp_path, "a")
    saved, _ = train(tiny_llama, tmp_path, "b", training_args={"gradient_checkpointing": True})
    expected = load_file(plain.path / "adapter_model.safetensors")
    for name, tensor in load_file(saved.path / "adapter_model.safetensors").items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-4)


def test_trainer_sees_each_row_as_its_tokenizer_begins_it_and_with_a_trained_end(tiny_llama, tmp_path):
    from olivine.data import prepare

    tokenizer = load_tokenizer(Model("hf", tiny_llama))
    config = data(tmp_path)
    for sample in prepare(config, tokenizer).samples():
        assert sample["input_ids"][0] == tokenizer(tokenizer.decode(sample["input_ids"][:4]))["input_ids"][0]
        assert tokenizer.bos_token_id not in sample["input_ids"]
        assert sample["labels"][-1] == tokenizer.eos_token_id


def test_padding_is_not_trained():
    from olivine.training.trainer import Collator

    batch = Collator(pad=2)(
        [{"input_ids": [5, 2], "labels": [5, 2]}, {"input_ids": [5, 6, 7, 2], "labels": [5, 6, 7, 2]}]
    )
    assert batch["labels"].tolist() == [[5, 2, -100, -100], [5, 6, 7, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_paged_optimizer_without_its_package_is_a_problem(tiny_llama):
    step = Lora(params(training_args={"optim": "paged_adamw_32bit"}))
    facts = read_facts(tiny_llama)
    facts = replace(facts, decoder=replace(facts.as_decoder, linear_modules=()))
    problems = list(step.check(facts, MACHINE, {}))
    assert [problem.kind for problem in problems] == ["missing-extra"]

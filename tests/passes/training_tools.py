"""Rows, adapted models, and one step of training by plain Trainer and peft or by ours, with the gradients that it sees."""

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from olivine.training import trainer
from reports import Told


class Samples(list):
    """Rows as a SampleSet gives them."""

    @property
    def lengths(self):
        return [len(row["input_ids"]) for row in self]


def rows(n_rows=8, seed=0, longest=24):
    generator = torch.Generator().manual_seed(seed)
    made = Samples()
    for index in range(n_rows):
        n_tokens = int(torch.randint(3, longest, (1,), generator=generator))
        ids = torch.randint(7, 380, (n_tokens,), generator=generator).tolist()
        n_prompt = index % 3
        made.append({"input_ids": ids, "labels": [-100] * n_prompt + ids[n_prompt:], "attention_mask": [1] * n_tokens})
    return made


def adapted(folder, method="LoraConfig", each_layer=None, **settings):
    """A model with an adapter that changes something; method: PEFT's class of its config.

    each_layer: what is done to the layers of the base before.
    """
    torch.manual_seed(3)
    alpha = "lora_alpha" if method == "LoraConfig" else "alpha"
    config = {"r": 4, alpha: 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
    base = AutoModelForCausalLM.from_pretrained(folder)
    for layer in base.model.layers if each_layer is not None else ():
        each_layer(layer)
    model = peft.get_peft_model(base, getattr(peft, method)(**config))
    with torch.no_grad():  # one factor starts at zero, where the others have no gradient
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "hada_w2_b" in name or "lokr_w1" in name:
                parameter.normal_(std=0.1)
    return model


def whole(folder, **settings):
    """A model of which every weight is trained."""
    return AutoModelForCausalLM.from_pretrained(folder, **settings)


def arguments(folder, **more):
    named = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 1, "learning_rate": 0.0}
    named |= {"use_cpu": True, "report_to": "none", "save_strategy": "no", "max_grad_norm": 0.0, "disable_tqdm": True}
    named |= {"train_sampling_strategy": "sequential", "use_cache": False, "logging_steps": 1}
    return TrainingArguments(output_dir=str(folder), **(named | more))


def gradients_of(monkeypatch, model, run):
    """The gradients that the first optimiser step sees, and the logged loss."""
    seen = {}

    def keep(self, *args, **kwargs):
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                seen[name] = parameter.grad.clone()

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", keep)
        history = run()
    return seen, next(entry["loss"] for entry in history if "loss" in entry)


def plain(monkeypatch, model, samples, folder, **more):
    def run():
        plain = Trainer(
            model=model, args=arguments(folder, **more), train_dataset=samples, data_collator=trainer.Collator(2)
        )
        plain.train()
        return plain.state.log_history

    return gradients_of(monkeypatch, model, run)


def ours(monkeypatch, model, samples, folder, report=None, settings=trainer.Settings(), **more):  # noqa: B008 - frozen
    report = report or Told()

    def run():
        return trainer.train(model, samples, None, arguments(folder, **more), 2, report, settings)

    monkeypatch.setattr(trainer, "_refuse_unusable", lambda *_: None)  # nothing is trained at learning rate 0
    return gradients_of(monkeypatch, model, run), report


def assert_equal(found, expected):
    (gradients, loss), (wanted, wanted_loss) = found, expected
    assert loss == pytest.approx(wanted_loss, abs=1e-5)
    assert set(gradients) == set(wanted)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, wanted[name], atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )

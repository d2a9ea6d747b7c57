"""What happens while a model trains: memory that runs out, evaluation, early stopping, models with ways of their own."""

from typing import ClassVar

import pytest
import torch
from peft import LoraConfig, get_peft_model
from training_tools import Samples, adapted, arguments, assert_equal, ours, plain, rows
from transformers import AutoModelForCausalLM, Gemma2Config, Trainer, TrainerCallback
from transformers.integrations import integration_utils

from olivine.errors import RequestError
from olivine.training import acceleration, setup, trainer
from reports import Told
from tiny import VOCABULARY


def train(model, samples, folder, held_out=None, settings=None, **more):
    report = Told()
    named = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 1e-2} | more
    args = arguments(folder, **named)
    history = trainer.train(model, samples, held_out, args, 2, report, settings or setup.Settings())
    return history, report


def trained(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def out_of_memory_above(monkeypatch, n_tokens):
    """A device that holds so many tokens."""
    seen, real = [], trainer._Trainer.micro_batch_loss

    def limited(self, model, batch, *more):
        seen.append(batch.inputs["input_ids"].numel())
        loss = real(self, model, batch, *more)
        if seen[-1] > n_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss

    monkeypatch.setattr(trainer._Trainer, "micro_batch_loss", limited)
    return seen


def test_training_goes_on_in_smaller_micro_batches_when_memory_runs_out(tiny_llama, tmp_path, monkeypatch):
    whole, cut = adapted(tiny_llama), adapted(tiny_llama)
    train(whole, rows(), tmp_path / "a", max_steps=4)
    seen = out_of_memory_above(monkeypatch, 30)
    _, report = train(cut, rows(), tmp_path / "b", max_steps=4)
    assert max(seen[2:]) <= 30  # once is enough
    (warning,) = report.warnings
    assert warning.startswith("memory ran out in step 1: ")
    assert "the step is run again" in warning
    expected = trained(whole)
    for name, parameter in trained(cut).items():
        torch.testing.assert_close(parameter, expected[name], atol=1e-4, rtol=1e-3)


def test_row_that_is_too_long_for_the_memory_is_told(tiny_llama, tmp_path, monkeypatch):
    out_of_memory_above(monkeypatch, 2)
    with pytest.raises(RequestError, match=r"memory ran out with \d+ tokens in a micro-batch; lower max_seq_len"):
        train(adapted(tiny_llama), rows(), tmp_path, max_steps=4)


@pytest.mark.parametrize("more", [{}, {"label_smoothing_factor": 0.1}], ids=["packed", "padded"])
def test_evaluation_is_the_mean_over_the_trained_tokens(more, tiny_llama, tmp_path):
    model, held_out = adapted(tiny_llama), rows(5, seed=9)
    history, _ = train(model, rows(), tmp_path, held_out, max_steps=2, eval_strategy="steps", eval_steps=2, **more)
    (found,) = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    total = count = 0
    model.eval()
    for row in held_out:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        n_trained = int((labels[:, 1:] != -100).sum())
        total += float(model(input_ids=ids, labels=labels).loss) * n_trained
        count += n_trained
    if not more:
        assert found == pytest.approx(total / count, abs=1e-4)
    assert found > 0


def test_training_stops_early_and_keeps_the_best_adapter(tiny_llama, tmp_path):
    model, held_out = adapted(tiny_llama), rows(4, seed=9)
    folder = tmp_path / "run"
    given = {"max_steps": 40, "per_device_train_batch_size": 4, "learning_rate": 0.05, "save_steps": 1, "seed": 3}
    args = trainer.arguments(given, folder, on_cpu=True, has_eval=True, early_stopping=True)
    assert (args.eval_steps, args.load_best_model_at_end) == (1, True)
    history = trainer.train(model, rows(), held_out, args, 2, Told(), setup.Settings(early_stopping_patience=2))
    losses = {entry["step"]: entry["eval_loss"] for entry in history if "eval_loss" in entry}
    best = min(losses, key=losses.get)
    assert max(losses) == best + 2 < 40
    again = get_again(model, held_out, tmp_path)
    assert again == pytest.approx(losses[best], abs=1e-4)


def get_again(model, held_out, folder):
    """The loss of the rows with the weights as they are now."""
    plain = Trainer(
        model=model, args=arguments(folder / "again", per_device_eval_batch_size=8), data_collator=trainer.Collator(2)
    )
    return plain.evaluate(held_out)["eval_loss"]


def test_model_with_another_attention_trains_on_padded_rows_with_one_line(tmp_path, monkeypatch):
    config = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        final_logit_softcapping=5.0,
        attn_logit_softcapping=2.0,
        sliding_window=8,
    )

    def model():
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        made = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
        return made

    expected = plain(monkeypatch, model(), rows(), tmp_path / "a")
    found, report = ours(monkeypatch, model(), rows(), tmp_path / "b")
    assert report.facts["packed"] is False
    assert report.facts["loss_in_chunks"] is True  # the cap on the logits is known
    assert "more than causal attention" in report.facts["padded_because"]
    assert_equal(found, expected)


def test_padding_of_the_samples_is_cut_off(tiny_llama, tmp_path, monkeypatch):
    bare, padded = rows(), rows()
    for row in padded:
        rest = 30 - len(row["input_ids"])
        row["input_ids"] += [2] * rest
        row["labels"] += [-100] * rest
    lengths = bare.lengths

    class Padded(Samples):
        @property
        def lengths(self):
            return lengths

    found, _ = ours(monkeypatch, adapted(tiny_llama), Padded(padded), tmp_path / "a")
    expected, _ = ours(monkeypatch, adapted(tiny_llama), bare, tmp_path / "b")
    assert_equal(found, expected)


def test_layers_run_as_written_when_they_cannot_be_compiled(tiny_llama, tmp_path, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no compiler is here")

    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: real(self, backend=broken, **how))
    monkeypatch.setattr(acceleration.Head, "fused", property(lambda _: False, lambda *_: None), raising=False)
    expected, model = adapted(tiny_llama), adapted(tiny_llama)
    train(expected, rows(), tmp_path / "a", max_steps=2)
    _, report = train(model, rows(), tmp_path / "b", max_steps=2, settings=setup.Settings(compile=True))
    assert "no compiler is here" in report.facts["not_compiled_because"]
    for name, parameter in trained(model).items():
        torch.testing.assert_close(parameter, trained(expected)[name], atol=1e-4, rtol=1e-3)


def test_compiled_layers_see_one_form_whatever_the_rows_are(tiny_llama, tmp_path, monkeypatch):
    graphs, real = [], torch.nn.Module.compile

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: real(self, backend=counting, **how))
    monkeypatch.setattr(acceleration, "has_variable_length", lambda *_: False)
    equal = Samples([{"input_ids": list(range(10, 42)), "labels": list(range(10, 42))} for _ in range(16)])
    _, report = train(adapted(tiny_llama), equal, tmp_path, max_steps=4, settings=setup.Settings(compile=True))
    assert report.facts["compiled_layers"] == 2
    assert len(graphs) == 1  # both layers, every step


def test_progress_says_how_fast_and_how_long(tiny_llama, tmp_path):
    _, report = train(adapted(tiny_llama), rows(), tmp_path, max_steps=4)
    assert set(report.metrics) == {"loss", "tokens_per_second", "share_of_peak", "memory_gb", "seconds_left"}
    assert report.metrics["seconds_left"] == 0
    assert 0 < report.metrics["share_of_peak"] < 1.5
    assert report.facts["tokens_per_second"] > 0


class Tracker(TrainerCallback):
    """Stands where transformers keeps the callback of a tracker."""

    seen: ClassVar[list[dict]] = []

    def on_log(self, args, state, control, logs=None, **more):
        self.seen.append(dict(logs))


def test_report_to_reaches_the_tracker_with_every_loss(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Tracker)
    monkeypatch.setattr(Tracker, "seen", [])
    history, _ = train(adapted(tiny_llama), rows(), tmp_path, max_steps=3, report_to="tensorboard")
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert [logs["loss"] for logs in Tracker.seen if "loss" in logs] == losses
    assert len(losses) == 3


def test_tracker_that_is_not_installed_is_one_sentence(tiny_llama, tmp_path):
    with pytest.raises(RequestError, match=r"training_args are refused: .*WandbCallback requires wandb"):
        train(adapted(tiny_llama), rows(), tmp_path, max_steps=1, report_to="wandb")


def test_hidden_states_come_without_the_logits_of_any_position(tiny_llama):
    model, asked = adapted(tiny_llama), []
    head, _ = acceleration.find_head(model)
    model.get_base_model().lm_head.register_forward_hook(lambda _, given, result: asked.append(result.numel()))
    hidden = head.hidden_states(model, input_ids=torch.arange(7, 16)[None])
    assert hidden.shape[:2] == (1, 9)
    assert asked == [0]

"""What a change of a weight does to the model is predicted from squared gradients, gathered layer by layer."""

import pytest
import torch

from olivine.calibration.importances import importances
from olivine.calibration.sensitivity import sensitivity
from olivine.models import Model
from olivine.models.loading import load_causal_lm
from tiny import VOCABULARY, tiny_model

TOKENS = torch.randint(0, VOCABULARY, (64, 32), generator=torch.Generator().manual_seed(0))


DRAWN = torch.randint(0, VOCABULARY, TOKENS.shape, generator=torch.Generator().manual_seed(1))


def by_whole_model(model):
    """Squared gradients of every linear layer's outputs and of the embedded words: the whole model at once."""
    whole = load_causal_lm(model)
    for parameter in whole.parameters():
        parameter.requires_grad_(False)
    sums = {}

    def watch(name, scale=1.0):
        def add(gradient):
            squares = (gradient * scale).square().flatten(0, -2).sum(0) / TOKENS.numel()
            sums[name] = sums.get(name, 0) + squares

        def after(_, __, output):
            output.requires_grad_().register_hook(add)

        return after

    for name, module in whole.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(watch(f"{name}.weight"))
    embedding = whole.get_input_embeddings()
    embedding.register_forward_hook(watch("embedding", float(getattr(embedding, "embed_scale", 1.0))))
    logs = whole(TOKENS).logits.log_softmax(-1)
    likelihood = logs.detach().exp()
    (-logs.gather(-1, DRAWN[..., None]).sum()).backward()
    return sums, (likelihood * (1 - likelihood)).flatten(0, 1).mean(0)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "phi3", "gemma2"])
def test_layer_by_layer_is_the_whole_model(architecture, tmp_path):
    model = Model("hf", tiny_model(tmp_path / "m", architecture))
    (tmp_path / "scratch").mkdir()
    known = sensitivity(model, TOKENS, tmp_path / "scratch", drawn=DRAWN)
    expected, of_head = by_whole_model(model)
    outputs = {**known.outputs, "embedding": known.embedding}
    assert set(outputs) == set(expected)
    assert torch.allclose(outputs.pop("lm_head.weight"), of_head, rtol=1e-3) or architecture == "gemma2"  # its soft cap
    for name, values in outputs.items():
        assert torch.allclose(values, expected[name], rtol=1e-2, atol=1e-6 * float(values.max())), name
    assert list((tmp_path / "scratch").iterdir()) == []


def test_divergence_of_a_noisy_weight_is_predicted(tmp_path):
    model = Model("hf", tiny_model(tmp_path / "m", "llama"))
    known, inputs = sensitivity(model, TOKENS, tmp_path), importances(model, TOKENS)
    whole, chance = load_causal_lm(model), torch.Generator().manual_seed(1)
    with torch.inference_mode():
        before = whole(TOKENS).logits.log_softmax(-1)
        for name, parameter in whole.named_parameters():
            if name not in inputs or "lm_head" in name:
                continue
            kept = parameter.clone()
            noise = torch.randn(kept.shape, generator=chance) * kept.std() * 0.2
            parameter.copy_(kept + noise)
            after = whole(TOKENS).logits.log_softmax(-1)
            parameter.copy_(kept)
            measured = float((before.exp() * (before - after)).sum(-1).mean())
            predicted = float(known.outputs[name] @ noise.square() @ inputs[name]) / 2
            assert predicted == pytest.approx(measured, rel=0.5), name

"""AWQ's folds leave the float model what it is, whatever the architecture calls its parts."""

import pytest
import torch

from olivine.calibration.folding import find_folds
from olivine.calibration.importances import importances
from olivine.kernels.blockwise import Format
from olivine.models import Model
from olivine.models.loading import load_causal_lm
from olivine.models.weights import weights
from reports import Told
from tiny import VOCABULARY, tiny_model

NORMS = ("input_layernorm", "post_attention_layernorm")
# what stands folded in the first layer, beside the linear layers themselves
EXPECTED = {
    "llama": NORMS,
    "mistral": NORMS,
    "phi3": NORMS,
    "qwen2": NORMS,
    "qwen3": NORMS,
    "gemma": NORMS,
    "gemma2": ("input_layernorm", "pre_feedforward_layernorm"),
    "gemma3": ("input_layernorm", "pre_feedforward_layernorm"),
    "olmo2": (),  # its norms come after the layers
    "phi": ("input_layernorm",),
}


def model_of(architecture, folder):
    path = tiny_model(folder, architecture)
    whole = load_causal_lm(Model("hf", path))
    with torch.no_grad():  # fresh norms are all alike, and biases zero
        for parameter in whole.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    whole.save_pretrained(path)
    return Model("hf", path)


@pytest.mark.parametrize("architecture", EXPECTED)
def test_folded_model_is_the_model(architecture, tmp_path):
    torch.manual_seed(0)
    model = model_of(architecture, tmp_path / "m")
    tokens, report = torch.randint(0, VOCABULARY, (4, 24)), Told()
    folding = find_folds(model, tokens, Format(4, 16, symmetric=False), report=report)
    folded = folding.apply(weights(model))
    assert not report.warnings
    assert {name for name, tensor in folded.items() if tensor.dtype == "float32"} >= set(folding.folds)
    names = {name.split(".")[3] for name in folding.folds if ".0." in name and "norm" in name}
    assert names == set(EXPECTED[architecture])
    plain, other = load_causal_lm(model), load_causal_lm(model)
    for name, parameter in other.named_parameters():
        parameter.data = folded[name].read() if name in folded else parameter.data
    with torch.inference_mode():
        before, after = plain(tokens).logits, other(tokens).logits
    assert torch.allclose(after, before, rtol=1e-4, atol=1e-4)
    assert any(not torch.equal(folded[name].read(), weights(model)[name].read()) for name in folding.folds)
    measured = importances(model, tokens, source=folded)
    for name, values in folding.importances.items():
        assert torch.allclose(values, measured[name], rtol=1e-3, atol=1e-7)


def test_layer_that_would_change_is_left_as_it_was(tiny_llama):
    report = Told()
    tokens = torch.randint(0, VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(0))
    # even the last bits, which folding rounds otherwise, count as a change here
    folding = find_folds(Model("hf", tiny_llama), tokens, Format(4, 16), report=report, tolerance=0.0)
    assert not folding.folds
    assert "model.layers.0 gives something else" in report.warnings[0]
    plain = importances(Model("hf", tiny_llama), tokens)
    assert set(folding.importances) == set(plain)
    assert all(torch.equal(values, plain[name]) for name, values in folding.importances.items())

"""PiSSA and LoftQ: where the adapter starts, and that the saved one is what was trained, on the base as it lies there."""

import json
import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from test_lora import MACHINE, context
from transformers import AutoModelForCausalLM

from olivine.models import Model
from olivine.models.adapter import merged_weights
from olivine.models.adapter_files import BASE_FILE, START_FILE
from olivine.models.inspect import read_facts
from olivine.models.loading import load_causal_lm
from olivine.models.nf4 import Rounding, rounded
from olivine.models.weights import weights
from olivine.passes import passes
from olivine.passes.finetune import _adapters
from olivine.training import adapter_starts
from tiny import tiny_model

IDS = torch.tensor([[1, 40, 50, 60, 70, 80]])
NAME = "model.layers.1.mlp.down_proj"
RANK = 4


def weight(seed=0, shape=(96, 64)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.02


def train(monkeypatch, kind, base, folder, name="a", **changes):
    """A trained adapter, its report, and what the trained module computes for IDS."""
    seen, real = {}, _adapters.save

    def spy(adapted, *more):
        seen["logits"] = adapted.eval()(input_ids=IDS).logits.detach()
        adapted.train()
        real(adapted, *more)

    plugin, where = passes.find(kind), context(folder, name)
    arguments = {"max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    given = {"r": RANK, "alpha": 8, "train_data_config": "rows", "training_args": arguments} | changes
    with monkeypatch.context() as patched:
        patched.setattr(_adapters, "save", spy)
        adapter = plugin(plugin.Params(**given)).run(Model("hf", base), where)
    return adapter, where, seen["logits"]


def merged(adapter, folder, **params):
    plugin = passes.find("MergeAdapterWeights")
    return plugin(plugin.Params(**params)).run(adapter, context(folder, "merge"))


@pytest.mark.parametrize("turns", [None, 8])
def test_nearest_product_is_that_of_the_largest_singular_values(turns):
    matrix = weight()
    left, sizes, right = torch.linalg.svd(matrix.double())
    expected = left[:, :RANK] @ sizes[:RANK].diag() @ right[:RANK]
    torch.manual_seed(0)
    found = adapter_starts.nearest(matrix, RANK, turns).product()
    error = (found - matrix).norm() / (expected - matrix).norm()
    assert error == pytest.approx(1, abs=1e-5 if turns is None else 0.02)


def test_rank_above_that_of_the_matrix_is_filled_with_zeros():
    found = adapter_starts.nearest(weight(shape=(6, 9)), 10)
    assert (found.a.shape, found.b.shape) == ((10, 9), (6, 10))
    torch.testing.assert_close(found.product(), weight(shape=(6, 9)), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}], ids=str)
def test_pissa_starts_where_peft_starts(settings, tiny_llama, tmp_path):
    scaling = 8 / (math.sqrt(RANK) if settings else RANK)
    places = {"r": RANK, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
    theirs = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_llama), LoraConfig(init_lora_weights="pissa", **places)
    ).get_base_model()
    starts = adapter_starts.Starts("pissa", RANK, scaling, None, 1, lambda _: True, tmp_path / "start")
    plugin = passes.find("LoRA")
    step = plugin(plugin.Params(train_data_config="rows"))
    base = load_causal_lm(Model("hf", tiny_llama), each_layer=step._stored_layer(starts))
    adapted = get_peft_model(base, LoraConfig(**places))
    starts.put(adapted)
    expected, found = theirs.get_submodule(NAME), adapted.get_base_model().get_submodule(NAME)
    for part in ("lora_A", "lora_B"):
        torch.testing.assert_close(
            getattr(found, part)["default"].weight, getattr(expected, part)["default"].weight, atol=1e-5, rtol=1e-4
        )
    torch.testing.assert_close(found.base_layer.weight, expected.base_layer.weight, atol=1e-5, rtol=1e-4)


PISSA = {
    "plain": {},
    "fast": {"init_lora_weights": "pissa_niter_4"},
    "rank-stabilised": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "some layers and a head": {"target_modules": ["q_proj", "lm_head", "embed_tokens"]},
    "saved whole": {"modules_to_save": ["down_proj"]},
    "excluded": {"exclude_modules": ["o_proj"]},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", PISSA)
def test_pissa_adapter_is_what_was_trained_on_the_base_as_it_lies_there(case, tiny_llama, tmp_path, monkeypatch):
    changes = {"init_lora_weights": "pissa"} | PISSA[case]
    adapter, _, expected = train(monkeypatch, "LoRA", tiny_llama, tmp_path, **changes)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), str(adapter.path)).eval()
    for found in (plain, load_causal_lm(adapter), load_causal_lm(merged(adapter, tmp_path))):
        assert (found(IDS).logits - expected).abs().max() <= 1e-3
    assert (expected - load_causal_lm(adapter.base)(IDS).logits).abs().max() > 0.1
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    assert (config["r"], config["init_lora_weights"]) == (2 * RANK, True)


def test_layers_of_phi3_start_from_their_fused_weights(tiny_phi3, tmp_path, monkeypatch):
    adapter, _, expected = train(monkeypatch, "LoRA", tiny_phi3, tmp_path, init_lora_weights="pissa")
    assert (load_causal_lm(merged(adapter, tmp_path))(IDS).logits - expected).abs().max() <= 1e-3


def loftq_by_hand(matrix, rank, rounding, n_turns):
    """The algorithm of the paper as it stands there: the rounded weight and the product."""
    product = torch.zeros_like(matrix)
    for _ in range(n_turns):
        frozen = rounded(matrix - product, rounding)
        left, sizes, right = torch.linalg.svd(matrix - frozen, full_matrices=False)
        product = left[:, :rank] @ sizes[:rank].diag() @ right[:rank]
    return frozen, product


@pytest.mark.parametrize("n_turns", [1, 2, 5])
def test_loftq_is_the_algorithm_of_the_paper(n_turns):
    matrix, rounding = weight(), Rounding("nf4", double=False)
    frozen, product = loftq_by_hand(matrix, RANK, rounding, n_turns)
    start, shift = adapter_starts.loftq(matrix, RANK, rounding, n_turns)
    found = rounded(matrix if shift is None else matrix - shift.product(), rounding)
    torch.testing.assert_close(start.product(), product, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(found, frozen, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_loftq_starts_closer_to_the_16_bit_base_than_its_rounded_form(kind):
    matrix, rounding = weight(), Rounding(kind, double=True)
    plain = (rounded(matrix, rounding) - matrix).norm()
    errors = []
    for n_turns in (1, 5):
        start, shift = adapter_starts.loftq(matrix, RANK, rounding, n_turns)
        frozen = rounded(matrix if shift is None else matrix - shift.product(), rounding)
        errors.append((frozen + start.product() - matrix).norm())
    assert errors[1] < errors[0] < plain


@pytest.mark.parametrize("start", ["loftq", "pissa"])
def test_first_logits_are_closer_to_the_16_bit_base(start, tmp_path, monkeypatch):
    base = tiny_model(tmp_path / "model", "llama", initializer_range=0.05)
    exact = load_causal_lm(Model("hf", base))(IDS).logits
    distances = []
    for init in (True, start):
        changes = {"init_lora_weights": init, "r": 16, "alpha": 16, "torch_dtype": "float32"}
        plugin = passes.find("QLoRA")
        step = plugin(plugin.Params(train_data_config="rows", **changes))
        ready = step._ready(Model("hf", base), context(tmp_path, f"{init}"))
        distances.append((ready.module.eval()(input_ids=IDS).logits - exact).norm())
    assert distances[1] < 0.8 * distances[0]


STARTED = {
    "LoftQ": ("LoftQ", {}),
    "LoftQ in turns": ("LoftQ", {"loftq_iter": 3}),
    "LoftQ with DoRA": ("LoftQ", {"use_dora": True, "loftq_iter": 2}),
    "LoftQ with fp4": ("LoftQ", {"quant_type": "fp4", "double_quant": True}),
    "QLoRA from PiSSA": ("QLoRA", {"init_lora_weights": "pissa"}),
    "QLoRA rank-stabilised": ("QLoRA", {"init_lora_weights": "loftq", "use_rslora": True}),
    "QLoRA with DoRA": ("QLoRA", {"use_dora": True}),
}


@pytest.mark.parametrize("case", STARTED)
def test_adapter_of_a_rounded_base_is_what_was_trained(case, tiny_llama, tmp_path, monkeypatch):
    kind, changes = STARTED[case]
    adapter, _, expected = train(monkeypatch, kind, tiny_llama, tmp_path, **changes)
    assert (adapter.path / BASE_FILE).is_file()
    alone = Model("adapter", adapter.path, base=adapter.base)  # the folder without the record of the workflow
    for model in (adapter, alone, merged(adapter, tmp_path, merge_base="4-bit")):
        assert (load_causal_lm(model)(IDS).logits - expected).abs().max() <= 1e-3


@pytest.mark.parametrize("case", ["LoftQ", "LoftQ in turns", "QLoRA from PiSSA", "QLoRA rank-stabilised"])
def test_merge_into_16_bits_adds_only_what_was_learned(case, tiny_llama, tmp_path, monkeypatch):
    kind, changes = STARTED[case]
    adapter, _, _ = train(monkeypatch, kind, tiny_llama, tmp_path, **changes)
    tensors, kept = load_file(adapter.path / "adapter_model.safetensors"), load_file(adapter.path / START_FILE)
    scaling = 8 / (math.sqrt(RANK) if changes.get("use_rslora") else RANK)
    a, b = (tensors[f"base_model.model.{NAME}.lora_{part}.weight"] for part in "AB")
    learned = scaling * b @ a - kept[f"{NAME}.start_b"] @ kept[f"{NAME}.start_a"]
    expected = weights(adapter.base)[f"{NAME}.weight"].read() + learned
    merged = merged_weights(adapter, weights(adapter.base), into_trained_base=False)[f"{NAME}.weight"].read()
    torch.testing.assert_close(merged, expected, atol=1e-6, rtol=1e-4)
    assert (expected - learned + scaling * b @ a - merged).norm() > 0.3  # the whole adapter is too much


def test_loftq_is_qlora_with_olives_defaults():
    plugin = passes.find("LoftQ")
    params = plugin.Params(train_data_config="rows", loftq_iter=2, save_quant_config=False, compute_dtype="float32")
    assert (params.init_lora_weights, params.quant_type, params.double_quant) == ("loftq", "nf4", False)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("LoRA", {"init_lora_weights": "pisa"}, "init_lora_weights has no 'pisa'"),
        ("LoRA", {"init_lora_weights": "pissa_niter_0"}, "init_lora_weights has no 'pissa_niter_0'"),
        ("LoRA", {"init_lora_weights": "olora"}, "init_lora_weights has no 'olora'"),
        ("LoRA", {"init_lora_weights": "loftq"}, "makes up for a base in 4 bits, and this one is not rounded"),
        ("DoRA", {"init_lora_weights": "loftq"}, "makes up for a base in 4 bits"),
    ],
)
def test_start_that_cannot_be_is_refused_by_plan(kind, changes, message, tiny_llama):
    plugin = passes.find(kind)
    (problem,) = plugin(plugin.Params(train_data_config="rows", **changes)).check(read_facts(tiny_llama), MACHINE, {})
    assert problem.kind == "invalid-value"
    assert message in problem.message


def test_start_is_computed_once_for_a_training_that_is_cut(tiny_llama, tmp_path, monkeypatch):
    plugin = passes.find("LoRA")
    step = plugin(plugin.Params(train_data_config="rows", init_lora_weights="pissa"))
    where = context(tmp_path)
    first = step._ready(Model("hf", tiny_llama), where).module.state_dict()
    monkeypatch.setattr(adapter_starts, "nearest", None)
    for name, tensor in step._ready(Model("hf", tiny_llama), where).module.state_dict().items():
        assert torch.equal(tensor, first[name])

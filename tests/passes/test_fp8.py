"""LoRA on a base that multiplies in 8-bit floats: refused where no GPU does, counted, scored and merged as it was trained."""

from dataclasses import replace

import pytest
import torch
from training_tools import Told

from olivine.kernels.linear8bit import Linear8bit
from olivine.models import Model
from olivine.models.adapter import merged_weights, trained_base
from olivine.models.adapter_files import ROUNDING
from olivine.models.inspect import read_facts
from olivine.models.loading import load_causal_lm
from olivine.models.nf4 import Rounding
from olivine.models.weights import weights
from olivine.passes import passes
from olivine.passes.finetune.merge import Merge
from olivine.work import Machine
from tiny import tiny_adapter

CPU = Machine("cpu", "CPUExecutionProvider", memory_bytes=2**34, disk_bytes=2**34, n_cores=2)
HOPPER = replace(CPU, device="cuda", device_memory_bytes=2**36, compute_capability=9.0)
FP8 = Rounding("fp8", double=False)


def step(kind="LoRA", **params):
    plugin = passes.find(kind)
    return plugin(plugin.Params(train_data_config="rows", base_precision="fp8", **params))


def problems(lora, model, machine):
    found = lora.check(read_facts(model), machine, {})
    return [problem.message for problem in found if "fp8" in problem.message]


@pytest.mark.parametrize(
    ("machine", "told"),
    [
        (CPU, "this step runs on the processor"),
        (replace(HOPPER, compute_capability=8.0), "this GPU has 8.0"),
    ],
)
def test_plan_says_when_a_machine_cannot(machine, told, tiny_llama):
    (message,) = problems(step(), tiny_llama, machine)
    assert told in message


@pytest.mark.parametrize("capability", [8.9, 9.0, 0.0])
def test_gpus_that_can_or_do_not_tell_are_taken(capability, tiny_llama):
    assert problems(step(), tiny_llama, replace(HOPPER, compute_capability=capability)) == []


@pytest.mark.parametrize("more", [{"use_dora": True}, {"init_lora_weights": "pissa"}, {"sharding": "fsdp"}], ids=str)
def test_what_looks_at_the_base_as_it_lies_on_disk_is_refused(more, tiny_llama):
    (message,) = problems(step(**more), tiny_llama, HOPPER)
    assert next(iter(more)) in message


def test_base_in_four_bits_is_not_one_in_eight(tiny_llama):
    (message,) = problems(step("QLoRA"), tiny_llama, HOPPER)
    assert "4 bits" in message


def test_plan_counts_a_byte_a_weight(tiny_llama):
    facts = read_facts(tiny_llama)
    plain = passes.find("LoRA")
    wide = plain(plain.Params(train_data_config="rows")).estimate(facts, HOPPER, {}).device_memory_bytes
    saved = wide - step().estimate(facts, HOPPER, {}).device_memory_bytes
    layers = facts.n_parameters - 2 * facts.as_decoder.embedding_size
    assert saved == pytest.approx(layers, rel=0.2)


def test_decoder_is_in_eight_bits_as_soon_as_it_is_loaded(tiny_llama):
    model = load_causal_lm(Model("hf", tiny_llama), each_layer=step()._stored_layer())
    in_eight = [module for module in model.modules() if isinstance(module, Linear8bit)]
    assert len(in_eight) == 14
    assert {module.codes.dtype for module in in_eight} == {torch.float8_e4m3fn}
    assert not [name for name, _ in model.named_parameters() if name.endswith("_proj.weight")]


def adapter_of(base, folder):
    return Model("adapter", tiny_adapter(base, folder), base=Model("hf", base), attributes={ROUNDING: FP8.to_json()})


def test_adapter_is_scored_on_the_weights_that_it_was_trained_on(tiny_llama, tmp_path):
    name = "model.layers.0.mlp.up_proj"
    trained = load_causal_lm(Model("hf", tiny_llama), each_layer=step()._stored_layer())
    own = weights(Model("hf", tiny_llama))
    base = trained_base(adapter_of(tiny_llama, tmp_path / "adapter"), own)
    assert torch.equal(base[f"{name}.weight"].read(), trained.get_submodule(name).weight)
    assert not torch.equal(base[f"{name}.weight"].read(), own[f"{name}.weight"].read())
    for untouched in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
        assert torch.equal(base[untouched].read(), own[untouched].read())


def test_both_bases_are_there_to_be_merged_into(tiny_llama, tmp_path):
    adapter, name = adapter_of(tiny_llama, tmp_path / "adapter"), "model.layers.0.mlp.up_proj.weight"
    base = weights(adapter.base)
    into_trained, into_own = (merged_weights(adapter, base, into_trained_base=chosen)[name] for chosen in (True, False))
    update = into_trained.read() - trained_base(adapter, base)[name].read()
    torch.testing.assert_close(update, into_own.read() - base[name].read(), atol=1e-6, rtol=1e-4)


def test_merge_without_rows_takes_the_base_of_eight_bits_and_says_so(tiny_llama, tmp_path):
    merged, report = Model("hf", tiny_llama, base=adapter_of(tiny_llama, tmp_path / "adapter")), Told()
    context = type("Context", (), {"report": report})
    assert Merge(Merge.Params())._base_of_choice(merged, context) == {"merge_base": "8-bit"}
    assert "8-bit base" in report.warnings[0]

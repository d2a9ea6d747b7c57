"""QLoRA: trained on a base in 4 bits, scored on it, and merged into the base that serves the user's rows better."""

import json
import sys

import pytest
import torch

from olivine.config import load
from olivine.models import Model
from olivine.models.adapter import merged_weights, trained_base
from olivine.models.adapter_files import ROUNDING
from olivine.models.loading import load_causal_lm
from olivine.models.nf4 import Rounding, rounded
from olivine.models.weights import weights
from olivine.passes import passes
from olivine.work import Silent
from olivine.workflow.engine import run
from olivine.workflow.plan import make_plan
from tiny import tiny_adapter, write_rows


def workflow(folder, model, **extra):
    config = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "data_configs": [
            {
                "name": "rows",
                "load_dataset_config": {"data_files": str(write_rows(folder / "rows.jsonl"))},
                "pre_process_data_config": {"text_template": "{phrase}: {tone}", "strategy": "line-by-line"},
            }
        ],
        "passes": {
            "qlora": {
                "type": "QLoRA",
                "r": 4,
                "train_data_config": "rows",
                "eval_dataset_size": 8,
                "training_args": {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 0.01},
                **extra,
            },
            "merge": {"type": "MergeAdapterWeights"},
            "builder": {"type": "ModelBuilder", "precision": "int4", "int4_algo_config": "default"},
        },
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return make_plan(load(path))


@pytest.fixture(scope="module")
def done(tiny_llama, tmp_path_factory, warm_python):
    """A finished workflow: its folder and journal."""
    folder = tmp_path_factory.mktemp("qlora")
    made = workflow(folder, tiny_llama)
    assert made.problems == ()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "executable", warm_python)
        run(made)
    return folder, [json.loads(line) for line in (folder / "out" / "journal.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_both_merges_are_scored_and_the_better_is_taken(done):
    _, events = done
    facts = next(event for event in json_values(events) if isinstance(event, dict) and "merge_scores" in event)
    losses = {base: scores["loss"] for base, scores in facts["merge_scores"].items()}
    assert set(losses) == {"16-bit", "4-bit"}
    assert losses[facts["merge_base"]] == min(losses.values())


def test_the_choice_is_told(done):
    _, events = done
    told = [value for value in json_values(events) if isinstance(value, str) and "merged into the" in value]
    assert told
    assert "16-bit" in told[0]
    assert "4-bit" in told[0]


def json_values(value):
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from json_values(inner)


def test_int4_model_is_delivered(done):
    folder, _ = done
    assert (folder / "out" / "model" / "genai_config.json").is_file()
    assert (folder / "out" / "adapter" / "adapter_model.safetensors").is_file() or list(
        (folder / "out").rglob("adapter_model.safetensors")
    )


def test_adapter_is_run_and_merged_on_the_base_that_it_was_trained_on(tiny_llama, tmp_path):
    base, rounding = Model("hf", tiny_llama), Rounding("nf4", double=True)
    folder = tiny_adapter(tiny_llama, tmp_path / "adapter")
    adapter = Model("adapter", folder, base=base, attributes={ROUNDING: rounding.to_json()})
    name = "model.layers.0.mlp.up_proj.weight"
    stored = weights(base)
    trained = trained_base(adapter, stored)
    assert torch.equal(trained[name].read(), rounded(stored[name].read(), rounding))
    for untouched in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
        assert torch.equal(trained[untouched].read(), stored[untouched].read())
    ids = torch.tensor([[1, 40, 50, 60]])
    expected = load_causal_lm(adapter)(ids).logits
    for merge_base, close in (("4-bit", True), ("16-bit", False)):
        merged = Model("hf", tiny_llama, base=adapter, attributes={"merge_base": merge_base})
        found = load_causal_lm(merged)(ids).logits
        assert bool((found - expected).abs().max() <= 1e-4) is close
    assert not torch.equal(merged_weights(adapter, stored)[name].read(), trained[name].read())


def test_base_is_packed_while_it_is_trained(tiny_llama):
    from olivine.kernels.linear4bit import Linear4bit

    plugin = passes.find("QLoRA")
    step = plugin(plugin.Params(train_data_config="rows", quant_type="fp4", double_quant=False))
    model = load_causal_lm(Model("hf", tiny_llama), each_layer=step._stored_layer())
    packed = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(packed) == 14
    assert {module.rounding for module in packed} == {Rounding("fp4", double=False)}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"quant_type": "nf5"}, "quant_type"),
        ({"double_quants": True}, "double_quant"),
        ({"sharding": "fsdp"}, "sharded"),
    ],
)
def test_bad_params_are_refused_by_plan(params, message, tiny_llama, tmp_path):
    problems = workflow(tmp_path, tiny_llama, **params).problems
    assert any(message in f"{problem.message} {problem.fix}" for problem in problems)


def test_one_base_can_be_asked_for(tiny_llama, tmp_path):
    from olivine.passes.finetune.merge import Merge

    adapter = Model(
        "adapter",
        tiny_adapter(tiny_llama, tmp_path / "adapter"),
        base=Model("hf", tiny_llama),
        attributes={ROUNDING: {}},
    )
    assert Merge(Merge.Params(merge_base="16-bit"))._base_of_choice(adapter, None) == {"merge_base": "16-bit"}


@pytest.mark.parametrize("kind", ["DoRA", "LoRA with use_dora"])
def test_dora_trains_magnitudes_and_its_merge_is_exact(kind, tiny_llama, tmp_path):
    from peft import PeftModel
    from safetensors.torch import load_file

    from olivine.config.schema import DataConfig
    from olivine.passes import Context, Machine

    path = write_rows(tmp_path / "rows.jsonl")
    data = DataConfig.model_validate(
        {
            "name": "rows",
            "load_dataset_config": {"data_files": str(path)},
            "pre_process_data_config": {"text_template": "{phrase}: {tone}", "strategy": "line-by-line"},
        }
    )
    plugin = passes.find(kind.split()[0])
    arguments = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 0.01}
    params = plugin.Params(r=4, train_data_config="rows", training_args=arguments, use_dora=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "scratch").mkdir()
    machine = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)

    context = Context(tmp_path / "out", tmp_path / "scratch", machine, Silent(), {"rows": data})
    adapter = plugin(params).run(Model("hf", tiny_llama), context)
    names = load_file(adapter.path / "adapter_model.safetensors")
    assert any("lora_magnitude_vector" in name for name in names)
    ids = torch.tensor([[1, 40, 50, 60]])
    expected = PeftModel.from_pretrained(load_causal_lm(Model("hf", tiny_llama)), str(adapter.path)).eval()(ids).logits
    merged = load_causal_lm(Model("hf", tiny_llama, base=adapter))(ids).logits
    assert (merged - expected).abs().max() <= 1e-4

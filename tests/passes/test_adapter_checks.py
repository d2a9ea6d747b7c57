"""What a plan refuses of an adapter's modules is what putting it on would refuse, and nothing else."""

import pytest

from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.passes import Context, Machine, passes
from olivine.passes.finetune import _adapters
from reports import Told

Lora, Loha, Lokr = (passes.classes[name] for name in ("lora", "loha", "lokr"))
MACHINE = Machine("cpu", "CPUExecutionProvider", 10**10, 10**11, 2)


def refused(plugin, given, model, folder):
    """Whether the adapter cannot be put on the loaded model, or trains nothing then."""
    params = plugin.Params(train_data_config="rows", r=2, **given)
    context = Context(folder, folder, MACHINE, Told())
    try:
        base = _adapters.load_base(params, Model("hf", model), context, "float32")
        step, trained_modules = plugin(params), _adapters.trained_modules(params, base)
        config = step._config(base) if plugin is Lora else step.config(trained_modules)
        _adapters.make_ready(_adapters.put_on(base, config), params, context, "float32")
    except Exception as error:  # noqa: BLE001 - whatever it is, it would end the step
        return error
    return None


WISHES = [
    {},
    {"target_modules": "all-linear"},
    {"target_modules": ["q_proj", "mlp.down_proj"]},
    {"target_modules": ["layers.0.self_attn.q_proj"]},
    {"target_modules": ["layers.7.self_attn.q_proj"]},
    {"target_modules": r".*layers\.1\..*(q|v)_proj"},
    {"target_modules": r".*layers\.9\..*(q|v)_proj"},
    {"target_modules": ["input_layernorm"]},
    {"target_modules": ["norm"]},
    {"target_modules": ["lm_head"]},
    {"target_modules": ["qkv_proj"]},
    {"exclude_modules": ["mlp"]},
    {"exclude_modules": ["down_proj", "self_attn.o_proj"]},
    {"exclude_modules": ["nothing"]},
    {"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]},
    {"modules_to_save": ["embed_tokens"]},
    {"modules_to_save": ["norm"]},
    {"modules_to_save": ["classifier"]},
    {"target_modules": ["("]},
]
MORE = [
    {"target_modules": ["embed_tokens"]},
    {"layers_to_transform": [1]},
    {"layers_to_transform": [5]},
    {"layers_to_transform": 0, "layers_pattern": "layers"},
    {"layers_pattern": "layers"},
    {"rank_pattern": {"q_proj": 3}},
    {"rank_pattern": {"q_proj": 0}},
    {"alpha_pattern": {"(": 4.0}},
]


@pytest.mark.parametrize("kind", ["untied", "fused"])
@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_plan_refuses_modules_that_lora_would(wish, kind, tiny_llama, tiny_phi3, tmp_path):
    model = tiny_llama if kind == "untied" else tiny_phi3
    params = Lora.Params(train_data_config="rows", r=2, **wish)
    told = list(Lora(params).check(read_facts(model), MACHINE, {}))
    assert bool(told) == (refused(Lora, wish, model, tmp_path) is not None), told
    assert all(problem.key[0] in wish for problem in told)


@pytest.mark.parametrize("plugin", [Loha, Lokr])
@pytest.mark.parametrize("wish", MORE, ids=str)
def test_plan_refuses_what_peft_s_other_adapters_would(wish, plugin, tiny_llama, tmp_path):
    params = plugin.Params(train_data_config="rows", r=2, **wish)
    told = list(plugin(params).check(read_facts(tiny_llama), MACHINE, {}))
    error = refused(plugin, wish, tiny_llama, tmp_path)
    assert bool(told) or error is None, error
    taken_by_peft = [{"alpha_pattern": {"(": 4.0}}]  # it never asks
    assert error is not None or not told or wish in taken_by_peft, told


def test_head_that_is_the_embedding_can_be_named(tiny_tied):
    for wish in ({"target_modules": ["lm_head"]}, {"modules_to_save": ["lm_head", "embed_tokens"]}):
        params = Lora.Params(train_data_config="rows", **wish)
        assert list(Lora(params).check(read_facts(tiny_tied), MACHINE, {})) == []


@pytest.mark.parametrize("nothing", [[], "", " , "])
def test_empty_list_of_targets_is_a_problem(nothing, tiny_llama):
    (problem,) = Lora(Lora.Params(train_data_config="rows", target_modules=nothing)).check(
        read_facts(tiny_llama), MACHINE, {}
    )
    assert problem.key == ("target_modules",)

"""SelectiveMixedPrecision: the passes after it keep in 8 bits what it picks, and nothing else."""

import pytest
from test_quantizers import MACHINE, context_of

from olivine.models import Model
from olivine.models.inspect import read_config, read_facts
from olivine.passes import passes
from olivine.passes.quantize import formats as formats_of

Selective = passes.find("SelectiveMixedPrecision")


def earlier(**params):
    return [Selective(Selective.Params(**params))]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("k_quant_last", "high_precision_lm_head"),
        ("k_quant_down", "high_precision_mlp_down"),
        ("k_quant_mixed", "high_precision_mlp_down_qkv"),
    ],
)
def test_older_names_are_the_newer(older, newer):
    assert Selective.Params(algorithm=older).algorithm == newer


@pytest.mark.parametrize("quantizer", ["rtn", "kquant", "awq", "gptq"])
def test_quantizer_after_it_stores_these_in_8_bits(quantizer, tiny_llama):
    plugin = passes.classes[quantizer]
    params = plugin.Params(**plugin.inherited(earlier(algorithm="k_quant_down", group_size=32)))
    formats = formats_of(Model("hf", tiny_llama), params)
    in_8 = {name for name, fmt in formats.items() if fmt.bits == 8}
    assert in_8 == {"model.layers.0.mlp.down_proj.weight"}
    assert {fmt.group for fmt in formats.values()} == {32}
    own = {**plugin.inherited(earlier(algorithm="k_quant_down")), "overrides": {"re:.*down_proj": {"bits": 4}}}
    assert {fmt.bits for fmt in formats_of(Model("hf", tiny_llama), plugin.Params(**own)).values()} == {4}


def test_score_becomes_a_share(tiny_llama):
    scored = earlier(algorithm="snr", ratio=0.9)
    assert passes.classes["gptq"].inherited(scored) == {"int8_share": 0.1}
    rtn = passes.classes["rtn"]
    ranked = rtn(rtn.Params(**rtn.inherited(scored)))
    assert ranked.params.int8_share == 0.1
    assert list(ranked.check(read_facts(tiny_llama), MACHINE, {})) == []


def test_plain_rounding_keeps_what_4_bits_damage_most_in_8(tiny_llama, tmp_path):
    rtn = passes.classes["rtn"]
    context = context_of(tmp_path)
    params = rtn.inherited(earlier(algorithm="kld_gradient", ratio=0.7, group_size=32))
    made = rtn(rtn.Params(**params, calibration_tokens=512)).run(Model("hf", tiny_llama), context)
    groups = read_config(made.path)["quantization_config"]["config_groups"].values()
    assert {group["weights"]["num_bits"] for group in groups} == {4, 8}
    assert rtn.inherited([]) == {}
    plain = rtn(rtn.Params(data_config="rows"))
    assert (plain.data_names(), plain.calibrates_on()) == ([], None)  # nothing is ranked


def test_export_after_it_keeps_the_head_in_8_bits():
    build = passes.classes["build"]
    assert build.Params(**build.inherited(earlier(algorithm="k_quant_last"))).head_bits == 8
    scored = build.Params(**build.inherited(earlier(algorithm="iqe", ratio=0.8)))
    assert (scored.head_bits, scored.int8_share) == (None, 0.2)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"algorithm": "snr"}, "needs a ratio"),
        ({"algorithm": "snr", "ratio": 1.0}, "needs a ratio"),
        ({"algorithm": "k_quant_last", "bits": 2}, "bits 2"),
        ({"algorithm": "k_quant_last", "high_bits": 16}, "high_bits 16"),
        ({"algorithm": "k_quant_last", "group_size": -2}, "group_size -2"),
        ({"algorithm": "snr", "ratio": 0.9, "high_group_size": 64, "group_size": 32}, "high_group_size differs"),
        ({"algorithm": "snr", "ratio": 0.9, "high_sym": True}, "high_sym differs"),
        ({"algorithm": "k_quant_last", "moe": True}, "moe"),
    ],
)
def test_what_is_not_done_is_one_sentence(params, said, tiny_llama):
    step = Selective(Selective.Params(**params))
    problems = [str(problem) for problem in step.check(read_facts(tiny_llama), MACHINE, {})]
    assert len(problems) == 1
    assert said in problems[0]


def test_it_tells_what_becomes_of_it_and_gives_the_model_back(tiny_llama):
    said, facts = [], {}

    class Reporter:
        warn = said.append

        def record(self, **recorded):
            facts.update(recorded)

    context = type("Context", (), {"report": Reporter()})()
    model = Model("hf", tiny_llama)
    assert Selective(Selective.Params(algorithm="snr", ratio=0.95)).run(model, context) is model
    assert "int8_share 0.05" in said[0]
    Selective(Selective.Params(algorithm="k_quant_mixed")).run(model, context)
    assert facts["n_in_8_bits"] == 5  # down, q, k and v of the first of two layers, and the head

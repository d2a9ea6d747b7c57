"""The quantizing passes on Hugging Face models: which weight gets which format, and what is refused before a run."""

import json

import pytest
import torch

from olivine.calibration.decoder import linear_weights
from olivine.errors import ModelError, RequestError, Unsupported
from olivine.kernels.blockwise import Format, rtn, search
from olivine.models import Model
from olivine.models.facts import DecoderFacts
from olivine.models.inspect import read_facts
from olivine.models.opened import Opened
from olivine.models.weights import weights
from olivine.passes import Context, Machine, passes, quantize
from olivine.passes.quantize import CalibratedParams, QuantizerParams
from reports import Told
from tiny import tiny_model

MACHINE = Machine("cpu", "CPUExecutionProvider", 2**34, 2**34, 2)
NAMES = ["rtn", "kquant", "gptq", "awq"]


def problems(name, model, **params):
    plugin = passes.classes[name]
    return [str(problem) for problem in plugin(plugin.Params(**params)).check(read_facts(model), MACHINE, {})]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Rtn", "rtn"),
        ("KQuant", "kquant"),
        ("Gptq", "gptq"),
        ("GptqQuantizer", "gptq"),
        ("GptqModel", "gptq"),
        ("AutoGPTQQuantizer", "gptq"),
        ("AutoAWQQuantizer", "awq"),
    ],
)
def test_names_of_olive_lead_here(old, new):
    assert passes.find(old) is passes.classes[new]


def test_params_of_olive_are_understood():
    gptq = passes.classes["gptq"].Params(
        bits=4,
        group_size=128,
        sym=True,
        desc_act=False,
        damp_percent=0.05,
        static_groups=False,
        true_sequential=True,
        data_config="mine",
        overrides={"lm_head": {"bits": 8, "sym": False}},
    )
    assert gptq.overrides["lm_head"].symmetric is False
    awq = passes.classes["awq"].Params(w_bit=4, q_group_size=64, zero_point=True)
    assert (awq.bits, awq.group_size, awq.sym) == (4, 64, False)
    with pytest.raises(ValueError, match="group_size"):
        QuantizerParams(group_size=48)
    with pytest.raises(ValueError, match="extra"):
        QuantizerParams(group=32)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_work_is_found_before_the_run(name, tiny_llama, tiny_tied):
    assert not problems(name, tiny_llama)
    assert (
        "group_size 128 does not divide the model's hidden_size 64. Use 16 or 32 or 64."
        in problems(name, tiny_llama, group_size=128)[0]
    )
    assert not problems(name, tiny_llama, lm_head=True)
    for pattern in ("re:(", "re:x{99999999999}"):
        assert "is no regular expression" in problems(name, tiny_llama, modules_to_not_convert=[pattern])[0]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_checkpoint_keeps_in_floats_is_said_with_who_quantizes_it(name, tiny_llama, tiny_tied):
    def notes(folder, **params):
        plugin = passes.classes[name]
        return " ".join(plugin(plugin.Params(**params)).notes(read_facts(folder), MACHINE, {}))

    assert "ModelBuilder after it stores it in 8 bits" in notes(tiny_llama, embeds=True)
    assert "head is its embedding" in notes(tiny_tied, lm_head=True)
    assert notes(tiny_llama, lm_head=True) == ""


@pytest.mark.parametrize("name", NAMES)
def test_estimate_is_far_below_the_float_model(name, tiny_llama):
    plugin = passes.classes[name]
    facts = read_facts(tiny_llama).__class__(
        architecture="LlamaForCausalLM",
        n_parameters=8_000_000_000,
        decoder=DecoderFacts(hidden_size=4096, n_layers=32, vocab_size=128_256, intermediate_size=14336),
    )
    params = {} if name == "rtn" else {"data_config": "mine"}
    needed = plugin(plugin.Params(**params)).estimate(facts, MACHINE, {})
    assert needed.memory_bytes < 16e9
    assert needed.disk_bytes > 5e9


def test_data_and_text_are_part_of_the_key(tmp_path):
    plugin = passes.classes["gptq"]
    one = plugin(plugin.Params(data_config="mine", calibration_text=tmp_path / "t.txt"))
    assert one.data_names() == ["mine"]
    assert one.files() == [tmp_path / "t.txt"]


@pytest.mark.parametrize("name", ["kquant", "gptq", "awq"])
def test_training_data_calibrates_without_what_was_held_out(name):
    plugin = passes.classes[name]
    lora, merge = (passes.classes[name] for name in ("lora", "merge"))
    trained = lora.Params(train_data_config="mine", eval_dataset_size=20, training_args={"seed": 7})
    earlier = [lora(trained), merge(merge.Params())]
    params = plugin.Params(**plugin.inherited(earlier))
    assert (params.data_config, params.calibration_held_out, params.calibration_seed) == ("mine", 20, 7)
    assert plugin.inherited(earlier[1:]) == {}


def test_every_linear_layer_gets_the_widest_group_that_fits(tiny_llama, tiny_phi3):
    by_weight = quantize.formats(Model("hf", tiny_llama), QuantizerParams())
    assert set(by_weight) == set(linear_weights(Model("hf", tiny_llama)))
    assert set(by_weight.values()) == {Format(4, 64, symmetric=False)}
    fused = quantize.formats(Model("hf", tiny_phi3), QuantizerParams(sym=True, bits=8, group_size=32, lm_head=True))
    assert "model.layers.0.self_attn.qkv_proj.weight" in fused
    assert fused["lm_head.weight"] == Format(8, 32, symmetric=True)


def test_overrides_and_exclusions_are_by_name_part_and_pattern(tiny_llama):
    params = QuantizerParams(
        modules_to_not_convert=["layers.1.mlp", r"re:.*\.0\.self_attn\.o_proj"],
        overrides={
            "model.layers.0.mlp.down_proj": {"bits": 8},
            r"re:.*\.(q|k|v)_proj": {"group_size": 16, "symmetric": True},
        },
    )
    by_weight = quantize.formats(Model("hf", tiny_llama), params)
    assert not [name for name in by_weight if "layers.1.mlp" in name]
    assert "model.layers.0.self_attn.o_proj.weight" not in by_weight
    assert by_weight["model.layers.0.mlp.down_proj.weight"].bits == 8
    assert by_weight["model.layers.1.self_attn.k_proj.weight"] == Format(4, 16, symmetric=True)
    for wrong in ({"overrides": {"model.layers.9": {"bits": 8}}}, {"modules_to_not_convert": ["fc1"]}):
        with pytest.raises(
            RequestError, match=r"no module that is quantized is named .*; names look like 'model.layers"
        ):
            quantize.formats(Model("hf", tiny_llama), QuantizerParams(**wrong))


@pytest.mark.parametrize("name", NAMES)
def test_whole_rows_share_a_scale_in_a_checkpoint_that_reads_back(name, tmp_path):
    """Widths of 64 and 72: no group of the operators divides the second."""
    model = Model("hf", tiny_model(tmp_path / "m", intermediate_size=72))
    assert not problems(name, model.path, group_size=-1)
    plugin = passes.classes[name]
    params = {} if name == "rtn" else {"calibration_tokens": 512}
    checkpoint = plugin(plugin.Params(group_size=-1, **params)).run(model, context_of(tmp_path))
    config = json.loads((checkpoint.path / "config.json").read_text())["quantization_config"]["config_groups"]
    assert {group["weights"]["strategy"] for group in config.values()} == {"channel", "group"}
    stored, plain = weights(checkpoint), weights(model)
    for key, width in linear_weights(model).items():
        values = stored[key].read()
        assert values.shape[1] == width
        assert all(len(row.unique()) <= 16 for row in values[:8])  # one scale and 16 codes a row
        if name == "rtn":
            assert torch.equal(values, rtn(plain[key].read(), Format(4, width, symmetric=False)).dequantized())


def test_width_that_no_group_divides_is_named(tmp_path):
    odd = Model("hf", tiny_model(tmp_path / "m", intermediate_size=72))
    with pytest.raises(Unsupported, match="no group size divides the widths 64, 72"):
        quantize.formats(odd, QuantizerParams())
    with pytest.raises(Unsupported, match=r"group_size 32 does not divide the 72 inputs of '.*down_proj.weight'"):
        quantize.formats(odd, QuantizerParams(group_size=32))


def test_tensors_are_quantized_when_they_are_asked_for(tiny_llama):
    source = weights(Model("hf", tiny_llama))
    name, fmt = "model.layers.0.mlp.up_proj.weight", Format(4, 32, symmetric=False)
    importance = torch.rand(64)
    lazily = quantize.quantized(source, {name: fmt}, "search", {name: importance})
    expected = search(source[name].read(), fmt, importance, half_scales=True)
    assert set(lazily) == {name}
    assert torch.equal(lazily[name]().codes, expected.codes)
    plain = quantize.quantized(source, {name: fmt}, "rtn")
    assert torch.equal(plain[name]().codes, rtn(source[name].read(), fmt).codes)


def test_weight_that_is_not_finite_is_named(tiny_llama):
    source = dict(weights(Model("hf", tiny_llama)))
    name = "model.layers.0.mlp.up_proj.weight"
    broken = source[name].__class__(name, source[name].shape, "float32", lambda: torch.full((128, 64), float("nan")))
    lazily = quantize.quantized({name: broken}, {name: Format(4, 32)}, "rtn")
    with pytest.raises(ModelError, match=r"'model.layers.0.mlp.up_proj.weight' cannot be quantized: .*NaN"):
        lazily[name]()


def context_of(tmp_path, data=None):
    (tmp_path / "out").mkdir()
    (tmp_path / "scratch").mkdir(exist_ok=True)
    return Context(tmp_path / "out", tmp_path / "scratch", MACHINE, Told(), data or {})


def test_tokens_and_importances_survive_a_killed_run(tiny_llama, tmp_path):
    opened, context = Opened(Model("hf", tiny_llama)), context_of(tmp_path)
    params = CalibratedParams(calibration_tokens=512)
    tokens = quantize.tokens(opened, params, context)
    measured = quantize.importances(opened, tokens, context)
    assert context.report.facts["calibration"] == {"tokens": 512, "source": "general text"}
    gone = Opened(Model("hf", tmp_path / "gone"))  # nothing can be computed from it any more
    assert torch.equal(quantize.tokens(gone, params, context), tokens)
    again = quantize.importances(gone, tokens, context)
    assert set(again) == set(measured)
    assert all(torch.equal(again[name], measured[name]) for name in measured)


def test_too_little_data_of_an_earlier_step_is_made_up_for_and_said(tiny_llama, tmp_path):
    from olivine.config.schema import DataConfig

    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": "one row"}) + "\n")
    load = {"data_name": "json", "data_files": str(file)}
    data = DataConfig(name="mine", load_dataset_config=load, pre_process_data_config={"text_cols": ["text"]})
    context = context_of(tmp_path, {"mine": data})
    params = CalibratedParams(calibration_tokens=512, data_config="mine", calibration_may_be_short=True)
    assert quantize.tokens(Opened(Model("hf", tiny_llama)), params, context).numel() == 512
    assert "calibrated with general text: data config 'mine' gives" in context.report.warnings[0]


@pytest.mark.parametrize("name", NAMES)
def test_checkpoint_holds_the_codes_and_reads_back(name, tiny_llama, tmp_path):
    pytest.importorskip("olivine.models.quantized.write")
    plugin, model = passes.classes[name], Model("hf", tiny_llama)
    params = {} if name == "rtn" else {"calibration_tokens": 512}
    context = context_of(tmp_path)
    checkpoint = plugin(plugin.Params(group_size=32, **params)).run(model, context)
    stored = weights(checkpoint)
    quantized = {key for key, tensor in stored.items() if tensor.blockwise is not None}
    assert quantized == set(linear_weights(model))
    assert context.report.facts["n_quantized"] == len(quantized)
    plain = weights(model)
    if name != "awq":  # whose tensors are folded
        for key in quantized:
            assert (stored[key].read() - plain[key].read()).abs().max() < 0.5 * plain[key].read().abs().max()

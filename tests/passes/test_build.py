"""ModelBuilder: what it builds answers like transformers, is complete, and can be moved."""

import json
import re
import shutil
from dataclasses import replace

import onnxruntime_genai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from olivine.errors import ModelError
from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.models.loading import load_causal_lm
from olivine.passes import Context, Machine, passes
from olivine.work import Silent
from plain_genai import greedy
from tiny import tiny_adapter, tiny_model

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
Build = passes.classes["build"]
PROMPT = [1, 40, 50, 60, 70]


def build(model, folder, **params):
    output, scratch = folder / "built", folder / "scratch"
    output.mkdir()
    scratch.mkdir()
    step = Build(Build.Params(**params))
    step.requires(model)
    result = step.run(model, Context(output, scratch, MACHINE, Silent()))
    step.ensures(result)
    return result.path


def expected(model, ends, n_tokens=24):
    model.generation_config.eos_token_id = ends
    ids = torch.tensor([PROMPT])
    written = model.generate(input_ids=ids, max_new_tokens=n_tokens, do_sample=False, pad_token_id=2)
    return written[0].tolist()


@pytest.mark.parametrize("architecture", ["phi3", "llama", "qwen2", "qwen3", "mistral", "gemma", "smollm"])
def test_greedy_tokens_equal_those_of_transformers(architecture, tmp_path):
    folder = tiny_model(tmp_path / "model", architecture)
    built = build(Model("hf", folder), tmp_path, precision="fp32")
    ends = json.loads((built / "genai_config.json").read_text())["model"]["eos_token_id"]
    tokens = expected(AutoModelForCausalLM.from_pretrained(folder), ends)
    assert greedy(built, PROMPT, 24) == (
        tokens[:-1] if tokens[-1] in ends else tokens
    )  # the runtime keeps no end token


@pytest.mark.parametrize("precision", ["int4", "int8"])
@pytest.mark.parametrize("architecture", ["phi3", "llama"])
def test_quantized_models_are_smaller_and_run(architecture, precision, tmp_path):
    folder = tiny_model(tmp_path / "model", architecture, hidden_size=128, intermediate_size=256)
    built = build(Model("hf", folder), tmp_path, precision=precision)
    assert len(greedy(built, PROMPT, 8)) > len(PROMPT)
    graph = (built / "model.onnx").read_bytes()
    assert b"MatMulNBits" in graph


def test_merged_model_is_built_without_being_written(tiny_llama, tmp_path):
    base = Model("hf", tiny_llama)
    adapter = Model("adapter", tiny_adapter(tiny_llama, tmp_path / "adapter"), base=base)
    merged_folder = tmp_path / "merged"
    shutil.copytree(tiny_llama, merged_folder, ignore=shutil.ignore_patterns("*.safetensors"))
    merged = Model("hf", merged_folder, base=adapter)
    built = build(merged, tmp_path, precision="fp32")
    ends = json.loads((built / "genai_config.json").read_text())["model"]["eos_token_id"]
    assert greedy(built, PROMPT, 24) == expected(load_causal_lm(merged), ends)


@pytest.fixture(scope="module")
def built_llama(tiny_llama, tmp_path_factory):
    """A tiny Llama in float32; read only."""
    return build(Model("hf", tiny_llama), tmp_path_factory.mktemp("built"), precision="fp32")


def test_end_tokens_are_the_union_of_all_that_name_one(tiny_llama, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(generation | {"eos_token_id": [1, 9]}))
    built = build(Model("hf", folder), tmp_path, precision="fp32")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    ends = json.loads((built / "genai_config.json").read_text())["model"]["eos_token_id"]
    assert {1, 9, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")} <= set(ends)


def test_chats_are_rendered_as_transformers_renders_them(built_llama):
    tokenizer = AutoTokenizer.from_pretrained(built_llama)
    runtime = onnxruntime_genai.Tokenizer(str(built_llama))
    for index in range(20):
        roles = ["user", "assistant"] * (index % 3) + ["user"]
        chat = [{"role": role, "content": f'{role} says «{n}» {{x}} "q"\n{index}'} for n, role in enumerate(roles)]
        if index % 4 == 0:
            chat.insert(0, {"role": "system", "content": "be brief"})
        wanted = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert runtime.apply_chat_template(json.dumps(chat), add_generation_prompt=True) == wanted


def test_folder_is_complete_and_may_be_moved(built_llama, tmp_path):
    before = greedy(built_llama, PROMPT, 24)
    moved = tmp_path / "elsewhere"
    shutil.copytree(built_llama, moved)
    assert greedy(moved, PROMPT, 24) == before
    for file in moved.iterdir():
        if file.suffix in (".json", ".jinja"):
            assert str(built_llama.parent) not in file.read_text(encoding="utf-8")
    assert {"genai_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= {
        file.name for file in moved.iterdir()
    }


def test_default_length_is_at_most_4096_and_can_be_chosen(tmp_path):
    folder = tiny_model(tmp_path / "model", "llama", max_position_embeddings=131072)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    model = Model("hf", folder)
    default = json.loads((build(model, tmp_path / "a", metadata_only=True) / "genai_config.json").read_text())
    assert default["search"]["max_length"] == 4096
    params = {"max_length": 9000, "search": {"top_k": 7}, "metadata_only": True}
    chosen = json.loads((build(model, tmp_path / "b", **params) / "genai_config.json").read_text())
    assert (chosen["search"]["max_length"], chosen["search"]["top_k"]) == (9000, 7)


@pytest.mark.parametrize("params", [{"max_length": 100_000}, {"search": {"max_length": 100_000, "min_length": 999}}])
def test_length_beyond_the_context_is_cut_to_it(params, tiny_llama, tmp_path):
    built = build(Model("hf", tiny_llama), tmp_path, precision="fp32", **params)
    search = json.loads((built / "genai_config.json").read_text())["search"]
    assert search["max_length"] == 256
    assert search["min_length"] <= 256
    runtime = onnxruntime_genai.Model(str(built))
    onnxruntime_genai.Generator(runtime, onnxruntime_genai.GeneratorParams(runtime))


def test_both_spellings_of_the_quantizer_options_are_one(tiny_llama):
    old, new = Build(Build.Params(int4_block_size=64)), Build(Build.Params(block_size=64))
    assert old.params == new.params
    assert old.options(streamed=True)["block_size"] == "64"


def test_block_size_must_divide_the_widths(tiny_llama):
    problems = list(Build(Build.Params(int4_block_size=256)).check(read_facts(tiny_llama), MACHINE, {}))
    assert {problem.kind for problem in problems} == {"invalid-value"}
    assert "does not divide the model's hidden_size 64" in problems[0].message
    assert "64" in problems[0].fix


def test_unsupported_architecture_is_known_from_the_config_alone(tiny_llama, tmp_path):
    config = json.loads((tiny_llama / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["RwkvForCausalLM"]}))
    (problem,) = Build(Build.Params()).check(read_facts(tmp_path), MACHINE, {})
    assert problem.kind == "unsupported"
    assert "'RwkvForCausalLM' cannot be exported" in problem.message


def test_weights_that_are_not_numbers_are_named(tiny_llama, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"down_proj.* holds NaN or infinity"):
        build(Model("hf", folder), tmp_path, precision="fp32")


@pytest.mark.parametrize("value", [True, "true", "1", 1])
def test_head_of_its_own_cannot_share_the_embedding(value, tiny_llama, tiny_tied):
    step = Build(Build.Params(extra_options={"shared_embeddings": value}))
    problems = [str(problem) for problem in step.check(read_facts(tiny_llama), MACHINE, {})]
    assert len(problems) == 1
    assert "head of its own" in problems[0]
    assert not list(step.check(read_facts(tiny_tied), MACHINE, {}))


def test_folder_with_missing_data_is_refused(built_llama, tmp_path):
    from olivine.exporting import genai_graph

    broken = tmp_path / "broken"
    shutil.copytree(built_llama, broken)
    data = broken / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(ModelError, match="does not hold"):
        genai_graph.check_folder(broken)


def test_builder_is_left_as_it_was(tiny_llama, tmp_path):
    from onnxruntime_genai.models import builder

    before = builder.Model.load_weights
    build(Model("hf", tiny_llama), tmp_path, precision="fp32")
    assert builder.Model.load_weights is before


def test_a_quantized_embedding_does_not_keep_the_layers_from_being_calibrated(tiny_tied, tmp_path):
    """GGUF files often hold the embedding in 8 bits and the layers in a form that has to be rounded anew."""
    from olivine.kernels.blockwise import Format, rtn
    from olivine.models.opened import Opened

    opened = Opened(Model("hf", tiny_tied))
    source = dict(opened.weights)
    for part, name in (("embedding", "model.embed_tokens.weight"), ("layer", "model.layers.0.mlp.up_proj.weight")):
        stored = {**source, name: replace(source[name], blockwise=lambda n=name: rtn(source[n].read(), Format(8)))}
        context = Context(tmp_path, tmp_path, MACHINE, Silent())
        step = Build(Build.Params(calibration_tokens=512))
        opened.weights = stored
        found = step._calibrated(opened, context)
        assert bool(found.folding.folds) is (
            part == "embedding"
        )  # into codes that are taken over nothing can be folded
        assert found.folding.importances["lm_head.weight"].dim() == (1 if part == "embedding" else 2)


WEIGHTS = ("model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.q_proj.bias", "model.norm.weight")


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize(
    "params",
    [
        {"precision": "fp32"},
        {"precision": "int4"},  # calibrates first
        {"precision": "int8"},
        {"precision": "int4", "use_qdq": True, "int4_algo_config": "default"},  # the builder reads the weights
    ],
)
def test_weights_that_are_not_numbers_are_named_as_the_checkpoint_names_them(params, name, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tiny_model(tmp_path / "model", "qwen2")
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[5] = float("inf")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=f"the weight '{re.escape(name)}' holds NaN or infinity"):
        build(Model("hf", folder), tmp_path, **params)

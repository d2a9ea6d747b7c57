"""The chat template of a delivered folder: rendered by the runtime, by transformers where it cannot, and never a wall."""

import json
import re

import onnxruntime_genai
import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

from olivine.cli.chat import command
from olivine.errors import ModelError
from olivine.exporting import delivered_template
from olivine.models import Model
from olivine.passes import Context, Machine, passes
from olivine.runtimes.chat import open_chat
from reports import Told
from tiny import tiny_model

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
HI = [{"role": "user", "content": "hi"}]
SYSTEM = {"role": "system", "content": "be brief"}
TURN = "{{- '<|' + message.role + '|>\n' + message.contentHERE + '<|end|>\n' }}"
LOOP = "{%- for message in messages %}" + TURN + "{%- endfor %}{%- if add_generation_prompt %}<|assistant|>{%- endif %}"
PLAIN = LOOP.replace("HERE", "")
WANTS_SYSTEM = (
    "{%- if messages[0].role != 'system' %}{{ raise_exception('a system message first') }}{%- endif %}" + PLAIN
)
REPLACES = LOOP.replace("HERE", '.replace("/no_think", "").rstrip()')
PARTS = LOOP.replace("message.contentHERE", "(message.content | map(attribute='text') | join)")
SHOUTS = LOOP.replace("HERE", "|upper")


def model_with(template, folder):
    """A tiny Llama with that template; None for none, as a base model has it."""
    tiny_model(folder, "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    if template is None:
        (folder / "chat_template.jinja").unlink(missing_ok=True)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """template -> the folder of the model, the built folder, the warnings; each is built once."""
    made = {}

    def build(template):
        if template not in made:
            folder = tmp_path_factory.mktemp("template")
            source = model_with(template, folder / "model")
            for place in ("built", "scratch"):
                (folder / place).mkdir()
            told, step = Told(), passes.classes["build"]
            context = Context(folder / "built", folder / "scratch", MACHINE, told)
            result = step(step.Params(precision="fp32")).run(Model("hf", source), context)
            made[template] = (source, result.path, told.warnings)
        return made[template]

    return build


def rendered(folder, chat):
    tokenizer = onnxruntime_genai.Tokenizer(str(folder))
    return tokenizer.apply_chat_template(json.dumps(chat), add_generation_prompt=True)


@pytest.mark.parametrize("template", [PLAIN, WANTS_SYSTEM])
def test_the_end_of_a_turn_is_found_with_and_without_a_system_message(template, built):
    _, folder, _ = built(template)
    end = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<|end|>")
    assert end in json.loads((folder / "genai_config.json").read_text())["model"]["eos_token_id"]


def test_a_template_that_reads_contents_in_parts_is_given_parts(built):
    source, folder, warnings = built(PARTS)
    end = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<|end|>")
    assert json.loads((folder / "genai_config.json").read_text())["model"]["eos_token_id"] == [1, end]
    for chat in (open_chat(folder), open_chat(source)):
        assert chat.answer(HI, 8) == chat.answer("<|user|>\nhi<|end|>\n<|assistant|>", 8)
    assert not [warning for warning in warnings if "template" in warning]


def test_a_template_that_refuses_every_chat_does_not_keep_a_model_from_being_built(built):
    _, folder, _ = built("{{ raise_exception('no') }}")
    assert json.loads((folder / "genai_config.json").read_text())["model"]["eos_token_id"] == 1


def test_what_the_runtime_cannot_render_is_said_in_its_words_where_that_is_the_same_text(built):
    source, folder, warnings = built(REPLACES)
    ours, delivered = AutoTokenizer.from_pretrained(source), AutoTokenizer.from_pretrained(folder)
    for content in ("hi", "a /no_think b /no_think  ", "/no_think", " replace( "):
        chat = [SYSTEM, {"role": "user", "content": content}]
        wanted = ours.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert rendered(folder, chat) == wanted
        assert delivered.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == wanted
    assert not [warning for warning in warnings if "template" in warning]


@pytest.mark.parametrize(
    ("expression", "written"),
    [
        ("a.replace('x', 'y')", "(a.split('x') | join('y'))"),
        ("f(a[0]).b.replace(',', ')').strip()", "(f(a[0]).b.split(',') | join(')')).strip()"),
        ("a.replace('x', 'y').replace('z', w[1])", "((a.split('x') | join('y')).split('z') | join(w[1]))"),
        ("a.replace('x', 'y', 1)", "a.replace('x', 'y', 1)"),
        ("a.replace(", "a.replace("),
    ],
)
def test_replacing_is_splitting_and_joining(expression, written):
    assert delivered_template.in_words_of_the_runtime(expression) == written


def test_a_template_that_the_runtime_renders_wrongly_draws_a_warning_and_chat_goes_on(built):
    source, folder, warnings = built(SHOUTS)
    (warning,) = [warning for warning in warnings if "template" in warning]
    assert "cannot render" in warning
    told = []
    assert open_chat(folder, told.append).answer(HI, 12)
    assert open_chat(source).answer(HI, 12)
    assert re.match("onnxruntime-genai cannot render the chat .*; transformers does", told[0])


def test_a_model_without_a_template_says_how_to_continue_a_text(built):
    for folder in built(None)[:2]:
        with pytest.raises(ModelError, match="no chat template; continue a text with --raw"):
            open_chat(folder).answer(HI, 3)
        assert isinstance(open_chat(folder).answer("what a", 3), str)


def test_a_system_message_can_be_given_to_a_template_that_wants_one(built):
    folder = str(built(WANTS_SYSTEM)[1])
    refused = CliRunner().invoke(command, [folder, "--prompt", "hi"])
    assert "refuses this chat: a system message first" in str(refused.exception)
    told = CliRunner().invoke(command, [folder, "--prompt", "hi", "--system", "be brief", "--max-new-tokens", "3"])
    assert told.exit_code == 0

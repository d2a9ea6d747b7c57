"""Odd files beside the weights are refused before anything runs, in a sentence; those of real models are none."""

import json
import shutil

import pytest

from olivine.errors import ModelError
from olivine.jinja import syntax_fault
from olivine.models import Model
from olivine.models.inspect import check_checkpoint
from olivine.models.loading import load_tokenizer
from tiny import VOCABULARY


@pytest.fixture
def copy(tiny_llama, tmp_path):
    return shutil.copytree(tiny_llama, tmp_path / "model")


def only(folder):
    (problem,) = check_checkpoint(folder)
    assert problem.kind == "missing-model"
    return problem.message


def change(path, **settings):
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | settings))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"eos_token_id": "x"}, "eos_token_id must be the id of a token, or a list of them, but holds 'x'"),
        ({"eos_token_id": [1, None]}, "eos_token_id must be the id"),
        ({"bos_token_id": True}, "bos_token_id must be the id"),
        ({"pad_token_id": 1.5}, "pad_token_id must be the id"),
        ({"eos_token_id": [99_999, 1]}, f"eos_token_id names the token 99999, but there are {VOCABULARY}, from 0 on"),
        ({"eos_token_id": -1}, "eos_token_id names the token -1"),
        ({"top_p": 7.0}, "top_p must be a number from 0 to 1, but is 7.0"),
        ({"temperature": -1}, "temperature must be a number of at least 0, but is -1"),
        ({"top_k": -3}, "top_k must be a number of at least 0"),
        ({"top_k": "50"}, "top_k must be a number of at least 0, but is '50'"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty must be"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_generation_that_nothing_could_run_is_refused(copy, name, settings, told):
    change(copy / name, **settings)
    assert only(copy).startswith(f"{name}: {told}")


@pytest.mark.parametrize(
    "settings",
    [
        {"eos_token_id": [1, 6], "bos_token_id": None, "pad_token_id": -1, "top_k": 1000, "temperature": 0.0},
        {"eos_token_id": None, "top_p": 1, "top_k": None, "repetition_penalty": 1.05, "do_sample": True},
    ],
)
def test_generation_of_real_models_is_not_refused(copy, settings):
    change(copy / "generation_config.json", **settings)
    assert list(check_checkpoint(copy)) == []


@pytest.mark.parametrize("content", [b"null", b"[]", b"{", b"", b"\xff", b"[" * 100_000])
@pytest.mark.parametrize(
    "name", ["generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
)
def test_file_beside_the_weights_that_is_no_object_is_named(copy, name, content):
    (copy / name).write_bytes(content)
    assert only(copy).startswith(f"{name} ")


@pytest.mark.parametrize(
    "settings",
    [
        {"model_max_length": "x"},
        {"model_max_length": True},
        {"eos_token": 3},
        {"chat_template": 1},
        {"tokenizer_class": []},
    ],
    ids=str,
)
def test_setting_of_the_tokenizer_of_another_type_is_named(copy, settings):
    change(copy / "tokenizer_config.json", **settings)
    (key,) = settings
    assert only(copy).startswith(f"tokenizer_config.json: {key} cannot be ")


@pytest.mark.parametrize(
    "damage", [lambda text: "{}", lambda text: text[: len(text) // 2], lambda text: "", lambda text: "3"]
)
def test_damaged_tokenizer_is_refused(copy, damage):
    path = copy / "tokenizer.json"
    path.write_text(damage(path.read_text()))
    assert only(copy).startswith("tokenizer.json ")


def test_large_tokenizer_that_is_cut_short_is_refused(copy):
    path = copy / "tokenizer.json"
    text = " " * 9 * 2**20 + path.read_text().rstrip()
    path.write_text(text + "\n")
    assert list(check_checkpoint(copy)) == []
    path.write_text(text[:-200])
    assert "is cut short" in only(copy)


@pytest.mark.parametrize("part", ["normalizer", "added_tokens", "version", "decoder"])
def test_tokenizer_that_its_library_refuses_is_one_sentence(copy, part):
    change(copy / "tokenizer.json", **{part: "x"})
    with pytest.raises(ModelError, match="holds no usable tokenizer"):
        load_tokenizer(Model("hf", copy))


@pytest.mark.parametrize("template", ["{% for %}", "{{", "{% if a %}", "{{ a | nosuch }}", "{" * 3 + "(" * 5000])
def test_template_that_is_no_program_is_told(template):
    assert syntax_fault(template)


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{% for m in messages %}{% if m.role == 'x' %}{% continue %}{% endif %}{{ m['content'] | tojson }}{% endfor %}",
        "{%- generation -%}{{ raise_exception('x') }}{% endgeneration %}{{ strftime_now('%d') }}",
    ],
)
def test_template_of_transformers_is_a_program(template):
    assert syntax_fault(template) is None

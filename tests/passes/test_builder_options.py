"""Options and precisions: what would be ignored, leak, reach out of the folder or compute something else is refused."""

import inspect
import re

import pytest
from pydantic import ValidationError

from olivine.exporting import builder_options
from olivine.models import Model
from olivine.models.inspect import read_facts
from olivine.passes import Machine, passes
from tiny import tiny_model

Build = passes.classes["build"]
CPU = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
CUDA = Machine("cuda", "CUDAExecutionProvider", 8 * 10**9, 10**12, 2)


def refusal(**params):
    with pytest.raises(ValidationError) as caught:
        Build.Params(**params)
    return str(caught.value.errors()[0]["ctx"]["error"])


def test_every_option_of_the_builder_is_taken_or_refused():
    from onnxruntime_genai.models import builder

    told = set(re.findall(r"^ {16}(\w+) = ", inspect.getsource(builder.get_args), re.MULTILINE))
    assert told == builder_options.OPTIONS | set(builder_options.REFUSED) | set(builder_options.WITHOUT_EFFECT)


@pytest.mark.parametrize(
    "name", ["../../model.onnx", "/tmp/model.onnx", "a\\b.onnx", "..", ".onnx", "model.bin", 5, "a/b.onnx"]
)
def test_graphs_are_written_nowhere_but_into_the_result(name):
    assert "plain name" in refusal(extra_options={"filename": name})


def test_a_plain_name_of_the_graph_is_taken():
    assert Build.Params(extra_options={"filename": "decoder.v2.onnx"})


@pytest.mark.parametrize("name", ["hf_token", "HF_TOKEN", "api_key", "my_secret", "hub_token", "password"])
def test_secrets_are_refused_by_name_and_not_shown(name):
    message = refusal(extra_options={name: "Tr0ub4dor-and-3"})
    assert name in message
    assert "environment" in message
    assert "Tr0ub4dor" not in message


@pytest.mark.parametrize("value", [True, "true", 1, "yes"])
def test_trust_is_said_of_the_model_and_not_of_the_export(value):
    assert "load_kwargs.trust_remote_code" in refusal(extra_options={"hf_remote": value})


def test_configs_of_olive_that_leave_trust_and_tokens_alone_are_taken():
    step = Build(Build.Params(extra_options={"hf_remote": False, "hf_token": True, "int4_block_size": 64}))
    assert {"hf_remote", "hf_token"}.isdisjoint(step.options(streamed=True))
    assert step.options(streamed=True)["block_size"] == "64"


@pytest.mark.parametrize("name", sorted(builder_options.REFUSED))
def test_options_that_read_files_are_refused(name):
    assert name in refusal(extra_options={name: "somewhere"})


def test_options_that_the_builder_would_ignore_are_refused():
    message = refusal(extra_options={"fuse_qvk": False})
    assert "no option 'fuse_qvk'" in message
    assert "'fuse_qkv'" in message


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"top_kk": 5}, "no 'top_kk'"),
        ({"max_length": "5"}, "whole number"),
        ({"do_sample": 1}, "true or false"),
        ({"max_length": 0}, "at least 1"),
        ({"temperature": "hot"}, "a number"),
    ],
)
def test_searches_that_the_runtime_would_not_load_are_refused(search, words):
    assert words in refusal(search=search)


@pytest.mark.parametrize(
    ("architecture", "overrides", "precision", "words"),
    [
        ("llama", {"num_key_value_heads": 4}, "bf16", "does not compute bf16"),
        ("llama", {"num_key_value_heads": 2}, "fp16", "share key-value heads"),
        ("llama", {"num_key_value_heads": 1}, "fp16", "share key-value heads"),
        ("mistral", {"num_key_value_heads": 4, "sliding_window": 16}, "fp16", "without an attention window"),
    ],
)
def test_precisions_that_the_target_does_not_compute_are_refused(architecture, overrides, precision, words, tmp_path):
    facts = read_facts(tiny_model(tmp_path / "model", architecture, **overrides))
    (problem,) = Build(Build.Params(precision=precision)).check(facts, CPU, {})
    assert words in problem.message
    assert "Use int4, int8 or fp32" in problem.fix
    assert problem.key == ("precision",)
    assert list(Build(Build.Params(precision=precision)).check(facts, CUDA, {})) == []


def test_half_precision_with_a_key_value_head_for_each_head_is_taken(tmp_path):
    facts = read_facts(tiny_model(tmp_path / "model", "llama", num_key_value_heads=4))
    assert list(Build(Build.Params(precision="fp16")).check(facts, CPU, {})) == []


def test_a_cache_of_the_windows_length_needs_a_length_of_the_window(tmp_path):
    facts = read_facts(tiny_model(tmp_path / "model", "mistral", sliding_window=64))
    options = {"windowed_kv_cache": True}
    (problem,) = Build(Build.Params(extra_options=options, max_length=50)).check(facts, CPU, {})
    assert "keeps 64 tokens, and max_length is 50" in problem.message
    assert list(Build(Build.Params(extra_options=options, max_length=64)).check(facts, CPU, {})) == []


def test_what_the_plan_could_not_see_is_refused_before_the_model_is_read(tmp_path):
    from olivine.errors import Unsupported
    from olivine.passes import Context

    model = Model("hf", tiny_model(tmp_path / "model", "llama"))
    with pytest.raises(Unsupported, match="share key-value heads"):
        Build(Build.Params(precision="fp16")).run(model, Context(tmp_path / "o", tmp_path / "s", CPU, None))

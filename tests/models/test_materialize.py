"""A materialized model is the lazy one, byte for byte, and a full disk is an error."""

import json
import shutil
import signal

import pytest
import torch
from safetensors import safe_open

from olivine.models import Model
from olivine.models.loading import load_tokenizer
from olivine.models.materialize import materialize
from olivine.models.tensors import n_bytes
from olivine.models.weights import weights
from packed import Case, change_config, packed_model


@pytest.fixture
def merged(tiny_llama, llama_adapter):
    return Model("hf", tiny_llama, base=Model("adapter", llama_adapter, base=Model("hf", tiny_llama)))


def test_every_tensor_is_the_lazy_one(merged, tmp_path):
    result = materialize(merged, tmp_path)
    assert result.base is None
    lazy = weights(merged)
    with safe_open(str(tmp_path / "model.safetensors"), framework="pt") as file:
        assert set(file.keys()) == set(lazy)
        for name in file.keys():  # noqa: SIM118 - the file is no mapping
            assert torch.equal(file.get_tensor(name), lazy[name].read())


def test_same_model_is_the_same_bytes(merged, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        materialize(merged, tmp_path / name)
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


def test_tokenizer_comes_along(merged, tmp_path):
    text = "### Text: what a lovely day"
    assert load_tokenizer(materialize(merged, tmp_path))(text) == load_tokenizer(merged)(text)


def test_no_shard_is_larger_than_the_limit(merged, tmp_path):
    materialize(merged, tmp_path, max_shard_bytes=120_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(n_bytes(tensor) for tensor in weights(merged).values())
    sizes = [file.stat().st_size for file in tmp_path.glob("model-*.safetensors")]
    assert len(sizes) > 2
    assert max(sizes) < 120_000 + 5_000  # and its header


def test_own_python_of_a_model_comes_along_when_its_config_refers_to_it(tiny_llama, llama_adapter, tmp_path):
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    (base / "modeling_own.py").write_text("")
    config = json.loads((base / "config.json").read_text())
    merged = Model("hf", base, base=Model("adapter", llama_adapter, base=Model("hf", base)))
    for name, more in (("with", {"auto_map": {"AutoConfig": "modeling_own.Config"}}), ("without", {})):
        (base / "config.json").write_text(json.dumps(config | more))
        (tmp_path / name).mkdir()
        materialize(merged, tmp_path / name)
        assert (tmp_path / name / "modeling_own.py").is_file() == (name == "with")


def test_full_disk_is_an_error(merged, tmp_path):
    resource = pytest.importorskip("resource")  # POSIX
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))  # smaller than the weights, larger than the rest
    try:
        with pytest.raises(OSError, match="too large"):
            materialize(merged, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_merge_into_a_quantized_base_is_stored_in_the_type_of_its_config(dtype, tiny_llama, llama_adapter, tmp_path):
    case = Case("gptq")
    base, _ = packed_model(tiny_llama, tmp_path / "base", case.config, case.pack)
    change_config(base, dtype=dtype)
    merged = Model("hf", base, base=Model("adapter", llama_adapter, base=Model("hf", base)))
    (tmp_path / "out").mkdir()
    stored, lazy = weights(materialize(merged, tmp_path / "out")), weights(merged)
    for name in (f"model.layers.0.{module}.weight" for module in ("self_attn.q_proj", "mlp.down_proj")):
        assert stored[name].dtype == dtype
        assert torch.equal(stored[name].read(), lazy[name].read().to(getattr(torch, dtype)))

"""Readers of files that others wrote keep one promise: refused in a sentence, or what the reference library reads.

Real headers are damaged (bytes flipped, cut, repeated; numbers replaced by those at the borders of their types), and
plain random bytes are read.
"""

import json
import os
import struct

import gguf
import numpy as np
import peft
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from damage import assert_is_sentence, damaged, damaged_json, fuzzed
from olivine.data import parquet_footer
from olivine.errors import DataError, ModelError, Unsupported
from olivine.models import Model
from olivine.models.adapter import check
from olivine.models.gguf_header import GgufHeader
from olivine.models.inspect import check_checkpoint
from olivine.models.tensors import file_weights
from olivine.models.weights import weights
from olivine.store.entries import Cache

# safetensors

TENSORS = {
    "model.norm.weight": torch.arange(6.0),
    "b": torch.arange(8).reshape(2, 4).to(torch.int16),
    "c": torch.ones(3, 1, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4),
}
SAFETENSORS = save(TENSORS, {"format": "pt"})
N_HEADER = int.from_bytes(SAFETENSORS[:8], "little")


@st.composite
def other_headers(draw):
    """A file whose header was damaged as text, with the length that it has then."""
    text = draw(damaged_json(SAFETENSORS[8 : 8 + N_HEADER].decode()))
    return len(text).to_bytes(8, "little") + text + SAFETENSORS[8 + N_HEADER :]


SAFETENSORS_FILES = st.one_of(st.binary(max_size=64), damaged(SAFETENSORS, 0, 8 + N_HEADER), other_headers())


@fuzzed
@given(data=SAFETENSORS_FILES)
def test_safetensors_are_refused_or_what_the_reference_reads(data, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    file.write_bytes(data)
    try:
        ours = file_weights(file)
    except ModelError as error:
        assert_is_sentence(error)
        return
    with safe_open(file, "pt") as theirs:
        assert set(theirs.keys()) == set(ours)
        for name, tensor in ours.items():
            expected, found = theirs.get_tensor(name), tensor.read()
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            assert torch.equal(found.contiguous().view(torch.uint8), expected.contiguous().view(torch.uint8))


@pytest.mark.parametrize(
    "offsets",
    [
        [[0, 16], [0, 16]],  # the same bytes twice
        [[0, 16], [8, 24]],  # overlap
        [[0, 16], [24, 40]],  # a hole
        [[8, 24], [24, 40]],  # a hole at the start
        [[0, 16], [16, 24]],  # fewer bytes than its shape
        [[-16, 0], [0, 16]],  # before the data
        [[16, 0], [0, 16]],
        [[0, 16], [16, 32], [32, 48]],  # past the end
    ],
)
def test_ranges_that_the_reference_refuses_are_refused_by_the_plan(offsets, tiny_llama, tmp_path):
    header = {f"t{index}": {"dtype": "F32", "shape": [4], "data_offsets": pair} for index, pair in enumerate(offsets)}
    text = json.dumps(header).encode()
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((tiny_llama / name).read_bytes())
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(40))
    with pytest.raises(SafetensorError), safe_open(file, "pt"):
        pass
    (problem,) = check_checkpoint(tmp_path)
    assert "model.safetensors" in problem.message


# GGUF


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(64)
    writer.add_token_list(["<s>", "</s>", "grün"])
    writer.add_array("scores", [0.5, -1.5])
    writer.add_custom_alignment(64)
    writer.add_tensor("token_embd.weight", np.arange(5 * 64, dtype=np.float32).reshape(5, 64))
    packed = gguf.quantize(np.ones((32, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.attn_q.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@fuzzed
@given(draw=st.data())
def test_gguf_files_are_refused_or_what_the_reference_reads(draw, gguf_bytes, tmp_path_factory):
    n_header = GgufHeader.read(_written(tmp_path_factory, "whole.gguf", gguf_bytes)).tensors["token_embd.weight"].offset
    random = st.binary(max_size=64).map(lambda rest: b"GGUF" + struct.pack("<I", 3) + rest)
    data = draw.draw(st.one_of(random, damaged(gguf_bytes, 4, n_header), damaged(gguf_bytes)))
    file = _written(tmp_path_factory, "fuzzed.gguf", data)
    try:
        ours = GgufHeader.read(file)
        keys = {key: ours.get(key) for key in ours._metadata}
    except ModelError as error:
        assert_is_sentence(error)
        return
    theirs = gguf.GGUFReader(file)
    assert {t.name: t.data_offset for t in theirs.tensors} == {t.name: t.offset for t in ours.tensors.values()}
    for tensor in theirs.tensors:
        assert tuple(int(n) for n in reversed(tensor.shape)) == ours.tensors[tensor.name].shape
        assert tensor.n_bytes == ours.tensors[tensor.name].n_bytes
        assert int(tensor.tensor_type) == ours.tensors[tensor.name].type_number
    assert set(keys) == {key for key in theirs.fields if not key.startswith("GGUF.")}


@pytest.mark.parametrize("n_things", [2**20, 2**32 - 1, 2**60, 2**64 - 1])
@pytest.mark.parametrize("what", ["keys", "tensors", "dimensions", "texts", "numbers", "bytes of a text"])
def test_counts_of_a_gguf_file_are_not_believed(what, n_things, tmp_path):
    """Of a file of 4 GB that holds nothing but zeros (it takes no room)."""
    text = struct.pack("<Q", 1) + b"k"
    head = {
        "keys": struct.pack("<QQ", 0, n_things),
        "tensors": struct.pack("<QQ", n_things, 0),
        "dimensions": struct.pack("<QQ", 1, 0) + text + struct.pack("<I", min(n_things, 2**32 - 1)),
        "texts": struct.pack("<QQ", 0, 1) + text + struct.pack("<IIQ", 9, 8, max(n_things, 2**23)),
        "numbers": struct.pack("<QQ", 0, 2) + text + struct.pack("<IIQ", 9, 4, max(n_things, 2**31)),
        "bytes of a text": struct.pack("<QQ", 0, 2) + struct.pack("<Q", max(n_things, 2**32)),
    }[what]
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<I", 3) + head)
    os.truncate(file, 2**32)
    with pytest.raises(ModelError, match=r"m\.gguf is"):
        GgufHeader.read(file)


# Parquet


def parquet_bytes():
    table = pa.table({"phrase": ["a", "b", "c"], "tone": [1, 2, 3], "deep": [[{"x": 1}], [], [{"x": 2}]]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


PARQUET = parquet_bytes()
N_FOOTER = int.from_bytes(PARQUET[-8:-4], "little")


@st.composite
def other_footers(draw):
    """A file whose footer was damaged, with the length that it has then."""
    footer = draw(damaged(PARQUET[-8 - N_FOOTER : -8]))
    return PARQUET[: -8 - N_FOOTER] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


@fuzzed
@given(data=st.one_of(st.binary(max_size=64), damaged(PARQUET), other_footers()))
def test_parquet_files_are_refused_or_what_the_reference_reads(data, tmp_path_factory):
    """What only the reference refuses is refused when the rows are read."""
    file = _written(tmp_path_factory, "fuzzed.parquet", data)
    try:
        ours = parquet_footer.read(file)
    except DataError as error:
        assert_is_sentence(error)
        return
    try:
        theirs = pq.read_metadata(file)
        names = theirs.schema.to_arrow_schema().names
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return
    assert (ours.n_rows, ours.columns) == (theirs.num_rows, names)


# adapters


@fuzzed
@given(draw=st.data())
def test_adapter_configs_are_refused_or_what_peft_reads(draw, tiny_llama, llama_adapter, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "fuzzed-adapter"
    folder.mkdir(exist_ok=True)
    tensors = folder / "adapter_model.safetensors"
    if not tensors.is_file():
        tensors.write_bytes((llama_adapter / tensors.name).read_bytes())
    whole = (llama_adapter / "adapter_config.json").read_text()
    text = draw.draw(st.one_of(st.binary(max_size=32), damaged(whole.encode()), damaged_json(whole)))
    (folder / "adapter_config.json").write_bytes(text)
    base = Model("hf", tiny_llama)
    try:
        check(Model("adapter", folder, base=base), weights(base))
    except (ModelError, Unsupported) as error:
        assert_is_sentence(error)
        return
    ours = json.loads((folder / "adapter_config.json").read_text())
    try:
        theirs = peft.LoraConfig.from_pretrained(folder)
    except (TypeError, ValueError, AttributeError, KeyError):  # a field that has no part in a merge
        return
    assert theirs.lora_alpha == ours["lora_alpha"]
    assert theirs.use_rslora == ours.get("use_rslora", False)


# the manifests of our own cache


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    """A cache with one entry, and the manifest of that."""
    cache = Cache(tmp_path_factory.mktemp("cache"))
    cache.prepare()

    def make(folder):
        (folder / "a").write_text("x")
        return {"model": {}}

    with cache:
        made, _ = cache.obtain("k" * 8, "step", make)
    made.folder.chmod(0o755)
    manifest = made.folder / "manifest.json"
    manifest.chmod(0o644)
    return cache, manifest, manifest.read_text()


@fuzzed
@given(draw=st.data())
def test_manifests_are_refused_or_hold(draw, entry):
    cache, path, whole = entry
    path.write_bytes(draw.draw(st.one_of(st.binary(max_size=32), damaged(whole.encode()), damaged_json(whole))))
    found = cache.peek("k" * 8)
    if found is None:
        assert [left.key for left in cache.damaged()] == ["k" * 8]
        return
    assert found.name
    assert found.size_bytes >= 0
    told = cache.damage(found, None, every_byte=True)
    if told is not None:
        assert_is_sentence(told)


def _written(factory, name, data):
    file = factory.getbasetemp() / name
    file.write_bytes(data)
    return file

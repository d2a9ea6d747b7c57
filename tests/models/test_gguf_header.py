"""The header of a GGUF file is read as gguf's own writer meant it, and anything else is refused in a sentence."""

import struct

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from olivine.errors import ModelError
from olivine.models.gguf_header import TYPES, GgufHeader
from olivine.models.inspect import check_checkpoint

WORDS = ["<s>", "</s>", "grün", "日本", ""]


def write_gguf(path, **values):
    """A GGUF file of the architecture llama with two tensors, one of them quantized."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_feed_forward_length(96)
    writer.add_token_list(WORDS)
    for key, value in values.items():
        writer.add_array(key, value) if isinstance(value, list) else writer.add_uint32(key, value)
    writer.add_tensor("token_embd.weight", np.arange(5 * 64, dtype=np.float32).reshape(5, 64))
    packed = gguf.quantize(np.ones((32, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.attn_q.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf", scores=[0.5, -1.5], flags=[True, False])


def test_metadata_is_what_was_written(file):
    header = GgufHeader.read(file)
    assert header.architecture == "llama"
    assert header.get("llama.embedding_length") == 64
    assert header.get("tokenizer.ggml.tokens") == WORDS
    assert header.length("tokenizer.ggml.tokens") == len(WORDS)
    assert header.get("scores") == [0.5, -1.5]
    assert header.get("flags") == [True, False]


def test_value_that_is_not_there_is_the_default(file):
    header = GgufHeader.read(file)
    assert header.get("nothing") is None
    assert header.get("nothing", 7) == 7
    assert header.length("nothing") == 0
    assert header.length("llama.embedding_length") == 0  # a number is no array


def test_tensors_lie_where_gguf_reads_them(file):
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    tensors = GgufHeader.read(file).tensors
    assert set(tensors) == set(read)
    for name, tensor in tensors.items():
        assert tensor.offset == read[name].data_offset
        assert tensor.n_bytes == read[name].n_bytes
        assert tensor.shape == tuple(int(width) for width in reversed(read[name].shape))


def test_shape_counts_rows_first_as_torch_does(file):
    assert GgufHeader.read(file).tensors["token_embd.weight"].shape == (5, 64)


# Q8_1 and Q8_K are never stored in files
@pytest.mark.parametrize("number", sorted(set(TYPES) - {9, 15}))
def test_sizes_of_types_are_those_of_gguf(number):
    name, block, size = TYPES[number]
    kind = gguf.GGMLQuantizationType(number)
    assert (name, (block, size)) == (kind.name, gguf.GGML_QUANT_SIZES[kind])


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 a zip file", b"GGUF"])
def test_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"is not a GGUF file|is truncated"):
        GgufHeader.read(path)


@pytest.mark.parametrize("version", [1, 4, 3 << 24])
def test_version_that_is_not_served_is_named(tmp_path, version):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, 0, 0))
    with pytest.raises(ModelError, match=f"version {version}"):
        GgufHeader.read(path)


def test_type_of_tensor_that_is_not_known_is_named(file, tmp_path):
    raw = file.read_bytes()
    at = raw.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 2 * 8
    path = tmp_path / "m.gguf"
    path.write_bytes(raw[:at] + struct.pack("<I", 250) + raw[at + 4 :])
    with pytest.raises(ModelError, match=r"tensor 'token_embd.weight' has ggml type 250"):
        GgufHeader.read(path)


def test_type_of_value_that_is_not_known_is_named(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 99))
    with pytest.raises(ModelError, match="value type 99"):
        GgufHeader.read(path)


@pytest.mark.parametrize("n_bytes", [8, 24, 60, 200, -1])
def test_file_that_is_cut_is_truncated(file, tmp_path, n_bytes):
    path = tmp_path / "m.gguf"
    path.write_bytes(file.read_bytes()[:n_bytes])
    with pytest.raises(ModelError, match="is truncated"):
        GgufHeader.read(path)


def test_lengths_beyond_the_file_are_refused_at_once(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, 2**62, 2**62, 2**63))
    with pytest.raises(ModelError, match="is truncated"):
        GgufHeader.read(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 420), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_header_is_a_sentence_and_never_a_crash(file, tmp_path, changes):
    raw = bytearray(file.read_bytes())
    for at, byte in changes:
        raw[at] = byte
    path = tmp_path / "m.gguf"
    path.write_bytes(raw)
    assert all(problem.kind == "missing-model" for problem in check_checkpoint(path))

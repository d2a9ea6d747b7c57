"""The streamed export: the builder's own bytes with its own rounding, nothing read twice, nothing half written."""

import contextlib
import errno
import gc
import io
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime_genai
import pytest
import torch

from olivine import memory
from olivine.errors import ModelError, Unsupported
from olivine.exporting import genai_graph, lazy_weights, quantize_graph, rounding, streaming, trial
from olivine.exporting.lazy_weights import lazy_weight
from olivine.exporting.rounding import Settings
from olivine.kernels.blockwise import Format
from olivine.models import Model
from olivine.models.opened import Opened
from olivine.models.safetensors_header import data_start, read_safetensors_header
from olivine.models.tensors import LazyTensor
from olivine.models.weights import announce, weights
from olivine.store.hashes import Hashed, Stamp, hash_file
from plain_genai import greedy
from tiny import tiny_adapter, tiny_model

PROMPT = [1, 40, 50, 60, 70]


def export(model, folder, settings, precision="int4", provider="cpu", **options):
    folder.mkdir(parents=True)
    target = genai_graph.Target(precision, provider, {key: str(value) for key, value in options.items()})
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        genai_graph.build(
            Opened(model), folder, folder.parent / "scratch", target, settings, lambda _done, _total: None
        )
    if provider == "cpu":
        trial.check_generates(
            folder, genai_graph.check_folder(folder), "CPUExecutionProvider"
        )  # it is loaded, and writes a token
    return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def graph(folder):
    return onnx_ir.load(folder / "model.onnx").graph


def node_of(folder, name):
    return next(node for node in graph(folder) if node.name.startswith(name))


FORMS = {
    "int4": ("int4", "cpu", {}, Settings()),
    "block 16": ("int4", "cpu", {"block_size": 16}, Settings(group=16)),
    "int8": ("int8", "cpu", {}, Settings(bits=8)),
    "float32": ("fp32", "cpu", {}, Settings()),
    "CUDA": ("int4", "cuda", {}, Settings()),
    "float16": ("fp16", "cuda", {}, Settings()),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("architecture", "tied"),
    [("llama", False), ("llama", True), ("phi3", False), ("qwen2", False), ("qwen3", True), ("gemma", True)],
)
def test_every_file_is_the_builders_byte_for_byte(architecture, tied, form, tmp_path):
    precision, provider, options, settings = FORMS[form]
    model = Model("hf", tiny_model(tmp_path / "model", architecture, tied=tied, hidden_size=128))
    theirs = export(model, tmp_path / "theirs", None, precision, provider, **options)
    ours = export(model, tmp_path / "ours", settings, precision, provider, **options)
    assert files(ours) == files(theirs)


def test_graph_does_not_name_the_commit_of_a_repository_around_the_environment(tiny_llama, tmp_path):
    folder = export(Model("hf", tiny_llama), tmp_path / "ours", Settings())
    stamp = onnx_ir.load(folder / "model.onnx").producer_version
    assert stamp == f"{onnxruntime_genai.__version__}+{onnxruntime_genai.__commit__[:7]}"


def test_asymmetric_blocks_are_the_builders_as_well(tiny_phi3, tmp_path):
    theirs = export(Model("hf", tiny_phi3), tmp_path / "theirs", None, is_symmetric="false")
    ours = export(Model("hf", tiny_phi3), tmp_path / "ours", Settings(symmetric=False), is_symmetric="false")
    assert files(ours) == files(theirs)


def test_merge_is_exported_on_the_fly(tiny_phi3, tmp_path):
    from olivine.models.materialize import materialize

    adapter = Model("adapter", tiny_adapter(tiny_phi3, tmp_path / "adapter"), base=Model("hf", tiny_phi3))
    folder = tmp_path / "lazy"
    shutil.copytree(tiny_phi3, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    lazy = Model("hf", folder, base=adapter)
    (tmp_path / "whole").mkdir()
    whole = materialize(lazy, tmp_path / "whole")
    one, other = (export(model, tmp_path / name, Settings()) for name, model in (("a", lazy), ("b", whole)))
    assert (one / "model.onnx.data").read_bytes() == (other / "model.onnx.data").read_bytes()


@pytest.fixture
def bytes_read(monkeypatch):
    """Bytes that are read from a checkpoint, by the name of the tensor."""
    sizes, real, counting = {}, np.fromfile, threading.Lock()

    def read(file, dtype, n_bytes, *, offset):
        name = tensor_at(file, offset)
        with counting:
            sizes[name] = sizes.get(name, 0) + n_bytes
        return real(file, dtype, n_bytes, offset=offset)

    monkeypatch.setattr(np, "fromfile", read)
    return sizes


def tensor_at(file, offset):
    """The name of the tensor that holds the byte of a safetensors file."""
    spans = {name: entry["data_offsets"] for name, entry in read_safetensors_header(file).items()}
    return next(name for name, (start, stop) in spans.items() if start <= offset - data_start(file) < stop)


def small_tiles(monkeypatch):
    """A few rows a tile and a job, so that a tiny model is read as a large one is."""
    monkeypatch.setattr(quantize_graph, "CHUNK", 2048)
    monkeypatch.setattr(quantize_graph, "TILE", 512)
    monkeypatch.setattr(streaming, "TILE", 512)


SEARCHED = Settings(symmetric=False, search=True, half_scales=True, embedding_bits=8)


@pytest.mark.parametrize("settings", [Settings(), SEARCHED], ids=["default", "search"])
@pytest.mark.parametrize("architecture", ["llama", "phi3"])
@pytest.mark.parametrize("tiled", [False, True])
def test_every_tensor_is_read_once_and_only_when_written(
    tiled, architecture, settings, bytes_read, tmp_path, monkeypatch
):
    model = Model("hf", tiny_model(tmp_path / "model", architecture, hidden_size=128))
    if tiled:
        small_tiles(monkeypatch)
    save = streaming.save
    monkeypatch.setattr(
        streaming, "save", lambda *a, **k: bytes_read.update(before=sum(bytes_read.values())) or save(*a, **k)
    )
    export(model, tmp_path / "out", settings)
    assert bytes_read.pop("before") == 0
    assert bytes_read == {name: 4 * int(np.prod(tensor.shape)) for name, tensor in weights(model).items()}


@pytest.mark.parametrize("settings", [Settings(), SEARCHED], ids=["default", "search"])
def test_tiles_and_jobs_of_any_size_give_the_same_file(settings, tiny_phi3, tmp_path, monkeypatch):
    whole = export(Model("hf", tiny_phi3), tmp_path / "whole", settings)
    small_tiles(monkeypatch)
    assert files(export(Model("hf", tiny_phi3), tmp_path / "tiled", settings)) == files(whole)


@pytest.fixture(scope="module")
def large_llama(tmp_path_factory):
    """A Llama of 180 MB; read only."""
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 3}
    model = Model("hf", tiny_model(tmp_path_factory.mktemp("large") / "model", **sizes))
    assert sum(path.stat().st_size for path in model.path.glob("*.safetensors")) > 180e6
    return model


def test_memory_is_a_few_tiles_whatever_the_size_of_the_model(tiny_llama, large_llama, tmp_path, monkeypatch):
    """And it is returned: what was read and written does not stay resident."""
    monkeypatch.setattr(streaming, "n_cores", lambda: 2)
    export(Model("hf", tiny_llama), tmp_path / "warm", Settings())
    memory.restart_peak()
    before = memory.peak_bytes()
    (tmp_path / "out").mkdir()
    target = genai_graph.Target("int4", "cpu", {})
    genai_graph.build(
        Opened(large_llama), tmp_path / "out", tmp_path / "scratch", target, Settings(), lambda _done, _total: None
    )
    assert memory.peak_bytes() - before < 64e6


def bytes_moved():
    """What this process has read and written by system calls, whether from the disk or the system's cache."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    told = dict(line.split(": ") for line in lines)
    return int(told["rchar"]), int(told["wchar"])


@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="Linux counts the bytes of a process")
@pytest.mark.parametrize("settings", [Settings(), SEARCHED], ids=["default", "search"])
def test_every_byte_is_read_once_and_written_once_and_hashed_meanwhile(settings, large_llama, tiny_llama, tmp_path):
    export(Model("hf", tiny_llama), tmp_path / "warm", settings)  # imports are read before
    (tmp_path / "out").mkdir()
    target, silent = genai_graph.Target("int4", "cpu", {}), lambda _done, _total: None
    before = bytes_moved()
    written = genai_graph.build(Opened(large_llama), tmp_path / "out", tmp_path / "scratch", target, settings, silent)
    n_read, n_written = (after - earlier for after, earlier in zip(bytes_moved(), before, strict=True))
    data = tmp_path / "out" / "model.onnx.data"
    n_stored = sum(path.stat().st_size for path in large_llama.path.glob("*.safetensors"))
    assert 0 <= n_read - n_stored < 4e6
    assert 0 <= n_written - data.stat().st_size < 2e6
    assert written == {data: Hashed(Stamp.of(data), hash_file(data))}


def test_system_is_told_of_every_byte_before_it_is_read(tiny_llama, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _file, start, size, _what: told.append((start, size)))
    (file,) = tiny_llama.glob("*.safetensors")
    genai_graph.prepare(Model("hf", tiny_llama))
    assert told[0] == (0, file.stat().st_size)
    told.clear()
    announce(Model("adapter", tmp_path, base=Model("hf", tiny_llama)), 1000)
    assert told == [(0, 1000)]
    monkeypatch.delattr(os, "posix_fadvise")  # as on Windows and macOS
    announce(Model("hf", tiny_llama), 1000)


def test_jobs_to_come_are_read_ahead_of(tiny_phi3, tmp_path, monkeypatch):
    small_tiles(monkeypatch)
    monkeypatch.setattr(streaming, "n_cores", lambda: 1)
    order, announce, run = [], quantize_graph.QuantizeRows.announce, quantize_graph.QuantizeRows.run
    job = lambda self: (self.stored.matrix.node, self.start)  # noqa: E731
    monkeypatch.setattr(
        quantize_graph.QuantizeRows, "announce", lambda self: order.append(("told", job(self))) or announce(self)
    )
    monkeypatch.setattr(
        quantize_graph.QuantizeRows, "run", lambda self, write: order.append(("run", job(self))) or run(self, write)
    )
    export(Model("hf", tiny_phi3), tmp_path / "out", Settings())
    told = [job for what, job in order if what == "told"]
    assert len(told) == len(set(told)) > 10
    assert all(0 < order.index(("run", job)) - order.index(("told", job)) <= 3 for job in told)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "phi3", "gemma"])
def test_searched_models_run_and_are_smaller_than_the_builders(architecture, tied, tmp_path):
    model = Model("hf", tiny_model(tmp_path / "model", architecture, tied=tied, hidden_size=128))
    settings = Settings(symmetric=False, search=True, half_scales=True, embedding_bits=8)
    ours = export(model, tmp_path / "ours", settings)
    theirs = export(model, tmp_path / "theirs", Settings())
    assert (ours / "model.onnx.data").stat().st_size < (theirs / "model.onnx.data").stat().st_size
    assert len(greedy(ours, PROMPT, 12)) > len(PROMPT)
    genai_graph.refuse_slow_forms(onnx_ir.load(ours / "model.onnx"), "CPUExecutionProvider")


def test_half_scales_change_no_logit(tiny_llama, tmp_path):
    """The runtime folds the Cast; codes are those of the rounded scale, so both graphs hold the same numbers."""
    import onnxruntime

    folder = export(Model("hf", tiny_llama), tmp_path / "a", Settings(symmetric=False, search=True, half_scales=True))
    scales = {name: value for name, value in graph(folder).initializers.items() if name.endswith("_scales_16")}
    assert scales
    assert all(value.dtype == onnx_ir.DataType.FLOAT16 for value in scales.values())
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    assert "Cast" not in {
        node.op_type for node in onnx_ir.load(tmp_path / "optimized.onnx").graph if "scales" in str(node.name)
    }


def test_8_bit_head_is_shared_with_a_tied_embedding(tiny_tied, tmp_path):
    folder = export(Model("hf", tiny_tied), tmp_path / "out", Settings(symmetric=False, search=True, head_bits=8))
    nodes = {node.name: node for node in graph(folder)}
    head, embedding = nodes["/lm_head/MatMul_Q8"], nodes["/model/embed_tokens/GatherBlockQuantized"]
    assert head.attributes["bits"].value == embedding.attributes["bits"].value == 8
    assert embedding.inputs[0].producer().inputs[0] is head.inputs[1]
    assert embedding.inputs[2] is head.inputs[2]
    assert len(greedy(folder, PROMPT, 12)) > len(PROMPT)


def test_embedding_rows_are_those_of_the_model(tiny_llama, tmp_path):
    """An embedding of its own in 8 bits: every row dequantizes to the checkpoint's within half a step."""
    folder = export(Model("hf", tiny_llama), tmp_path / "out", Settings(search=True, embedding_bits=8))
    node = node_of(folder, "/model/embed_tokens")
    assert node.op_type == "GatherBlockQuantized"
    codes, scales, zeros = (node.inputs[place].const_value.numpy() for place in (0, 2, 3))
    embedding = weights(Model("hf", tiny_llama))["model.embed_tokens.weight"].read().numpy()
    group = embedding.shape[1] // scales.shape[1]
    found = (codes.reshape(*scales.shape, group).astype(np.float32) - zeros[..., None]) * scales[..., None]
    assert np.abs(found.reshape(embedding.shape) - embedding).max() <= scales.max() * 0.51
    assert len(greedy(folder, PROMPT, 12)) > len(PROMPT)


def test_layers_with_the_largest_error_get_8_bits_within_the_budget(tiny_llama, tmp_path):
    settings = Settings(symmetric=False, search=True, int8_share=0.3)
    folder = export(Model("hf", tiny_llama), tmp_path / "out", settings)
    sizes = {4: 0, 8: 0}
    for node in graph(folder):
        if node.op_type == "MatMulNBits":
            sizes[node.attributes["bits"].value] += node.attributes["K"].value * node.attributes["N"].value
    assert 0 < sizes[8] <= 0.3 * (sizes[4] + sizes[8])
    assert len(greedy(folder, PROMPT, 12)) > len(PROMPT)


def test_excluded_nodes_stay_float(tiny_llama, tmp_path):
    settings = Settings(excluded=frozenset({"/lm_head/MatMul"}))
    folder = export(Model("hf", tiny_llama), tmp_path / "out", settings, nodes_to_exclude="/lm_head/MatMul")
    assert node_of(folder, "/lm_head").op_type == "MatMul"


def test_group_that_does_not_divide_is_refused_with_one_that_does(tmp_path):
    model = Model("hf", tiny_model(tmp_path / "model", hidden_size=64, intermediate_size=48))
    with pytest.raises(Unsupported, match=r"32 does not divide the 48 inputs of '.*down_proj.*'; use 16"):
        export(model, tmp_path / "out", Settings())


def test_full_disk_leaves_nothing(tiny_llama, tmp_path, monkeypatch):
    real, written = os.pwrite, []

    def pwrite(descriptor, data, place):
        written.append(len(data))
        if sum(written) > 20_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, place)

    monkeypatch.setattr(streaming.os, "pwrite", pwrite)
    with pytest.raises(OSError, match="No space"):
        export(Model("hf", tiny_llama), tmp_path / "out", Settings())
    assert not list((tmp_path / "out").glob("*.onnx*"))


def test_short_writes_and_systems_without_pwrite_give_the_same_file(tiny_llama, tmp_path, monkeypatch):
    whole = export(Model("hf", tiny_llama), tmp_path / "whole", Settings())
    real = os.pwrite
    monkeypatch.setattr(streaming.os, "pwrite", lambda descriptor, data, place: real(descriptor, data[:777], place))
    short = export(Model("hf", tiny_llama), tmp_path / "short", Settings())
    monkeypatch.delattr(streaming.os, "pwrite")
    seeking = export(Model("hf", tiny_llama), tmp_path / "seeking", Settings())
    assert files(whole) == files(short) == files(seeking)


def test_nan_is_named_by_the_checkpoints_tensor(tiny_llama, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.self_attn.k_proj.weight"][3, 5] = float("inf")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"'model.layers.1.self_attn.k_proj.weight' holds NaN or infinity"):
        export(Model("hf", folder), tmp_path / "out", Settings())


def test_builder_is_as_before_even_when_the_export_fails(tiny_llama, tmp_path):
    from onnxruntime_genai.models import builder

    before = dict(vars(builder.Model))
    with pytest.raises(Unsupported):
        export(Model("hf", tiny_llama), tmp_path / "out", Settings(group=256))
    assert dict(vars(builder.Model)) == before
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"accuracy_level": 1, "bits": 8}, "accuracy level 4"),
        ({"float_zeros": True}, "not stored as integers"),
        ({"g_idx": True}, "g_idx"),
    ],
)
def test_forms_without_a_cpu_kernel_are_refused(change, why, tiny_llama, tmp_path):
    folder = export(Model("hf", tiny_llama), tmp_path / "out", Settings(symmetric=False))
    model = onnx_ir.load(folder / "model.onnx")
    node = next(node for node in model.graph if node.op_type == "MatMulNBits")
    for key in ("accuracy_level", "bits"):
        if key in change:
            node.attributes[key] = onnx_ir.AttrInt64(key, change[key])
    if change.get("float_zeros"):
        node.replace_input_with(3, node.inputs[2])
    if change.get("g_idx"):
        node.resize_inputs(5)
        node.replace_input_with(4, node.inputs[1])
    onnx_ir.save(model, folder / "model.onnx")
    with pytest.raises(ModelError, match=why):
        genai_graph.refuse_slow_forms(model, "CPUExecutionProvider")
    genai_graph.refuse_slow_forms(model, "CUDAExecutionProvider")


def leaf(name, value):
    return LazyTensor(name, tuple(value.shape), "float32", lambda: value, lambda start, stop: value[start:stop])


def test_what_is_done_to_lazy_weights_is_done_to_their_numbers():
    first, second = torch.randn(6, 8), torch.randn(4, 8)
    a, b = (lazy_weight(leaf(name, value), torch.float32) for name, value in (("a", first), ("b", second)))
    joined = torch.cat([a[1:5], b], dim=0).T.to(torch.float16)
    assert torch.equal(joined.compute(), torch.cat([first[1:5], second]).T.to(torch.float16))
    assert joined.flipped
    assert joined.rows.names == ["a", "b"]
    assert torch.equal(joined.rows.read(3, 6), torch.cat([first[1:5], second])[3:6].to(torch.float16))
    for dtype in (torch.float16, torch.float32):
        out = torch.empty(3, 8, dtype=dtype)
        joined.rows.read_into(out, 3, 6)
        assert torch.equal(out, joined.rows.read(3, 6).to(dtype))
    halves = a.split(3)
    assert [half.rows.pieces[0].start for half in halves] == [0, 3]
    assert torch.equal(halves[1].compute(), first[3:])
    shifted = a + 1
    assert shifted.rows is None
    assert torch.equal(shifted.compute(), first + 1)
    assert (a * 2).sum().item() == pytest.approx(float((first * 2).sum()))


def test_columns_and_partial_transposes_are_not_taken_for_rows():
    value = torch.randn(6, 8)
    weight = lazy_weight(leaf("a", value), torch.float32)
    for made, expected in (
        (weight[:, 2:4], value[:, 2:4]),
        (weight.T[1:3], value.T[1:3]),
        (weight.reshape(8, 6), value.reshape(8, 6)),
        (weight[::2], value[::2]),
    ):
        assert made.rows is None
        assert torch.equal(made.compute(), expected)


def test_widest_group_divides():
    assert rounding.widest_group(576, 128) == 64
    assert rounding.widest_group(24, 128) is None
    assert Format(4, 32, False).bits_per_weight == 4 + 36 / 32
    assert lazy_weights.Rows(()).n_rows == 0

"""Timings: models in turns, enough of them, and numbers that follow from the seconds; orderings, never real times."""

import itertools
import math
import os
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from graphs import text_classifier
from olivine import nvidia
from olivine.errors import ModelError
from olivine.evaluate import Timings, in_turns, measured, time_models
from olivine.evaluate._base import TimingParams
from olivine.evaluate._rounds import spread
from olivine.models import Model
from olivine.models.onnx_files import graph_of, onnx_model
from olivine.passes import Context, passes
from olivine.runtimes._base import timed
from olivine.runtimes.gpu_memory import GpuMemory
from olivine.runtimes.requests import Asked, open_requests
from olivine.runtimes.session import OnnxSession
from olivine.work import Machine, Silent


class Clockwork:
    """A clock, and requests that move it: the machine slows down by `drift` each second, and stutters at random."""

    def __init__(self, seed, drift=0.0):
        self.now, self.drift, self.random, self.calls = 0.0, drift, np.random.default_rng(seed), []

    def request(self, name, seconds):
        def made():
            stutter = self.random.exponential(0.2) if self.random.random() < 0.1 else 0.0
            taken = seconds * (1 + self.drift * self.now) * (1 + self.random.normal() * 0.01 + stutter)
            self.now += taken
            self.calls.append(name)
            return taken

        return made

    def in_turns(self, params=None, **seconds):
        requests = {name: self.request(name, one) for name, one in seconds.items()}
        return in_turns(requests, float, params or TimingParams(), clock=lambda: self.now)


@pytest.mark.parametrize("drift", [0.0, 0.02])
def test_slower_candidate_is_measured_slower_whatever_drifts(drift):
    """20 of 20, on a machine that is more than twice as slow in the end, with the candidate first or last."""
    for seed in range(20):
        names = ("base", "slow") if seed % 2 else ("slow", "base")
        results = Clockwork(seed, drift).in_turns(**{name: 0.11 if name == "slow" else 0.1 for name in names})
        assert np.median(results["slow"]) > np.median(results["base"])


def test_models_take_turns_forth_and_back_after_a_warm_up():
    machine = Clockwork(0)
    machine.in_turns(TimingParams(warmup_num=1, repeat_test_num=3, max_requests=3), a=0.1, b=0.1)
    assert machine.calls == ["a", "b", *"abbaab"]


def test_requests_end_when_medians_are_known_or_the_budget_ends():
    steady = in_turns({"a": lambda: 1.0}, float, TimingParams(repeat_test_num=8), clock=itertools.count().__next__)
    assert len(steady["a"]) == 8
    wild = Clockwork(3).request("a", 1.0)
    noisy = in_turns(
        {"a": lambda: wild() * np.random.default_rng().uniform(1, 9)},
        float,
        TimingParams(spread=1e-6, max_seconds=20, max_requests=1000),
        clock=itertools.count().__next__,
    )
    assert len(noisy["a"]) == 20
    assert len(in_turns({"a": lambda: 1.0}, lambda _one: math.nan, TimingParams(max_requests=30))["a"]) == 30


@pytest.mark.parametrize("n", [8, 9, 10, 33, 100])
def test_spread_is_that_of_an_interval_that_holds_the_median_19_times_of_20(n):
    values = list(range(1, n + 1))
    width = 2 * spread(values) * values[n // 2]
    n_outside = round((n - 1 - width) / 2)  # values on each side of the interval
    inside = sum(math.comb(n, k) for k in range(n_outside + 1, n - n_outside)) / 2**n
    assert inside >= 0.95
    assert spread(values[:7]) == math.inf


def test_numbers_follow_from_the_seconds():
    writes = Timings([[0.5, 0.010, 0.020], [0.3, 0.030, 0.040]], n_prompt=50, peak_memory_bytes=7)
    numbers = measured({"latency": {}, "throughput": {}, "memory": {}}, writes)
    assert numbers["latency_avg"] == pytest.approx(25)
    assert (numbers["latency_p50"], numbers["latency_max"]) == (pytest.approx(25), pytest.approx(40))
    assert numbers["time_to_first_token"] == pytest.approx(400)
    assert numbers["decode_tokens_per_second"] == pytest.approx(40)
    assert numbers["prefill_tokens_per_second"] == pytest.approx(125)
    assert numbers["peak_memory_bytes"] == 7
    assert "rows_per_second" not in numbers
    batches = measured({"latency": {}, "throughput": {}}, Timings([[0.5], [0.5]], batch_size=4))
    assert (batches["latency_avg"], batches["rows_per_second"]) == (500, 8)
    assert "time_to_first_token" not in batches
    texts = Timings([[0.5, 0.010]], n_prompt=50, batch_size=4, peak_memory_bytes=7, peak_gpu_bytes=9)
    numbers = measured({"throughput": {}, "memory": {}, "latency": {}}, texts)
    assert (numbers["decode_tokens_per_second"], numbers["prefill_tokens_per_second"]) == (400, 400)
    assert (numbers["peak_gpu_bytes"], numbers["latency_p50"]) == (9, 10)
    assert measured({}, writes) == {}


def test_decoders_tell_the_seconds_of_every_token(tiny_llama, tmp_path):
    """In transformers and, built, in onnxruntime-genai; a prompt leaves room for what is written."""
    built = passes.find("build")(passes.find("build").Params(precision="int4"))
    machine = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
    folder = built.run(Model("hf", tiny_llama), Context(tmp_path, tmp_path, machine, Silent()))
    for model in (Model("hf", tiny_llama), folder):
        for n_rows in (1, 3):
            request, n_prompt = open_requests(model, "cpu", "float32", Asked(8, 3, 0, n_rows=n_rows))
            assert (n_prompt, len(request()), len(request())) == (8, 4, 4)
        assert min(request()) > 0
        request, n_prompt = open_requests(model, "cpu", "float32", Asked(10**6, 3, 0))
        assert 0 < n_prompt < 10**6
        assert len(request()) == 4
        with pytest.raises(ModelError, match="do not fit into the"):
            open_requests(model, "cpu", "float32", Asked(8, 10**6, 0))


def test_each_size_of_batches_has_numbers_of_its_own(tmp_path):
    model = onnx_model(text_classifier(tmp_path / "model.onnx"))
    settings = {"warmup_num": 0, "repeat_test_num": 2, "max_requests": 2}
    params = {"settings": settings, "batch_sizes": [1, 3], "metrics": {"throughput": {}}, "watches_gpu": False}
    machine = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
    told = time_models({"base": model}, params, tmp_path, machine, Silent())
    assert {"rows_per_second", "rows_per_second_batch_3"} <= told["numbers"]["base"].keys()
    assert np.load(tmp_path / "base" / "inputs.npz")["input_ids"].shape[0] == 3
    assert told["n_requests"] == 2


def test_gpus_memory_is_what_more_is_in_use_after_what_a_model_did():
    """Others took 100 before, and 50 between what this model does; of the 90 that it takes, it gives 10 back."""
    told = iter([100, 160, 210, 240, 240, 230])
    gpu = GpuMemory(lambda: next(told))
    peaks = []
    for _ in range(3):
        with gpu.counting():
            pass
        peaks.append(gpu.peak_bytes)
    assert peaks == [60, 90, 90]


def test_driver_is_asked_for_the_memory_in_use(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 1024\necho ' 512 '\necho '[N/A]'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia.used_bytes() == 1536 * 2**20
    tool.unlink()
    assert nvidia.used_bytes() == 0


def test_session_that_sleeps_is_slower(tmp_path):
    model = onnx_model(text_classifier(tmp_path / "model.onnx"))
    ids = np.ones((1, 8), dtype=np.int64)
    np.savez(tmp_path / "inputs.npz", input_ids=ids, attention_mask=ids)
    request, n_prompt = open_requests(model, "cpu", "float32", Asked(0, 0, 0, str(tmp_path / "inputs.npz")))
    session = OnnxSession(graph_of(model))

    def sleeps():
        return [timed(lambda: (time.sleep(0.02), session.run({"input_ids": ids, "attention_mask": ids})))[0]]

    assert n_prompt == 0
    results = in_turns({"fast": request, "slow": sleeps}, sum, TimingParams(max_requests=12))
    n_slower = sum(slow > fast for fast, slow in zip(results["fast"], results["slow"], strict=True))
    assert n_slower > len(results["fast"]) / 2


@pytest.fixture
def neighbours():
    """Processes that keep every core busy until the test is over."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_slower_graph_is_measured_slower_20_times_of_20(tmp_path):
    assert n_slower(tmp_path) == 20


def test_slower_graph_is_measured_slower_20_times_of_20_beside_busy_neighbours(tmp_path, neighbours):
    assert n_slower(tmp_path) == 20
    assert all(process.poll() is None for process in neighbours)


def n_slower(folder):
    """How often of 20 a graph of twelve times as many products is the slower one, each time by the median of 12 requests in turns."""
    requests = {}
    for name, n_products in (("base", 2), ("slow", 24)):
        session = one_thread(products(folder / f"{name}.onnx", n_products))
        requests[name] = partial(lambda session: timed(lambda: session.run(None, {"x": _ROWS}))[0], session)
    measures = (in_turns(requests, float, TimingParams(max_requests=12)) for _ in range(20))
    return sum(np.median(times["slow"]) > np.median(times["base"]) for times in measures)


def one_thread(path):
    """A session that waits for no thread of its own: beside busy neighbours, that is a wait for these."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


_ROWS = np.ones((64, 256), dtype=np.float32)


def products(path, n):
    """A graph of so many matrix products."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.eye(256, dtype=np.float32) * 0.5, "w")
    nodes = [helper.make_node("MatMul", ["x" if not i else f"y{i - 1}", "w"], [f"y{i}"]) for i in range(n)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 256]) for name in ("x", f"y{n - 1}")]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path

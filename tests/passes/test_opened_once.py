"""A job opens a model once: calls of what opens are counted by the interpreter's profiler, nothing is patched."""

import sys
from collections import Counter
from contextlib import contextmanager

import onnx_ir
import pytest

from olivine.config.schema import DataConfig
from olivine.evaluate import score
from olivine.models import Model, loading, weights
from olivine.passes import Context, Machine, passes
from olivine.runtimes import genai_tokenizer
from olivine.runtimes.genai import GenaiRuntime
from olivine.runtimes.onnx import OnnxRuntime
from olivine.work import Silent

pytestmark = pytest.mark.usefixtures("warm")

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
OPENING = {
    weights.weights.__code__: "weights",
    loading.load_tokenizer.__code__: "tokenizer",
    loading.load_causal_lm.__code__: "module",
    GenaiRuntime.__init__.__code__: "genai",
    OnnxRuntime.__init__.__code__: "session",
    genai_tokenizer.open_tokenizer.__code__: "runtime's tokenizer",
    onnx_ir.load.__code__: "graph",
}


@contextmanager
def counted():
    """How often each was opened in this thread."""
    calls = Counter()

    def look(frame, event, _):
        if event == "call" and frame.f_code in OPENING:
            calls[OPENING[frame.f_code]] += 1

    sys.setprofile(look)
    try:
        yield calls
    finally:
        sys.setprofile(None)


@pytest.fixture
def built(tiny_llama, tmp_path):
    """What was opened to build the model in int4, to check the folder, and the folder."""
    context = Context(tmp_path / "built", tmp_path / "scratch", MACHINE, Silent())
    context.output.mkdir()
    context.scratch.mkdir()
    build = passes.classes["build"]
    step = build(build.Params(precision="int4", calibration_tokens=512))
    with counted() as to_build:
        model = step.run(Model("hf", tiny_llama), context)
    with counted() as to_check:
        step.ensures(model)
    return to_build, to_check, model


def test_export_opens_its_input_and_its_result_once(built):
    to_build, to_check, _ = built
    assert to_build == {"weights": 1, "tokenizer": 1, "runtime's tokenizer": 1}
    assert to_check == {"graph": 1, "genai": 1}


@pytest.mark.parametrize("name", ["rtn", "kquant", "awq", "gptq"])
def test_quantizer_opens_its_input_once(name, tiny_llama, tmp_path):
    context = Context(tmp_path / "quantized", tmp_path / "scratch", MACHINE, Silent())
    context.output.mkdir()
    context.scratch.mkdir()
    quantizer = passes.classes[name]
    params = {} if name == "rtn" else {"calibration_tokens": 512, "int8_share": 0.1}
    with counted() as opened:
        quantizer(quantizer.Params(group_size=32, **params)).run(Model("hf", tiny_llama), context)
    assert opened == ({"weights": 1} if name == "rtn" else {"weights": 1, "tokenizer": 1})


def test_score_opens_each_model_once(built, tiny_llama, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"q": "a day is", "a": "joy"}\n' * 3)
    config = DataConfig.model_validate(
        {
            "name": "rows",
            "load_dataset_config": {"data_files": str(tmp_path / "rows.jsonl")},
            "pre_process_data_config": {"text_template": "{q} {a}"},
        }
    )
    params = {"data": config.model_dump(mode="json"), "part": "all", "eval_size": None, "seed": 0, "target": "a"}
    opened = {}
    for model in (Model("hf", tiny_llama), built[2]):
        folder = tmp_path / f"scores-{model.format}"
        folder.mkdir()
        with counted() as opened[model.format]:
            score(model, params | {"max_rows": 9, "previous": None}, folder, MACHINE, Silent())
    assert opened["hf"] == {"weights": 1, "tokenizer": 1, "module": 1}
    assert opened["onnx"] == {"tokenizer": 1, "runtime's tokenizer": 1, "genai": 1, "session": 1}

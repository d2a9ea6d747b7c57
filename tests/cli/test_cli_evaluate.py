"""`olivine evaluate`: through a real worker, on models that are whole, broken, adapters, GGUF files."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from olivine.cli import exit_code
from tiny import tiny_adapter, write_rows

sys.path.insert(0, str(Path(__file__).parent.parent / "models"))
from test_gguf_weights import write_gguf

pytestmark = pytest.mark.usefixtures("warm")

TEMPLATE = "### Text: {phrase}\n### The tone is:\n{tone}"


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def config(folder, model):
    """A config whose rows are scored."""
    text = {"text_template": TEMPLATE, "strategy": "line-by-line", "max_seq_len": 128}
    data = {"data_name": "json", "data_files": str(write_rows(folder / "rows.jsonl", 8))}
    record = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "data_configs": [{"name": "rows", "load_dataset_config": data, "pre_process_data_config": text}],
        "passes": {"lora": {"type": "LoRA", "train_data_config": "rows"}},
        "quality": {"data_config": "rows"},
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }
    path = folder / "config.json"
    path.write_text(json.dumps(record))
    return path


def evaluate(capsys, model, path):
    """Exit code, the scores (of strict JSON), and what was said."""
    code = exit_code(["evaluate", str(model), "--config", str(path), "--json"])
    printed = capsys.readouterr()
    return code, json.loads(printed.out, parse_constant=refuse)["scores"], printed.err


def broken(model, folder, value):
    """A copy of the model whose last norm is that value everywhere."""
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"].fill_(value)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(("value", "what"), [(0.0, "flat logits"), (math.nan, "NaN logits in 8 of 8 rows")])
def test_broken_model_ends_with_1_and_says_why(value, what, tiny_llama, tmp_path, capsys):
    model = broken(tiny_llama, tmp_path / "broken", value)
    code, scores, error = evaluate(capsys, model, config(tmp_path, tiny_llama))
    assert code == 1
    assert f"olivine: its output is degenerate: {what}" in error
    if math.isnan(value):
        assert (scores["loss"], scores["perplexity"]) == (None, None)
        assert scores["no_number"] == ["loss", "perplexity"]


@pytest.mark.slow
def test_gguf_file_and_adapter_of_one_are_scored_as_what_they_were_made_from(tiny_llama, tmp_path, capsys):
    import gguf

    file = write_gguf(tiny_llama, tmp_path / "a.gguf", "llama", gguf.GGMLQuantizationType.F32)
    adapter = tiny_adapter(tiny_llama, tmp_path / "adapter")
    of_folder = [evaluate(capsys, model, config(tmp_path, tiny_llama))[1] for model in (tiny_llama, adapter)]
    of_file = [evaluate(capsys, model, config(tmp_path, file))[1] for model in (file, adapter)]
    for ours, theirs in zip(of_file, of_folder, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
    assert of_file[0]["loss"] != pytest.approx(of_file[1]["loss"], abs=1e-2)

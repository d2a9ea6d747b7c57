"""What a plan says of end tokens is said of models that write text, and of no others."""

import json

import pytest

from encoders import tiny_encoder, write_config
from olivine.config import load
from olivine.workflow.plan import make_plan
from tiny import tiny_model


@pytest.mark.parametrize("writes", [True, False])
def test_end_token_is_told_of_where_the_model_writes_text(tmp_path, writes):
    if writes:
        tiny_model(tmp_path / "model")
    else:
        tiny_encoder(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "a day", "label": 1}) + "\n")
    rows = {
        "name": "rows",
        "load_dataset_config": {"data_name": "json", "data_files": "rows.jsonl"},
        "pre_process_data_config": {"text_cols": ["text"]},
    }
    chain = {"s": {"type": "LoRA", "train_data_config": "rows"} if writes else {"type": "OnnxConversion"}}
    plan = make_plan(load(write_config(tmp_path, tmp_path / "model", chain, data_configs=[rows])))
    assert any("end token of the tokenizer" in note for note in plan.translated) == writes

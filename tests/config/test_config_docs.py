"""What docs/config.md shows is read as it says."""

import re
from pathlib import Path

from olivine.config import load
from olivine.config.schema import Quality, Workflow

DOCS = Path(__file__).parents[2] / "docs" / "config.md"


def test_the_example_is_in_todays_form_and_without_a_problem(tmp_path):
    (example,) = re.findall(r"```json\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    path = tmp_path / "olive-config.json"
    path.write_text(example, encoding="utf-8")
    loaded = load(path)
    assert loaded.problems == ()
    assert not any(note.old for note in loaded.notes)


def test_the_shown_problems_are_what_is_said(tmp_path):
    text = DOCS.read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL)
    wrong = example.replace('"data_files"', '"data_file"').replace('"max_seq_len": 128', '"max_seq_len": "long"')
    wrong = wrong.replace('"output_dir"', '"workflow_host": "aml",\n  "output_dir"')
    path = tmp_path / "olive-config.json"
    path.write_text(wrong, encoding="utf-8")
    found = [str(problem).removeprefix(f"{tmp_path}/") for problem in load(path).problems]
    assert "\n".join(found) + "\n" == shown


def test_every_key_of_the_tables_exists():
    text = DOCS.read_text(encoding="utf-8")
    for field in ("max_drop", "data_config", "target", "max_samples", "enabled"):
        assert field in Quality.model_fields
        assert f"`{field}`" in text
    for field in (
        "input_model",
        "data_configs",
        "passes",
        "systems",
        "host",
        "target",
        "quality",
        "log_severity_level",
    ):
        assert field in Workflow.model_fields
        assert f"`{field}`" in text

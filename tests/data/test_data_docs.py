"""The examples of docs/data.md do what the page says."""

import json
import re
from pathlib import Path

from olivine.config.schema import DataConfig

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_python_examples_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec("\n".join(blocks("python")), {})


def test_config_of_the_page_is_valid():
    (example,) = blocks("json")
    assert DataConfig.model_validate(json.loads(example)).name == "tones"

"""What the pages of the site say, beside what other tests hold of single pages."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from olivine.config import load
from olivine.passes import passes
from olivine.workflow.plan import make_plan

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def strings_of_the_sources():
    """Every text in our code, with the parts of f-strings."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_messages_of_the_troubleshooting_page_are_those_of_the_program():
    """Each is quoted with ... where the program puts a name or a number."""
    said = "\n".join(strings_of_the_sources())
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^`(.+)`\n:", page, re.MULTILINE)
    assert len(messages) > 12
    for message in messages:
        pieces = [piece.strip(" ;,.?") for piece in re.split(r"\.\.\.|'[^']*'|\(.*?\)|;", message)]
        longest = max(pieces, key=len)
        assert len(longest) >= 8, message
        assert longest in said, message


def test_every_page_is_reached_from_the_index():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^([\w-]+)$", index, re.MULTILINE))
    assert {page.stem for page in PAGES} - {"index", "README"} <= listed


def test_no_page_has_a_name_that_the_site_writes_over():
    assert not {page.stem for page in PAGES} & {"search", "genindex"}


def test_passes_of_olive_that_the_page_names_are_found():
    page = (DOCS / "from-olive.md").read_text(encoding="utf-8").split("## Passes")[1].split("##")[0]
    names = re.findall(r"`(\w+)`", page.split("lists what")[0].replace("`olivine passes`", ""))
    assert len(names) > 15
    assert [name for name in names if passes.find(name) is None] == []


def test_parts_of_a_config_on_the_howto_page_plan(tiny_phi3, tmp_path):
    page = (DOCS / "howto.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 2
    rows = [{"question": f"what is {n}?", "answer": f"it is {n}"} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    load_rows = {"data_name": "json", "data_files": str(tmp_path / "rows.jsonl")}
    common = {
        "input_model": {"type": "HfModel", "model_path": str(tiny_phi3)},
        "data_configs": [{"name": "rows", "load_dataset_config": load_rows}],
        "quality": {"data_config": "rows"},
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
    }
    for block in blocks:
        path = tmp_path / "part.yaml"
        path.write_text("\n".join(f"{key}: {json.dumps(value)}" for key, value in common.items()) + f"\n{block}")
        assert make_plan(load(path), offline=True).problems == ()


def test_start_page_works_as_it_is_typed(tmp_path, tiny_phi3, monkeypatch):
    """Its rows, the config that init makes of them, and the plan; the run is that of other tests."""
    page = (DOCS / "start.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (rows,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    subprocess.run([sys.executable, "-c", rows], check=True)
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 200
    shutil.copytree(tiny_phi3, tmp_path / "model")
    for command in (["init", "train.jsonl", "--yes", "--model", "model", "--device", "cpu"], ["plan"]):
        config = ["olive-config.yaml"] if command == ["plan"] else []
        done = subprocess.run(
            [sys.executable, "-m", "olivine", *command, *config], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    names = re.findall(r"passes\.(\w+)\.r=", page)
    assert set(names) == {"tune"}
    assert "tune" in load(Path("olive-config.yaml")).workflow.passes


@pytest.mark.parametrize("page", ["howto", "start", "from-olive"])
def test_commands_of_the_pages_exist_with_their_flags(page):
    from olivine.cli import COMMANDS, olivine

    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    olivine ")]
    assert lines
    for line in lines:
        _, name, *words = line.partition("#")[0].split()
        assert name in COMMANDS, line
        command = olivine.get_command(None, name)
        if words and hasattr(command, "commands"):
            command = command.commands[words[0]]
        known = {option for param in command.params for option in param.opts}
        flags = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert flags <= known, line

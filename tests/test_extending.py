"""The examples of docs/extending.md are installed as they stand there, keep the contracts, and are used."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import olivine
from olivine.testing.tiny import tiny_checkpoint

pytestmark = pytest.mark.usefixtures("warm")

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
BLOCK = re.compile(r"```(?:python|toml)\n# (?P<name>[\w./]+)\n(?P<text>.*?)```", re.DOTALL)
CONFIG = re.compile(r"```json\n(.*?)```", re.DOTALL)
TERMS = {"olivine": "a green mineral", "basalt": "a dark rock", "quartz": "a hard mineral", "chalk": "a soft rock"}


@pytest.fixture(scope="module")
def garden(tmp_path_factory):
    """A folder with the package of the page, installed: its entry points are those of its pyproject.toml."""
    folder = tmp_path_factory.mktemp("garden")
    text = PAGE.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        path = folder / block["name"]
        path.parent.mkdir(exist_ok=True)
        path.write_text(block["text"], encoding="utf-8")
    (folder / "garden" / "__init__.py").write_text("")
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [line for group, names in groups for line in (f"[{group}]", *(f"{n} = {v}" for n, v in names.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    tiny_checkpoint(folder / "model")
    rows = ({"term": term, "meaning": meaning} for term, meaning in TERMS.items())
    (folder / "terms.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (config,) = CONFIG.findall(text)
    (folder / "garden.json").write_text(config)
    return folder


def ran(folder, *arguments):
    """What a process says that has the package on its path; it must end well."""
    source = str(Path(olivine.__file__).parent.parent)
    path = os.pathsep.join([str(folder), source, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_plugin_of_the_page_has_an_entry_point_and_a_test(garden):
    modules = {path.stem for path in (garden / "garden").glob("[a-z]*.py")}
    points = (garden / "pyproject.toml").read_text()
    tests = (garden / "test_garden.py").read_text()
    assert len(modules) >= 4
    for module in modules:
        assert f'"garden.{module}:' in points
        assert f"from garden.{module} import" in tests


@pytest.mark.slow
def test_examples_keep_their_contracts(garden):
    said = ran(garden, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_garden.py")
    assert " passed" in said


def test_form_writes_the_rows_that_data_shows(garden):
    (told,) = json.loads(ran(garden, "-m", "olivine", "data", "--config", "garden.json", "--json"))
    assert told["form"].startswith("the rows of 'terms' are of the form 'glossary'")
    assert "Define olivine." in json.dumps(told)


def test_pass_and_metric_work_in_a_run(garden):
    assert "of the weights of each matrix that become zero" in ran(garden, "-m", "olivine", "passes", "prune")
    said = ran(garden, "-m", "olivine", "run", "--config", "garden.json")
    assert re.search(r"^word_overlap: base [\d.e-]+, thin [\d.e-]+$", said, re.MULTILINE)
    events = [json.loads(line) for line in (garden / "thinner" / "journal.jsonl").read_text().splitlines()]
    scores = [event for event in events if event["event"] == "score"]
    assert [score["model"] for score in scores] == ["base", "thin"]
    assert all(0 <= score["word_overlap"] <= 1 for score in scores)
    from olivine.models import Model
    from olivine.models.weights import weights

    matrix = weights(Model("hf", garden / "thinner" / "model"))["model.layers.0.mlp.up_proj.weight"].read()
    assert (matrix == 0).float().mean().item() == pytest.approx(0.3, abs=1e-3)


def test_package_of_the_page_can_be_installed(garden):
    ran(garden, "-m", "hatchling", "build", "-t", "wheel")
    (wheel,) = (garden / "dist").glob("olivine_garden-*.whl")
    assert {"garden/prune.py", "garden/shed.py"} <= set(zipfile.ZipFile(wheel).namelist())


def test_what_the_pass_refuses_is_a_problem_of_the_plan_at_its_param(garden):
    with pytest.raises(AssertionError, match=r"passes.thin.share: a share above 0.9 leaves no model. Take less."):
        ran(garden, "-m", "olivine", "plan", "--config", "garden.json", "--set", "passes.thin.share=0.95")


def test_code_of_a_plugin_decides_what_runs_again(garden):
    def cached():
        told = json.loads(ran(garden, "-m", "olivine", "plan", "--config", "garden.json", "--json"))
        return {step["name"]: step["cached"] for step in told["steps"]}

    ran(garden, "-m", "olivine", "run", "--config", "garden.json")
    assert cached() == {"thin": True}
    source = garden / "garden" / "prune.py"
    before = source.read_text()
    source.write_text(before.replace("<= border", "< border"))
    assert cached() == {"thin": False}
    source.write_text(before)


def test_sampler_finds_the_best_point(garden):
    assert ran(garden, "search.py") == "{'group_size': 32, 'share': 0.0}\n"

"""examples/plugin is installed as any package is, and every plugin of it is used by a run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import olivine
from olivine.testing.tiny import tiny_checkpoint

EXAMPLE = Path(__file__).parent.parent / "examples" / "plugin"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the config, a model and rows; the package is installed in `site` below it."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "package")
    install(folder)
    tiny_checkpoint(folder / "model")
    shutil.copy(EXAMPLE / "deck.json", folder / "deck.json")
    (folder / "rows.cards").write_text("".join(f"what is {n}? :: it is {n}\n" for n in range(6)))
    return folder


def install(folder):
    flags = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check", "--upgrade"]
    command = [sys.executable, "-m", "pip", "install", *flags, "--target", folder / "site", folder / "package"]
    subprocess.run(command, check=True)


def ran(folder, *arguments, code=0):
    source = Path(olivine.__file__).parent.parent
    path = os.pathsep.join(map(str, [folder / "site", source]))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def test_doctor_lists_what_the_package_adds(place):
    said = json.loads(ran(place, "olivine", "doctor", "--json"))
    kinds = {one["name"] for one in said if one["area"] == "plugins" and "flashcards" in one["message"]}
    assert kinds == {"data source", "metric", "pass", "system"}


@pytest.mark.slow
def test_its_dialect_source_pass_and_metric_make_a_run(place):
    result = json.loads(ran(place, "olivine", "run", "deck.json", "--json"))
    assert [row["model"] for row in result["scores"]] == ["base", "clip"]
    assert all("words_of_an_answer" in row for row in result["scores"])
    assert result["scores"][0]["n_rows"] == 6
    assert (place / "clipped" / "model" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="nice is of POSIX")
def test_its_system_runs_the_pass(place):
    systems = ['systems={"quiet": {"type": "polite", "niceness": 1}}', "cache_dir=other-cache", "output_dir=other"]
    sets = [part for one in systems for part in ("--set", one)]
    result = json.loads(ran(place, "olivine", "run", "deck.json", "--json", *sets, "--on", "quiet"))
    assert result["status"] == "done"


@pytest.mark.slow
def test_its_own_tests_hold(place):
    assert " passed" in ran(place, "pytest", "-q", "-p", "no:cacheprovider", "package/test_flashcards.py")


def test_mistakes_in_a_deck_are_told_with_their_lines(place):
    deck = json.loads((EXAMPLE / "deck.json").read_text())
    del deck["cards"]
    (place / "wrong.json").write_text(json.dumps(deck, indent=1))
    assert "a deck needs 'cards'" in ran(place, "olivine", "plan", "wrong.json", code=2)
    (place / "wrong.json").write_text(json.dumps({**deck, "dialect": "dekc"}, indent=1))
    said = ran(place, "olivine", "plan", "wrong.json", code=2)
    assert "wrong.json:2: there is no dialect 'dekc' (of other packages: deck)" in said


@pytest.mark.slow
def test_another_version_of_the_package_makes_its_results_again_and_no_other(place):
    config = {
        "input_model": {"type": "HfModel", "model_path": "model"},
        "passes": {"b": {"type": "clip"}, "a": {"type": "rtn", "group_size": 32}},
        "quality": {"enabled": False},
        "cache_dir": "version-cache",
        "output_dir": "version-out",
    }
    (place / "first.json").write_text(json.dumps(config))
    own = {**config, "passes": {"a": {"type": "rtn", "group_size": 32}}, "output_dir": "own-out"}
    (place / "own.json").write_text(json.dumps(own))

    def cached(name):
        steps = json.loads(ran(place, "olivine", "plan", name, "--json"))["steps"]
        return {step["name"]: step["cached"] for step in steps}

    for name in ("first.json", "own.json"):
        ran(place, "olivine", "run", name)
    assert (cached("first.json"), cached("own.json")) == ({"b": True, "a": True}, {"a": True})
    project = place / "package" / "pyproject.toml"
    project.write_text(project.read_text().replace('version = "1.0"', 'version = "1.1"'))
    shutil.rmtree(place / "site")
    install(place)
    assert (cached("first.json"), cached("own.json")) == ({"b": False, "a": False}, {"a": True})

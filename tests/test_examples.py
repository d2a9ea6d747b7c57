"""Every example config plans and runs; the published ones with nothing but their paths changed."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from olivine.cli import exit_code
from olivine.config import load
from olivine.workflow.plan import make_plan
from tiny import tiny_model

pytestmark = pytest.mark.usefixtures("warm")

EXAMPLES = Path(__file__).parent.parent / "examples"
N_ROWS = 24


@pytest.fixture
def workplace(tiny_phi3, tmp_path, monkeypatch):
    """A folder with the model and rows where a user would have put them."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_phi3, "model")
    rows = (EXAMPLES / "tone" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:N_ROWS]
    Path("rows.json").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return tmp_path


def with_paths(name: str) -> Path:
    """The published config with its model, data and output paths changed, and nothing else."""
    config = json.loads((EXAMPLES / "configs" / name).read_text(encoding="utf-8"))
    if name == "local-2024.json":
        config["input_model"]["config"]["hf_config"]["model_name"] = "model"
        config["data_configs"][0]["load_dataset_config"]["params"]["data_files"] = "rows.json"
        config["engine"] |= {"cache_dir": "cache", "output_dir": "out"}
    else:
        config["input_model"]["model_path"] = "model"
        config["data_configs"][0]["load_dataset_config"]["data_files"] = "rows.json"
        config |= {"cache_dir": "cache", "output_dir": "out"}
    path = Path("config.json")
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local-2024.json", "local-today.json"])
def test_published_config_runs_with_only_its_paths_changed(name, workplace):
    done = subprocess.run(
        [sys.executable, "-m", "olivine", "run", "--config", with_paths(name), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [row["model"] for row in result["scores"]][-1] == "builder"
    assert result["trained_on"] is (name == "local-today.json")  # the 2024 form holds 30 % of the rows out
    assert (workplace / "out" / "model" / "genai_config.json").is_file()
    lora = next(step for step in result["steps"] if step["name"] == "lora")
    assert lora["facts"]["loss_curve"][-1][0] == 10  # max_steps won over three epochs


def test_plan_of_the_2024_form_says_what_every_old_key_became(workplace):
    plan = make_plan(load(with_paths("local-2024.json")))
    assert plan.problems == ()
    told = " ".join(plan.translated)
    for word in (
        "double_quant",
        "QLoRA",
        "max_steps",
        "lora_r",
        "source_max_len",
        "group_by_length",
        "CUDAExecutionProvider",
    ):
        assert word in told


def test_demo_config_plans_on_any_model(tmp_path, monkeypatch):
    monkeypatch.chdir(EXAMPLES.parent)
    model = tiny_model(tmp_path / "model", "smollm")
    overrides = [f"input_model.model_path={model}", f"cache_dir={tmp_path / 'c'}", f"output_dir={tmp_path / 'o'}"]
    plan = make_plan(load(EXAMPLES / "tone" / "olive-config.json", overrides))
    assert plan.problems == ()
    assert plan.score.data.name == "tone_heldout"  # what is scored is never trained on


def test_search_config_plans_four_trials_that_share_training_and_merge(tmp_path, monkeypatch):
    monkeypatch.chdir(EXAMPLES.parent)
    model = tiny_model(tmp_path / "model", "smollm")
    overrides = [f"input_model.model_path={model}", f"cache_dir={tmp_path / 'c'}", f"output_dir={tmp_path / 'o'}"]
    plan = make_plan(load(EXAMPLES / "search" / "olive-config.json", overrides))
    assert plan.problems == ()
    assert (plan.search.n_valid, plan.search.refused) == (4, {})
    assert (plan.search.n_steps, plan.search.n_own) == (3 * 4 + 3, 2 + 3 + 4)


@pytest.mark.slow
def test_optimize_example_runs_as_it_is_typed_but_for_its_model(tmp_path, monkeypatch, tiny_llama, llama_adapter):
    """Every command of the page, on a tiny model and few rows; a random model keeps no speed-up."""
    text = (EXAMPLES / "optimize" / "README.md").read_text(encoding="utf-8")
    optimize, run = (shlex.split(line)[1:] for line in text.splitlines() if line.startswith("    olivine "))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples" / "tone").mkdir(parents=True)
    rows = (EXAMPLES / "tone" / "heldout.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:8]
    (tmp_path / "examples" / "tone" / "heldout.jsonl").write_text("".join(rows), encoding="utf-8")
    (tmp_path / ".demo" / "tone").mkdir(parents=True)
    (tmp_path / ".demo" / "SmolLM2-135M-Instruct.Q4_1.gguf").symlink_to(tiny_llama)
    (tmp_path / ".demo" / "tone" / "adapter").symlink_to(llama_adapter)
    assert exit_code([*optimize, "--dry-run"]) == 0
    speed = optimize.index("--min-speedup")
    assert exit_code([*optimize[:speed], *optimize[speed + 2 :]]) == 0
    assert (tmp_path / ".demo" / "optimized" / "model" / "genai_config.json").is_file()
    assert exit_code(run) == 0


def shown(cell, names):
    """Run the code of a cell; what a notebook shows of its last line, as HTML where it has some."""
    tree = ast.parse("".join(cell["source"]))
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    value = eval(compile(last, "cell", "eval"), names) if last is not None else None
    return value._repr_html_() if hasattr(value, "_repr_html_") else repr(value)


@pytest.mark.slow
def test_notebook_runs_cell_by_cell(tmp_path, monkeypatch):
    shutil.copytree(EXAMPLES / "tone", tmp_path / "tone")
    for name in ("train.jsonl", "heldout.jsonl"):
        lines = (tmp_path / "tone" / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (tmp_path / "tone" / name).write_text("".join(lines[:16]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    settings, *others = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    names = {}
    shown(settings, names)
    assert {"MODEL", "STEPS", "FOLDER"} <= names.keys()
    names |= {"MODEL": str(tiny_model(tmp_path / "model", "smollm")), "STEPS": 2}
    screens = [shown(cell, names) for cell in others]
    assert screens[0] == "Workflow(olive-config.json: lora -> merge -> builder)"
    assert "<th>builder</th>" in screens[1]
    assert "<caption>every model on the same 16 rows</caption>" in screens[2]
    assert screens[4] in ("'done'", "'goal missed'")
    assert "<th>size bytes</th>" in screens[5]
    assert all(not cell.get("outputs") for cell in notebook["cells"])


def rows_of(name):
    text = (EXAMPLES / "tone" / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_tone_phrases_are_balanced_and_do_not_overlap():
    train, held_out = rows_of("train.jsonl"), rows_of("heldout.jsonl")
    assert len(train) >= 480
    assert len(held_out) >= 120
    for rows in (train, held_out):
        counts = {tone: sum(row["tone"] == tone for row in rows) for tone in ("joy", "sadness", "fear", "surprise")}
        assert len(set(counts.values())) == 1
        assert sum(counts.values()) == len(rows)
    phrases = [row["phrase"].casefold() for row in train + held_out]
    assert len(set(phrases)) == len(phrases)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/config.md"])
def test_config_of_the_documentation_runs(page, workplace):
    """As it stands on the page, but for the paths, the number of steps, and the budget (a tiny model keeps none)."""
    text = (EXAMPLES.parent / page).read_text(encoding="utf-8")
    config = json.loads(text.split("```json\n")[1].split("```")[0])
    config["input_model"]["model_path"] = "model"
    config["data_configs"][0]["load_dataset_config"]["data_files"] = "rows.json"
    config["passes"]["lora"].setdefault("training_args", {})["max_steps"] = 2
    config["quality"]["max_drop"] = 1.0
    Path("page.json").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "olivine", "run", "--config", "page.json", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [row["model"] for row in json.loads(done.stdout)["scores"]] == ["base", "lora", "merge", "builder"]
    assert (workplace / config["output_dir"] / "model" / "genai_config.json").is_file()


def test_table_of_the_readme_keeps_what_it_promises():
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    result = readme.split("<!-- result")[1].split("<!-- /result -->")[0]
    trials, table, goals = re.split(r"\n\n(?=\| (?:model|asked) )", result)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    accuracy = {row[0]: float(row[1].rstrip("%")) for row in rows[2:]}
    assert list(accuracy) == ["base", "lora", "merge", "builder"]
    assert accuracy["builder"] >= 85
    assert accuracy["lora"] - accuracy["builder"] <= 3
    asked = json.loads((EXAMPLES / "tone" / "olive-config.json").read_text(encoding="utf-8"))["evaluators"]["ship"]
    assert all(f"| {metric['name']} " in goals for metric in asked["metrics"])
    (winner,) = [line for line in trials.splitlines() if line.startswith("| →")]
    assert "builder search" in winner
    assert f"{accuracy['builder']}%" in winner


def test_links_of_the_documentation_lead_somewhere():
    import re

    root = EXAMPLES.parent
    for page in [root / "README.md", *root.glob("docs/**/*.md"), *EXAMPLES.glob("**/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"

"""What the layout promises: imports only downwards, nothing heavy in the parent, plugins in files of their own."""

import ast
import importlib
import importlib.metadata
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import olivine
import olivine.passes
from sources import Sources
from tiny import write_rows

ROOT = Path(olivine.__file__).parent
# Modules that only a running pass imports.
RUNNING = {
    "trainer.py",
    "reports.py",
    "rounding.py",
    "mixed.py",
    "lazy_weights.py",
    "quantize_graph.py",
    "streaming.py",
}
# From the lowest up. A module imports from lower layers and from its own package alone.
LAYERS = (
    (
        "absent",
        "allowance",
        "compat",
        "errors",
        "jinja",
        "memory",
        "nvidia",
        "paths",
        "patterns",
        "reading",
        "registry",
        "telemetry",
    ),
    ("__init__", "lazy", "messages", "user_scripts"),
    ("config", "notes"),
    ("data", "models", "search", "store"),
    ("azureml", "work"),
    ("kernels",),
    ("calibration", "training"),
    ("runtimes",),
    ("evaluate", "exporting"),
    ("passes",),
    ("systems",),
    ("workflow",),
    ("report",),
    ("api", "testing"),
    ("cli",),
    ("__main__",),
)
SOURCES = Sources(ROOT, {part: number for number, parts in enumerate(LAYERS) for part in parts})
HEAVY = ("torch", "transformers", "peft", "datasets", "onnx", "onnxruntime", "onnxruntime_genai", "onnx_ir", "numpy")
FILES = sorted(ROOT.rglob("*.py"))


def test_imports_go_to_lower_layers_and_the_own_package_only():
    assert SOURCES.layer_faults() == []


def test_private_modules_are_imported_by_their_own_package_alone():
    assert SOURCES.private_faults() == []


def test_modules_import_each_other_in_no_circle():
    assert SOURCES.circles() == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_heavy_libraries_are_imported_late(path):
    parts = path.relative_to(ROOT).parts
    if parts[0] == "kernels" or path.name in RUNNING:
        return
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not [name for name in names if name.split(".")[0] in HEAVY]


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_help_imports_click_and_nothing_of_weight():
    loaded = modules_after("from olivine.cli import exit_code\nassert exit_code(['--help']) == 0")
    assert not loaded & {*HEAVY, "pydantic", "rich", "yaml", "huggingface_hub", "psutil"}


def test_listing_passes_imports_no_framework():
    loaded = modules_after("from olivine.cli import exit_code\nassert exit_code(['passes']) == 0")
    assert not loaded & set(HEAVY)


def test_list_of_passes_knows_no_runtime_that_it_need_not():
    """Start-up stays what it is: what models are run and measured with is imported when one is."""
    loaded = modules_after("from olivine.cli import exit_code\nassert exit_code(['passes']) == 0")
    own = {name for name in loaded if name.startswith("olivine.")}
    assert not {name for name in own if name.startswith(("olivine.evaluate", "olivine.systems", "olivine.workflow"))}


def test_engine_imports_no_framework():
    loaded = modules_after("import olivine.workflow.engine, olivine.workflow.plan")
    assert not loaded & set(HEAVY)


def test_no_network_or_telemetry_library_is_imported_by_the_parent():
    loaded = modules_after("import olivine.workflow.engine, olivine.workflow.plan, olivine.cli")
    assert not loaded & {"requests", "httpx", "urllib3", "huggingface_hub"}


def _imported(path):
    """Top-level names of the modules that a file imports, at once or lazily."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy.module":
            yield from (name.value.partition(".")[0] for name in node.args if isinstance(name, ast.Constant))


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = [*project["dependencies"], *(need for extra in project["optional-dependencies"].values() for need in extra)]
    declared = {re.split(r"[^\w.-]", need)[0].lower().replace("_", "-") for need in needs}
    distributions = importlib.metadata.packages_distributions()
    imported = {name for path in ROOT.rglob("*.py") for name in _imported(path)} - sys.stdlib_module_names
    imported -= {"olivine", "_typeshed", "triton"}  # of type checkers; of torch, where it runs
    imported -= {"olive"}  # what olivine.compat holds of it
    distributions["azure"] = ["azure-ai-ml"]  # of an extra that the environment of these tests lacks
    distributions["PIL"] = ["pillow"]  # so is this
    names = {name: {each.lower().replace("_", "-") for each in distributions.get(name, [name])} for name in imported}
    assert {name for name, of in names.items() if not of & declared} == set()


def test_plan_imports_the_passes_that_its_config_names_and_nothing_for_what_it_does_not(tiny_llama, tmp_path):
    """Start-up is what every command pays: a pass, a system or a search that is not asked for costs nothing."""
    rows = write_rows(tmp_path / "rows.jsonl")
    read = {"load_dataset_config": {"data_files": str(rows)}, "pre_process_data_config": {"text_cols": "phrase"}}
    config = {
        "input_model": {"model_path": str(tiny_llama)},
        "data_configs": [{"name": "rows", **read}],
        "passes": {
            "lora": {"type": "LoRA", "train_data_config": "rows"},
            "merge": {"type": "MergeAdapterWeights"},
            "build": {"type": "ModelBuilder", "precision": "int4"},
        },
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    arguments = ["plan", str(tmp_path / "config.json")]
    loaded = modules_after(f"from olivine.cli import exit_code\nassert exit_code({arguments!r}) == 0")
    files = {info.name for info in pkgutil.walk_packages(olivine.passes.__path__, "olivine.passes.") if not info.ispkg}
    imported = {name for name in files & loaded if not name.rpartition(".")[2].startswith("_")}
    homes = {"lora": "finetune", "merge": "finetune", "build": "export"}
    assert imported == {f"olivine.passes.{home}.{name}" for name, home in homes.items()}
    assert not loaded & {*HEAVY, "asyncio", "ssl", "rich", "yaml", "optuna", "fsspec"}
    unused = ("azureml", "report", "search.samplers", "systems._elsewhere", "systems._line", "workflow.search_plan")
    unused = (*unused, "workflow.engine", "workflow.events", "evaluate._score", "evaluate._timing")
    assert not {name for name in loaded if name.startswith(tuple(f"olivine.{part}" for part in unused))}


def test_plan_imports_little_more_than_what_its_one_pass_asks(tiny_llama, tmp_path):
    """A config that names a model and ModelBuilder: no rows, no goal, nothing remote, no other format."""
    arguments = ["plan", str(_of_one_pass(tiny_llama, tmp_path))]
    loaded = modules_after(f"from olivine.cli import exit_code\nassert exit_code({arguments!r}) == 0")
    own = {name for name in loaded if name.startswith("olivine.")}
    assert len(own) <= 145
    unused = ("calibration.tokens", "data.forms", "data.sources", "data.strategies", "exporting.pieces", "messages")
    unused = (*unused, "models.gguf_header", "models.hub", "models.onnx_header", "models.sources", "search.objectives")
    assert not own & {f"olivine.{name}" for name in (*unused, "systems._process", "workflow.events")}
    assert not loaded & {*HEAVY, "concurrent.futures", "filelock", "logging", "rich", "xml.etree.ElementTree", "yaml"}


@pytest.mark.slow
def test_run_that_finds_everything_in_the_cache_imports_nothing_that_works_or_draws(tiny_llama, tmp_path):
    arguments = ["run", str(_of_one_pass(tiny_llama, tmp_path))]
    code = f"from olivine.cli import exit_code\nassert exit_code({arguments!r}) == 0"
    for _ in ("makes it", "knows the hashes of files that were new to the first"):
        modules_after(code)
    loaded = modules_after(code)
    own = {name for name in loaded if name.startswith("olivine.")}
    assert len(own) <= 170
    unused = ("data.forms", "data.sources", "models.sources", "report.page", "systems._job", "systems._parcel")
    assert not own & {f"olivine.{name}" for name in unused}
    assert not loaded & {*HEAVY, "concurrent.futures", "filelock", "jinja2", "logging", "rich", "yaml"}


def _of_one_pass(model, folder):
    """A config that needs no calibration and scores nothing."""
    config = {
        "input_model": {"model_path": str(model)},
        "passes": {"build": {"type": "ModelBuilder", "precision": "int4", "int4_algo_config": "default"}},
        "quality": {"enabled": False},
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "config.json"


@pytest.mark.parametrize("package", ["config", "data", "evaluate", "passes.quantize", "search", "systems"])
def test_package_whose_names_are_imported_when_they_are_read_has_all_of_them(package):
    module = importlib.import_module(f"olivine.{package}")
    assert {name for name in module.__all__ if not hasattr(module, name)} == set()
    with pytest.raises(AttributeError, match=f"'olivine.{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018 - that it is read is what matters


def test_plan_imports_neither_the_report_nor_what_draws_the_screen(tmp_path):
    config = tmp_path / "config.json"
    config.write_text('{"input_model": {"model_path": "nowhere"}, "passes": {"lora": {"type": "lora"}}}')
    loaded = modules_after(f"from olivine.cli import exit_code\nassert exit_code(['plan', {str(config)!r}]) == 2")
    assert "olivine.workflow.plan" in loaded
    assert not {name for name in loaded if name.startswith(("olivine.report", "rich", "markupsafe", "huggingface_hub"))}

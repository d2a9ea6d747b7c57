"""What the layout promises: imports only downwards, nothing heavy in the parent, plugins in files of their own."""

import ast
import graphlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import olivine

ROOT = Path(olivine.__file__).parent
# Modules that only a running pass imports.
RUNNING = {"_trainer.py", "_reports.py", "_choices.py", "_lazy_weights.py", "_quantize_graph.py", "_stream.py"}
# A module may import from its own layer and those below it.
LAYERS = {
    "errors": 0,
    "registry": 0,
    "lazy": 0,
    "memory": 0,
    "messages": 0,
    "allowance": 0,
    "paths": 0,
    "telemetry": 0,
    "__init__": 0,
    "config": 1,
    "models": 2,
    "data": 2,
    "search": 2,
    "store": 2,
    "work": 3,
    "kernels": 3,
    "calibration": 4,
    "runtimes": 5,
    "evaluate": 6,
    "passes": 7,
    "systems": 8,
    "workflow": 9,
    "testing": 10,
    "cli": 10,
    "__main__": 10,
}
# Packages without imports of others' private modules and without circles; to become all of them.
OPENED = ("kernels", "calibration", "runtimes", "evaluate", "passes/quantize", "store", "systems", "workflow")
HEAVY = ("torch", "transformers", "peft", "datasets", "onnx", "onnxruntime", "onnxruntime_genai", "onnx_ir", "numpy")
FILES = sorted(ROOT.rglob("*.py"))


def layer(module: str) -> int:
    return LAYERS[module.split(".")[1] if "." in module else "__init__"]


def imported(path: Path):
    """Every module of ours that the file imports, function-level imports included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "olivine":
            if node.module == "olivine":
                yield from (f"olivine.{name.name}" for name in node.names if name.name in LAYERS)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "olivine")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_downwards_only(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for module in imported(path):
        if module != "olivine":
            assert layer(module) <= LAYERS[own], f"{path.name} in '{own}' imports {module}"


def module_name(path: Path) -> str:
    return ".".join(("olivine", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def modules(path: Path) -> set[str]:
    """What the file imports, `from package import module` as the module."""
    every = {module_name(file) for file in FILES}
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & every
            names |= inside or {node.module or ""} & every
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names} & every
    return names


@pytest.mark.parametrize("package", OPENED)
def test_private_modules_are_imported_by_their_own_package_alone(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        own = module_name(path)
        for name in modules(path):
            owner, private, _ = name.partition("._")
            assert not private or own == owner or own.startswith(f"{owner}."), f"{own} imports {name}"


@pytest.mark.parametrize("package", OPENED)
def test_modules_of_a_package_import_each_other_in_no_circle(package):
    graph = {module_name(path): modules(path) for path in (ROOT / package).rglob("*.py")}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the circle


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
    names = {name: {each.lower().replace("_", "-") for each in distributions.get(name, [name])} for name in imported}
    assert {name for name, of in names.items() if not of & declared} == set()

"""A key holds the code that decides the result, and no other."""

import json
import subprocess
import sys

import pytest

from olivine.passes import passes
from olivine.workflow import code as workflow_code
from olivine.workflow.code import code_digest
from tiny import write_rows

PLUGIN = {
    "__init__.py": "",
    "plugin.py": "from . import near\nfrom .sub.far import (\n    value,\n)\n",
    "near.py": "def late():\n    import olivine.kernels.gptq as one, json\n",
    "sub/__init__.py": "",
    "sub/far.py": "from ..started import run\nvalue = 1\n",
    "started.py": "COMMAND = ['-m', 'NAME.program']\n",
    "program.py": "",
    "idle.py": "",
}


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a package of a third party under a name of its own; changes: file -> text."""
    monkeypatch.syspath_prepend(tmp_path)
    n_written = iter(range(100))

    def write(changes=PLUGIN):
        name = f"plugin_{abs(hash(tmp_path))}_{next(n_written)}"
        for file, text in {**PLUGIN, **changes}.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("NAME", name))
        return name

    return write


def _texts(name):
    """What the digest is made of, by names without that of the package."""
    closure = workflow_code._closure(f"{name}.plugin")
    files = {module: path for module in closure if (path := workflow_code._file(module))}
    return {module.removeprefix(name): workflow_code._source(path).replace(name, "") for module, path in files.items()}


def test_everything_that_is_imported_counts_wherever_the_import_stands(plugin):
    names = set(_texts(plugin()))
    assert {"", ".plugin", ".near", ".sub", ".sub.far", ".started", ".program", "olivine.kernels.gptq"} <= names
    assert ".idle" not in names
    assert not {name for name in names if name.startswith(("olivine.workflow", "olivine.cli", "olivine.config"))}


@pytest.mark.parametrize("file", ["plugin.py", "near.py", "sub/far.py", "started.py", "program.py"])
def test_changed_source_changes_the_digest_of_what_imports_it(plugin, file):
    assert _texts(plugin()) != _texts(plugin({file: PLUGIN[file] + "# changed\n"}))


def test_changed_source_that_nothing_imports_changes_nothing(plugin):
    assert _texts(plugin()) == _texts(plugin({"idle.py": "1\n"}))


def test_every_pass_has_the_kernels_data_and_models_it_works_with():
    closures = {name: workflow_code._closure(one.__module__) for name, one in passes.classes.items()}
    assert {"olivine.kernels.gptq", "olivine.models.weights", "olivine.passes._base"} <= closures["gptq"]
    assert {"olivine.data.forms.chat", "olivine.kernels.chunked_loss"} <= closures["lora"]
    assert "olivine.passes.finetune._rank" in closures["lora"]
    assert "olivine.passes.export.build" not in closures["gptq"]
    assert len({code_digest(one.__module__) for one in passes.classes.values()}) == len(passes.classes)
    assert {"olivine.evaluate.label_accuracy", "olivine.evaluate._score"} <= workflow_code._closure("olivine.evaluate")


def test_module_without_sources_counts_with_the_release():
    assert code_digest("no_such_module_anywhere") == f"olivine {workflow_code.olivine.__version__}"


def test_planning_reads_sources_and_imports_nothing(plugin):
    name = plugin()
    code_digest(f"{name}.plugin")
    assert not [module for module in sys.modules if module.startswith(name)]


@pytest.mark.slow
def test_nothing_is_at_work_in_a_pass_that_its_digest_does_not_hold(tiny_llama, tmp_path):
    """The modules of ours that a worker has loaded when it trained an adapter."""
    rows = {
        "name": "rows",
        "load_dataset_config": {"data_files": str(write_rows(tmp_path / "rows.jsonl"))},
        "pre_process_data_config": {"text_template": "{phrase}: {tone}"},
    }
    machine = {"device": "cpu", "execution_provider": "", "memory_bytes": 2**34, "disk_bytes": 2**34, "n_cores": 1}
    job = {
        "kind": "pass",
        "step": "lora",
        "name": "lora",
        "output": str(tmp_path / "output"),
        "scratch": str(tmp_path / "scratch"),
        "params": {"train_data_config": "rows", "training_args": {"max_steps": 1}, "r": 2},
        "model": {"format": "hf", "path": str(tiny_llama)},
        "machine": machine,
        "data": {"rows": rows},
    }
    (tmp_path / "output").mkdir()
    (tmp_path / "scratch").mkdir()
    (tmp_path / "job.json").write_text(json.dumps(job))
    code = (
        "import json, sys\nfrom olivine.passes import passes\npasses.classes\n"
        "from olivine.systems import _elsewhere, _worker\nbefore = set(sys.modules)\ncode = _worker.main(['--job', sys.argv[1]])\n"
        "open(sys.argv[2], 'w').write(json.dumps([code, sorted(set(sys.modules) - before)]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "job.json"), str(tmp_path / "loaded.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    exit_code, loaded = json.loads((tmp_path / "loaded.json").read_text())
    assert exit_code == 0, done.stdout + done.stderr
    held = workflow_code._closure(passes.classes["lora"].__module__)
    ours = {name for name in loaded if name.startswith("olivine.") and not workflow_code.APART.fullmatch(name)}
    assert len(ours) > 5
    assert not {name for name in ours - held if not name.startswith("olivine.systems")}

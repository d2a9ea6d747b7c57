"""Install the built wheel with its `cpu` extra in a clean environment and run a workflow with it (`make wheel-test`).

Not collected by pytest: it builds an environment of its own, which takes minutes.
"""

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Build, install, plan and run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", ROOT)
        (wheel,) = (folder / "dist").glob("*.whl")
        venv.create(folder / "env", with_pip=True)
        python = folder / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        call(*pip, "--constraint", ROOT / "constraints.txt", f"{wheel}[cpu]")
        call(python, "-m", "olivine", "doctor")
        config = make_workflow(folder, python)
        call(python, "-m", "olivine", "plan", "--config", config, cwd=folder)
        call(python, "-m", "olivine", "run", "--config", config, cwd=folder)
        call(
            python,
            "-m",
            "olivine",
            "chat",
            "out/model",
            "--raw",
            "--prompt",
            "day",
            "--max-new-tokens",
            "4",
            cwd=folder,
        )
    print("the wheel works in a clean environment")  # noqa: T201 - this is a script


def make_workflow(folder: Path, python: Path) -> Path:
    """A tiny model, rows, and a config over them, made with the clean environment's own packages."""
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import tiny; from pathlib import Path; "
    code += "tiny.tiny_model(Path('model'), 'phi3'); tiny.write_rows(Path('rows.jsonl'))"
    call(python, "-c", code, cwd=folder)
    published = json.loads((ROOT / "examples" / "configs" / "local-today.json").read_text(encoding="utf-8"))
    published["input_model"]["model_path"] = "model"
    published["data_configs"][0]["load_dataset_config"]["data_files"] = "rows.jsonl"
    published |= {"cache_dir": "cache", "output_dir": "out"}
    published["passes"]["lora"]["training_args"]["max_steps"] = 2
    path = folder / "config.json"
    path.write_text(json.dumps(published), encoding="utf-8")
    return path


def call(*command: object, cwd: Path | None = None) -> None:
    """Run a command and stop when it fails."""
    print("$", *command, flush=True)  # noqa: T201
    subprocess.run([str(part) for part in command], check=True, cwd=cwd, env={**os.environ, "PYTHONPATH": ""})


if __name__ == "__main__":
    main()

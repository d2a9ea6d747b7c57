"""What every pass keeps to, as tests that a pass's own test class inherits."""

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from olivine.errors import Problem
from olivine.models import Model
from olivine.models.facts import DecoderFacts, ModelFacts
from olivine.passes import UNCHANGED, Pass
from olivine.testing._plugin import check_help, check_params, give_name, refusal
from olivine.testing.tiny import tiny_checkpoint
from olivine.work import Context, Estimate, Machine, Silent

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "datasets",
    "onnx",
    "onnxruntime",
    "onnxruntime_genai",
    "onnx_ir",
    "numpy",
    "openvino",
)
MACHINE = Machine("cpu", "CPUExecutionProvider", memory_bytes=2**34, disk_bytes=2**34, n_cores=2, offline=True)
_FACTS = ModelFacts("LlamaForCausalLM", 10**6, DecoderFacts(hidden_size=64, n_layers=2, vocab_size=259))


class PassDeclaration:
    """What a pass says of itself, and what a plan asks of it; nothing is run.

    Set `plugin` to the class; `params` to those that it cannot do without.
    """

    plugin: ClassVar[type[Pass]]
    params: ClassVar[Mapping[str, Any]] = {}

    def make(self) -> Pass:
        """The pass with its params."""
        give_name(self.plugin)
        return self.plugin(self.plugin.Params.model_validate(dict(self.params)))

    def test_docstring_and_params_can_be_shown_and_written(self) -> None:
        """The help of the plugin is the first line of its docstring."""
        check_help(self.plugin)
        check_params(self.plugin.Params)

    def test_class_says_what_the_plan_needs(self) -> None:
        """Formats, libraries, extras and spellings."""
        plugin = self.plugin
        assert isinstance(plugin.accepts, frozenset)
        assert plugin.accepts
        assert plugin.produces in {"hf", "gguf", "adapter", "onnx", "openvino", UNCHANGED}
        assert plugin.version >= 1
        assert all(isinstance(name, str) for name in (*plugin.libraries, *plugin.modules, *plugin.modules.values()))
        assert set(plugin.spellings.values()) <= set(plugin.Params.model_fields)
        assert not set(plugin.not_accepted) & plugin.accepts

    def test_example_can_be_written_in_a_config(self) -> None:
        """Editor and docs show it."""
        assert self.plugin.Params.model_validate({**self.params, **self.plugin.example})

    def test_module_imports_no_framework(self) -> None:
        """A plan reads every pass, in a process that is to start in an instant."""
        code = f"import sys; sys.path[:] = {sys.path!r}; import {self.plugin.__module__}; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert not set(done.stdout.split()) & set(HEAVY)

    def test_model_of_another_format_is_refused_in_a_sentence(self) -> None:
        """The sentence names the format that came."""
        for name in ("hf", "gguf", "adapter", "onnx", "openvino"):
            if name not in self.plugin.accepts:
                model = Model(name, Path("nowhere"))
                assert name in refusal(partial(self.make().requires, model))

    def test_plan_gets_answers_from_the_facts_of_a_model_alone(self) -> None:
        """Problems, notes, an estimate and the facts of the result; no weights are there to be read."""
        step = self.make()
        assert all(isinstance(problem, Problem) for problem in step.check(_FACTS, MACHINE, {}))
        assert all(isinstance(note, str) and note for note in step.notes(_FACTS, MACHINE, {}))
        estimate = step.estimate(_FACTS, MACHINE, {})
        assert isinstance(estimate, Estimate)
        assert min(estimate.memory_bytes, estimate.disk_bytes, estimate.device_memory_bytes) >= 0
        assert isinstance(step.forecast(_FACTS), ModelFacts)


class PassContract(PassDeclaration):
    """The whole contract, with a run on a tiny model.

    is_exact: whether the same model and params give the same bytes.
    """

    is_exact: ClassVar[bool] = True

    def model(self, folder: Path) -> Model:
        """The model that the pass is run on, made in `folder`; a Llama of two layers unless another one is needed."""
        return Model("hf", tiny_checkpoint(folder))

    def context(self, folder: Path) -> Context:
        """What the pass is handed: empty folders in `folder`, and nobody who listens."""
        output, scratch = folder / "output", folder / "scratch"
        output.mkdir(parents=True)
        scratch.mkdir()
        return Context(output, scratch, MACHINE, Silent())

    def run(self, model: Model, folder: Path) -> Model:
        """Requires, run, ensures: as a worker does it."""
        step, context = self.make(), self.context(folder)
        step.requires(model)
        result = step.run(model, context)
        step.ensures(result)
        return result

    def test_result_is_what_the_class_says_and_lies_in_the_output(self, tmp_path: Path) -> None:
        """The output is renamed into the cache: what lies elsewhere would be lost."""
        model = self.model(tmp_path / "model")
        result = self.run(model, tmp_path / "first")
        if self.plugin.produces == UNCHANGED:
            assert result == model
            return
        assert result.format == self.plugin.gives(model.format)
        assert result.path.is_relative_to(tmp_path / "first" / "output")
        assert result.path.exists()
        assert Model.from_json(result.to_json()) == result

    def test_input_stays_as_it_was(self, tmp_path: Path) -> None:
        """Nothing is ever written over."""
        model = self.model(tmp_path / "model")
        before = _content(tmp_path / "model")
        self.run(model, tmp_path / "first")
        assert _content(tmp_path / "model") == before

    def test_same_input_gives_the_same_bytes(self, tmp_path: Path) -> None:
        """What is in the cache is what would be made again."""
        if not self.is_exact:
            return
        model = self.model(tmp_path / "model")
        self.run(model, tmp_path / "first")
        self.run(model, tmp_path / "second")
        assert _content(tmp_path / "first" / "output") == _content(tmp_path / "second" / "output")


def _content(folder: Path) -> dict[str, str]:
    """A hash of every file below the folder, by its name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

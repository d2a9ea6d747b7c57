"""ParityCheck: how far a model is from the one it was made from."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from olivine import lazy, paths
from olivine.config.schema import DataConfig
from olivine.errors import DataError, ModelError, Problem, Unsupported
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.passes._base import UNCHANGED, Pass, PassParams
from olivine.work import Context, Estimate, Machine

if TYPE_CHECKING:
    from olivine.evaluate import parity
else:  # a plan without this pass need not know how models are run
    parity = lazy.module("olivine.evaluate.parity")

# Olive's name of a param -> ours
_OLIVE_NAMES = {
    "reference_model_path": "reference",
    "max_mae": "max_logit_error",
    "max_elements_above_0_1": "max_logits_above_0_1",
    "max_elements_above_0_01": "max_logits_above_0_01",
    "generate_max_new_tokens": "n_new",
    "min_longest_common_tokens": "min_prefix",
}


class ParityCheck(Pass):
    """Compare a model with its reference, token by token, and fail the run when it is too far away.

    1. Both read the same tokens; the divergence of their distributions, the agreement of their best tokens, perplexity,
    greedy text, size, memory and speed are recorded with the step and in `parity.json`. 2. For an ONNX model that
    computes in int8 the error of its weights is told from that of its run time. 3. The model is given back as it came;
    the step after this one goes on from there. 4. A gate that is missed, or output that is degenerate, fails the run
    with exit code 1 when the other steps are done; what was made is kept.
    """

    class Params(PassParams):
        """The reference, what both models read, and what the candidate must keep."""

        reference: str | None = Field(
            None,
            description="name of an earlier step, 'input', or a path; else the last model before that is not quantized",
        )
        base: str | None = Field(None, description="what a reference that is an adapter folder adapts")
        data_config: str | None = Field(None, description="data config whose texts both models read")
        text: str | None = Field(
            None, description="text, JSONL, CSV or Parquet file that both read; else the reference writes the text"
        )
        text_template: str | None = Field(
            None, description="how a row of 'text' becomes text, such as '{question} {answer}'; else its columns tell"
        )
        encoding: str | None = Field(None, description="encoding of 'text', such as cp1252; else UTF-8")
        sep: str | None = Field(None, description="character between the cells of a CSV file that is 'text'")
        n_tokens: int = Field(4096, ge=2, description="tokens that both models read; more make the error bars smaller")
        length: int = Field(256, ge=2, description="tokens of a window that is read at once")
        seed: int = Field(0, ge=0, description="of the text that the reference writes")
        max_kld: float | None = Field(None, ge=0, description="largest mean KL divergence in nats (good: below 0.05)")
        min_top1: float | None = Field(
            None, ge=0, le=1, description="smallest share of positions with the same top token"
        )
        min_prefix: int | None = Field(None, ge=0, description="shortest common start of greedy texts, in tokens")
        max_logit_error: float | None = Field(None, ge=0, description="largest difference of two logits")
        max_logits_above_0_1: int | None = Field(None, ge=0, description="most logits that differ by more than 0.1")
        max_logits_above_0_01: int | None = Field(None, ge=0, description="most logits that differ by more than 0.01")
        n_prompts: int = Field(8, ge=0, description="greedy texts that are compared")
        n_new: int = Field(32, ge=1, description="tokens of a greedy text, and tokens timed for the speed")
        speed: bool = Field(
            True, description="measure load time, memory and speed of both, each in a process of its own"
        )
        split: bool = Field(True, description="tell the error of the weights from that of computing in int8")
        dtype: Literal["float32", "bfloat16", "float16"] = Field(
            "float32", description="what models in transformers are computed in"
        )

        @model_validator(mode="before")
        @classmethod
        def _plain_names(cls, values: Any) -> Any:
            """Params under the names of Olive's OnnxDiscrepancyCheck."""
            if not isinstance(values, Mapping):
                return values
            return {_OLIVE_NAMES.get(key, key): value for key, value in values.items()}

        @model_validator(mode="after")
        def _one_text(self) -> "ParityCheck.Params":
            if self.text is not None and self.data_config is not None:
                raise ValueError("'text' and 'data_config' both say what is read; remove one of them")
            given = [name for name in ("text_template", "encoding", "sep") if getattr(self, name) is not None]
            if given and self.text is None:
                raise ValueError(f"'{given[0]}' is how the text of a file is read; name the file as 'text'")
            return self

    aliases: ClassVar[tuple[str, ...]] = ("ParityCheck", "OnnxDiscrepancyCheck")
    example: ClassVar[Mapping[str, Any]] = {"max_kld": 0.05}
    accepts: ClassVar[frozenset[str]] = frozenset({"hf", "adapter", "onnx", "gguf"})
    produces: ClassVar[str] = UNCHANGED
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "onnxruntime", "onnxruntime-genai")
    modules: ClassVar[Mapping[str, str]] = {}
    params: Params

    def data_names(self) -> list[str]:
        """The data config whose texts are read."""
        return [self.params.data_config] if self.params.data_config is not None else []

    def model_names(self) -> list[str]:
        """The reference, where it is no path."""
        named = self.params.reference
        return [named] if named is not None and not _is_path(named) else []

    def files(self) -> list[Path]:
        """The text, and every file of a reference that is not of this workflow."""
        read = [Path(self.params.text)] if self.params.text is not None else []
        for path in (self.params.reference, self.params.base):
            if path is not None and _is_path(path):
                read += _files(Path(path))
        return read

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """That the reference and the text can be read, as far as their names and headers tell."""
        text, reference, base = self.params.text, self.params.reference, self.params.base
        if text is not None and not paths.is_file(text):
            yield Problem("missing-file", self.name, f"the text '{text}' does not exist.", "Name a file.", ("text",))
        elif text is not None:
            try:
                self._file(text).check()
            except DataError as error:
                yield Problem(error.kind, self.name, str(error), key=("text",))
        if reference is not None and _is_path(reference):
            try:
                parity.open_model(Path(reference), Path(base) if base else None)
            except (ModelError, Unsupported) as error:
                yield Problem(error.kind, self.name, f"reference: {error}.", key=("reference",))

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """Both models in float32 at worst, each in a process with its libraries, and a piece of their logits."""
        return Estimate(memory_bytes=int(1.2e9 + 8.4 * facts.n_parameters), disk_bytes=100_000)

    def run(self, model: Model, context: Context) -> Model:
        """Compare, record what was found, and give the model back."""
        compared = parity.compare(
            self._reference(context), model, self._text(context), self._settings(context), context.report
        )
        for warning in compared.warnings:
            context.report.warn(warning)
        record = compared.to_json()
        (context.output / "parity.json").write_text(
            json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
        context.report.record(parity=record, missed=self._gate().missed(compared), summary=_in_words(compared))
        return model

    def _reference(self, context: Context) -> Model:
        named = self.params.reference
        if named is None:
            return last_unquantized(context.models)
        if named in context.models:
            return context.models[named]
        return parity.open_model(Path(named), Path(self.params.base) if self.params.base else None)

    def _text(self, context: Context) -> "parity.TextFile | DataConfig | None":
        if self.params.text is not None:
            return self._file(self.params.text)
        return context.data[self.params.data_config] if self.params.data_config is not None else None

    def _file(self, path: str) -> "parity.TextFile":
        return parity.TextFile(Path(path), self.params.text_template, self.params.encoding, self.params.sep)

    def _settings(self, context: Context) -> "parity.Settings":
        params = self.params
        return parity.Settings(
            n_tokens=params.n_tokens,
            length=params.length,
            seed=params.seed,
            n_prompts=params.n_prompts,
            n_new=params.n_new,
            speed=params.speed,
            split=params.split,
            device=context.machine.device,
            dtype=params.dtype,
        )

    def _gate(self) -> "parity.Gate":
        params = self.params
        return parity.Gate(
            max_kld=params.max_kld,
            min_top1=params.min_top1,
            min_prefix=params.min_prefix,
            max_logit_error=params.max_logit_error,
            max_logits_above_0_1=params.max_logits_above_0_1,
            max_logits_above_0_01=params.max_logits_above_0_01,
        )


def _is_path(name: str) -> bool:
    """Whether a reference is a path: it exists, or looks like one."""
    return paths.exists(name) or any(mark in name for mark in "/\\") or name.endswith(".gguf")


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def last_unquantized(models: Mapping[str, Model]) -> Model:
    """What the candidate should be equal to: the last model before it whose weights are not rounded."""
    plain = [one for one in models.values() if one.format in ("hf", "adapter", "gguf") and not _is_quantized(one)]
    if not plain:
        raise ModelError("there is no model to compare with before this step; name one as 'reference'")
    return plain[-1]


def _is_quantized(model: Model) -> bool:
    config = model.path / "config.json"
    return config.is_file() and "quantization_config" in json.loads(config.read_text(encoding="utf-8"))


def _in_words(compared: "parity.Parity") -> str:
    summary = compared.summary
    return f"{compared.verdict}: KL {summary.kl:.4f}, same top token {summary.top1_agreement:.1%}"

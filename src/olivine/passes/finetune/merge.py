"""MergeAdapterWeights: base + adapter to one model."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.errors import ModelError
from olivine.models import Model
from olivine.models.chat_template import read_chat_template
from olivine.models.companions import COMPANIONS
from olivine.models.facts import ModelFacts
from olivine.models.turns import name_end_tokens
from olivine.passes._base import Pass, PassParams, last_training
from olivine.work import Context, Estimate, Machine

if TYPE_CHECKING:
    from olivine.models import adapter, materialize
    from olivine.models.tensors import Weights
else:
    adapter = lazy.module("olivine.models.adapter")
    materialize = lazy.module("olivine.models.materialize")


class Merge(Pass):
    """Merge a LoRA adapter into its base model.

    1. The merge is lazy: the result holds config and tokenizer, and its weights are computed, in float32 and one tensor
    at a time, by whoever reads them; a merge that goes on to an export is never written to disk. 2. An adapter that is
    empty, changes nothing, or belongs to another base (names or shapes) is refused with the names. 3. A tied head that
    was trained without its embedding stands on its own in the result, whose config says so. 4. An adapter that was
    trained on a base in 4 or 8 bits fits that base, and is usually merged into the one in 16 bits: both merges are
    scored, and the better one is the result.
    """

    class Params(PassParams):
        """Only for adapters that were trained on a base in 4 or 8 bits."""

        eval_data_config: str | None = Field(None, description="rows to score both merges on; else the training step's")
        eval_dataset_size: float | None = Field(None, gt=0, description="the rows of it that training held out")
        eval_seed: int = Field(42, description="of the split into rows to train on and rows held out")
        eval_max_rows: int = Field(64, gt=0, description="rows to score at most")
        merge_base: Literal["better", "16-bit", "8-bit", "4-bit"] = Field(
            "better", description="which base to merge into"
        )

    aliases: ClassVar[tuple[str, ...]] = ("MergeAdapterWeights",)
    accepts: ClassVar[frozenset[str]] = frozenset({"adapter"})
    produces: ClassVar[str] = "hf"
    is_usual_way: ClassVar[bool] = True
    not_accepted: ClassVar[Mapping[str, tuple[str, str]]] = {
        "hf": ("nothing to merge: '{name}' gives a whole model, not an adapter.", "Remove this pass."),
    }
    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    modules: ClassVar[Mapping[str, str]] = {}
    version: ClassVar[int] = 2
    params: Params

    @classmethod
    def inherited(cls, earlier: Sequence[Pass]) -> Mapping[str, Any]:
        """The rows that a QLoRA step evaluates on, or some that it trains on."""
        rows = last_training(earlier)
        if rows is None or not rows.base_is_rounded:
            return {}
        return {
            "eval_data_config": rows.eval_data or rows.data,
            "eval_dataset_size": None if rows.eval_data else rows.eval_size,
            "eval_seed": rows.seed,
        }

    def data_names(self) -> list[str]:
        """The rows to score both merges on."""
        return [self.params.eval_data_config] if self.params.eval_data_config is not None else []

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """The adapter and one of the base's tensors in float32 at a time."""
        return Estimate(memory_bytes=int(500e6 + 3 * 4 * facts.as_decoder.embedding_size), disk_bytes=20_000_000)

    def run(self, model: Model, context: Context) -> Model:
        """Check the adapter against its base and write the folder of the merged model's config and tokenizer."""
        if model.base is None:
            raise ModelError(f"the adapter {model.path} has no base model to merge into")
        from olivine.models.weights import weights

        base = weights(model.base)
        adapter.check(model, base)
        adapter.refuse_if_nothing_changes(model, base)
        materialize.copy_companions(model.base.path, context.output)
        _copy_tokenizer(model.path, context.output)
        config = json.loads((context.output / "config.json").read_text(encoding="utf-8"))
        if adapter.unties(model, base, tied=bool(config.get("tie_word_embeddings"))):
            config["tie_word_embeddings"] = False
            context.report.record(untied=True)
        self._set_vocabulary(config, model, base, context)
        (context.output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        merged = Model("hf", context.output, base=model, task=model.task, trust_remote_code=model.trust_remote_code)
        if read_chat_template(merged):
            from olivine.models.loading import load_tokenizer

            name_end_tokens(load_tokenizer(merged), context.output)
        return (
            replace(merged, attributes=self._base_of_choice(merged, context))
            if adapter.rounding_of(model) is not None
            else merged
        )

    def _set_vocabulary(self, config: dict[str, Any], model: Model, base: "Weights", context: Context) -> None:
        """The number of tokens of an adapter that has others than its base."""
        n_tokens, text = adapter.n_tokens_of(model, base), config.get("text_config", config)
        if n_tokens is None or n_tokens == text.get("vocab_size"):
            return
        context.report.record(vocab_size={"base": text.get("vocab_size"), "adapter": n_tokens})
        text["vocab_size"] = n_tokens

    def _base_of_choice(self, merged: Model, context: Context) -> Mapping[str, Any]:
        """Which base the adapter goes into: as asked for, or with the lower loss on the user's rows."""
        if self.params.merge_base != "better":
            return {"merge_base": self.params.merge_base}
        trained = _trained_base(merged)
        if self.params.eval_data_config is None:
            message = f"no rows to score both merges on: merged into the {trained} base that it was trained on"
            context.report.warn(message)
            return {"merge_base": trained}
        bases = ("16-bit", trained)
        scores = {base: self._scores(replace(merged, attributes={"merge_base": base}), context) for base in bases}
        best = min(bases, key=lambda base: float(scores[base]["loss"]))
        context.report.record(merge_base=best, merge_scores=scores)
        told = ", ".join(f"{base} {scores[base]['loss']:.4f}" for base in bases)
        context.report.warn(f"merged into the {best} base: its loss on the user's rows is the lower one ({told})")
        return {"merge_base": best}

    def _scores(self, merged: Model, context: Context) -> Mapping[str, Any]:
        from olivine.evaluate import score

        data = context.data[str(self.params.eval_data_config)]
        params = {
            "data": data.model_dump(mode="json"),
            "part": "eval" if self.params.eval_dataset_size else "all",
            "eval_size": self.params.eval_dataset_size,
            "seed": self.params.eval_seed,
            "target": None,
            "max_rows": self.params.eval_max_rows,
        }
        folder = context.scratch / "scores"
        folder.mkdir(parents=True, exist_ok=True)
        scores = score(merged, params, folder, context.machine, context.report)["scores"]
        return {key: scores[key] for key in ("loss", "perplexity", "label_accuracy") if key in scores}


def _trained_base(merged: Model) -> str:
    """What the base is called that the adapter was trained on."""
    rounding = adapter.rounding_of(merged.base) if merged.base is not None else None
    return f"{rounding.n_bits if rounding else 16}-bit"


def _copy_tokenizer(source: Path, target: Path) -> None:
    """The tokenizer that training saved beside the adapter is the one that the model was trained with."""
    if not (source / "tokenizer_config.json").is_file():
        return
    for name in COMPANIONS:
        if name not in ("config.json", "generation_config.json") and (source / name).is_file():
            shutil.copyfile(source / name, target / name)

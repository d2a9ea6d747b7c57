"""MergeAdapterWeights: base + adapter to one model."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from olivine.config.schema import DataConfig
from olivine.errors import ModelError
from olivine.models import Model
from olivine.models.adapter import refuse_if_nothing_changes, unties
from olivine.models.facts import ModelFacts
from olivine.models.materialize import COMPANIONS, copy_companions
from olivine.models.weights import weights
from olivine.passes._base import Context, Estimate, Machine, Pass, PassParams


class Merge(Pass):
    """Merge a LoRA adapter into its base model.

    1. The merge is lazy: the result holds config and tokenizer, and its weights are computed, in float32 and one tensor
    at a time, by whoever reads them; a merge that goes on to an export is never written to disk. 2. An adapter that is
    empty, changes nothing, or belongs to another base (names or shapes) is refused with the names. 3. A tied head that
    was trained without its embedding stands on its own in the result, whose config says so.
    """

    aliases: ClassVar[tuple[str, ...]] = ("MergeAdapterWeights",)
    Params: ClassVar[type[PassParams]] = PassParams
    accepts: ClassVar[frozenset[str]] = frozenset({"adapter"})
    produces: ClassVar[str] = "hf"
    libraries: ClassVar[tuple[str, ...]] = ("torch",)
    modules: ClassVar[Mapping[str, str]] = {}

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:  # noqa: ARG002
        """The adapter and one of the base's tensors in float32 at a time."""
        return Estimate(memory_bytes=int(500e6 + 3 * 4 * facts.vocab_size * facts.hidden_size), disk_bytes=20_000_000)

    def run(self, model: Model, context: Context) -> Model:
        """Check the adapter against its base and write the folder of the merged model's config and tokenizer."""
        if model.base is None:
            raise ModelError(f"the adapter {model.path} has no base model to merge into")
        base = weights(model.base)
        refuse_if_nothing_changes(model, base)
        copy_companions(model.base.path, context.output)
        _copy_tokenizer(model.path, context.output)
        config = json.loads((context.output / "config.json").read_text(encoding="utf-8"))
        if unties(model, base, tied=bool(config.get("tie_word_embeddings"))):
            config["tie_word_embeddings"] = False
            context.report.record(untied=True)
        (context.output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        return Model("hf", context.output, base=model, task=model.task, trust_remote_code=model.trust_remote_code)


def _copy_tokenizer(source: Path, target: Path) -> None:
    """The tokenizer that training saved beside the adapter is the one that the model was trained with."""
    if not (source / "tokenizer_config.json").is_file():
        return
    for name in COMPANIONS:
        if name not in ("config.json", "generation_config.json") and (source / name).is_file():
            shutil.copyfile(source / name, target / name)

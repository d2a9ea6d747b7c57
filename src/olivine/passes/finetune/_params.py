"""Params that training passes share; names are those of Olive's LoRA pass."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from olivine.passes._base import PassParams, TrainingRows
from olivine.training.training_arguments import FIELDS, RENAMED, SYNONYMS, check, json_schema, split_seed


class TrainingParams(PassParams):
    """What every training takes: data, precision, speed, and transformers' own arguments."""

    torch_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="type of the base")
    compile: bool | Literal["auto"] = Field(
        "auto", description="compile the decoder's layers; auto: on a GPU, when there is enough to train"
    )
    early_stopping_patience: int | None = Field(
        None, gt=0, description="end after so many evaluations without a better loss, with the best result"
    )
    allow_tf32: bool = Field(False, description="let NVIDIA GPUs round the inputs of float32 products to 10 bits")
    device_map: Literal["auto", "current_device"] | None = Field(
        None, description="accepted; the host's accelerator says where to train"
    )
    train_data_config: str = Field(description="name of the data to train on")
    eval_data_config: str | None = Field(None, description="name of the data to evaluate on")
    eval_dataset_size: float | None = Field(
        None, gt=0, le=10**9, description="rows held out: below 1 a share, else a count"
    )
    training_args: Mapping[str, Any] = Field(
        default_factory=dict,
        description="any field of transformers.TrainingArguments, under its old or new name",
        json_schema_extra=json_schema(),
    )

    @classmethod
    def belongs_in(cls, key: str) -> str | None:
        """An argument of transformers, under a name of its own or one that other tools use, stands in training_args."""
        field = key if key in FIELDS or key in RENAMED else SYNONYMS.get(key.lower().replace("-", "_"))
        return f"training_args.{field}" if field else None

    @classmethod
    def n_wrong_inside(cls, params: Mapping[str, Any]) -> int:
        """Arguments of another type than transformers takes."""
        given = params.get("training_args")
        if not isinstance(given, Mapping):
            return 0
        return sum(1 for _ in check(given, ""))

    @property
    def evaluates(self) -> bool:
        """Whether there are rows to evaluate on."""
        return self.eval_data_config is not None or self.eval_dataset_size is not None

    @property
    def data_names(self) -> list[str]:
        """The training data, and the evaluation data where it is its own."""
        return [name for name in (self.train_data_config, self.eval_data_config) if name is not None]

    @property
    def rows(self) -> TrainingRows:
        """The rows to train and to evaluate on."""
        seed = split_seed(self.training_args)
        return TrainingRows(self.train_data_config, self.eval_data_config, self.eval_dataset_size, seed)


class AdapterParams(TrainingParams):
    """What every adapter takes: its rank and scale, and where it goes."""

    r: int = Field(
        16,
        gt=0,
        description="rank of the update: trained parameters grow with it",
        json_schema_extra={"searchable": [16, 32, 64]},
    )
    alpha: float = Field(32, gt=0, description="the update is scaled by alpha / r")
    target_modules: list[str] | str | None = Field(
        None,
        description="layers to train, by the end of their name or a pattern over all of it; else all linear ones",
    )
    exclude_modules: list[str] | str | None = Field(None, description="layers to leave out")
    modules_to_save: list[str] | None = Field(None, description="modules trained in full and saved with the adapter")
    sharding: Literal["none", "fsdp"] = Field(
        "none", description="on several devices: the whole base on each, or (fsdp) a part of it on each"
    )
    ephemeral_gpu_offload: bool = Field(False, description="accepted; layers are always on their device")


class LycorisParams(AdapterParams):
    """What LoHa and LoKr take beside: names are those of Olive's passes and of PEFT."""

    rank_dropout: float = Field(0.0, ge=0, lt=1, description="share of the update's rows dropped while training")
    module_dropout: float = Field(0.0, ge=0, lt=1, description="how often a layer's update is left out of a step")
    use_effective_conv2d: bool = Field(True, description="accepted; it is of convolutions")
    init_weights: bool = Field(True, description="start from no change at all; false starts at random")
    layers_to_transform: list[int] | int | None = Field(None, description="numbers of the layers to train; else all")
    layers_pattern: list[str] | str | None = Field(None, description="name of the list that those layers are in")
    rank_pattern: Mapping[str, int] = Field(default_factory=dict, description="ranks of some layers, by a pattern")
    alpha_pattern: Mapping[str, float] = Field(default_factory=dict, description="alphas of some layers, likewise")

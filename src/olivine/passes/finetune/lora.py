"""LoRA: train a small low-rank update of the weights (Hu et al. 2021, arXiv:2106.09685)."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from packaging.version import Version
from pydantic import Field

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.data import Prepared, SampleSet, prepare, split
from olivine.errors import Problem, RequestError
from olivine.models import Model
from olivine.models.facts import ModelFacts
from olivine.models.loading import load_causal_lm, load_tokenizer
from olivine.passes._base import Context, Estimate, Machine, Pass, PassParams
from olivine.passes.finetune import _launch, _memory, _sharding, _targets, _training_arguments
from olivine.passes.finetune._optimizers import check_package

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.module("torch")


class Lora(Pass):
    """Fine-tune with LoRA: the base stays as it is, a low-rank update of its linear layers is trained.

    1. Rows become samples as the data config says; with `eval_dataset_size` some rows are held out before anything is
    packed. 2. All linear layers of the decoder are trained unless `target_modules` names some. 3. The base is held in
    bfloat16 where the processor computes in it and the model is large enough to gain, else in float32; the adapter
    always trains in float32. 4. An interrupted training goes on from its last checkpoint and ends with the same
    adapter. 5. The result is a PEFT adapter.
    """

    class Params(PassParams):
        """Names are those of Olive's LoRA pass."""

        r: int = Field(16, gt=0, description="rank of the update: trained parameters grow with it")
        alpha: float = Field(32, gt=0, description="the update is scaled by alpha / r")
        lora_dropout: float = Field(0.0, ge=0, lt=1, description="share of the update's inputs dropped while training")
        target_modules: list[str] | str | None = Field(
            None,
            description="layers to train, by the end of their name or a pattern over all of it; else all linear ones",
        )
        exclude_modules: list[str] | str | None = Field(None, description="layers to leave out")
        modules_to_save: list[str] | None = Field(
            None, description="modules trained in full and saved with the adapter"
        )
        bias: Literal["none", "all", "lora_only"] = "none"
        use_rslora: bool = Field(False, description="scale by alpha / sqrt(r), so that high ranks keep learning")
        use_dora: bool = Field(False, description="train the magnitude of each output as well (DoRA)")
        init_lora_weights: bool = Field(True, description="start from no change at all")
        torch_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="type of the base")
        sharding: Literal["none", "fsdp"] = Field(
            "none",
            description="on several devices: the whole base on each, or (fsdp) a part of it on each",
        )
        compile: bool | Literal["auto"] = Field(
            "auto", description="compile the decoder's layers; auto: on a GPU, when there is enough to train"
        )
        early_stopping_patience: int | None = Field(
            None, gt=0, description="end after so many evaluations without a better loss, with the best adapter"
        )
        allow_tf32: bool = Field(False, description="let NVIDIA GPUs round the inputs of float32 products to 10 bits")
        train_data_config: str = Field(description="name of the data to train on")
        eval_data_config: str | None = Field(None, description="name of the data to evaluate on")
        eval_dataset_size: float | None = Field(None, gt=0, description="rows held out: below 1 a share, else a count")
        training_args: Mapping[str, Any] = Field(
            default_factory=dict, description="any field of transformers.TrainingArguments, under its old or new name"
        )

    aliases: ClassVar[tuple[str, ...]] = ("LoRA",)
    accepts: ClassVar[frozenset[str]] = frozenset({"hf"})
    produces: ClassVar[str] = "adapter"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "accelerate")
    modules: ClassVar[Mapping[str, str]] = {}
    spreads: ClassVar[bool] = True
    params: Params

    def data_names(self) -> list[str]:
        """The training data, and the evaluation data where it is its own."""
        return [name for name in (self.params.train_data_config, self.params.eval_data_config) if name is not None]

    def check(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Iterator[Problem]:  # noqa: ARG002
        """training_args by name and type, and target modules against the layers that the model has."""
        arguments = _training_arguments.today(self.params.training_args)
        yield from _training_arguments.check(self.params.training_args, self.name)
        yield from check_package(arguments.get("optim"), self.name)
        yield from self._check_targets(facts)
        yield from self._check_evaluation(arguments)
        if self.params.sharding != "none":
            yield from self._check_sharding(machine)
        if arguments.get("fp16") is True and machine.device == "cpu":
            message = "training_args.fp16 needs a GPU, and this step runs on the CPU."
            yield Problem("hardware", self.name, message, "Remove it, or set torch_dtype: bfloat16.")

    def _check_sharding(self, machine: Machine) -> Iterator[Problem]:
        if machine.n_devices == 1:
            message = f"sharding '{self.params.sharding}' spreads the base over several devices, and this step has one."
            yield Problem("invalid-value", self.name, message, "Remove it, or set 'devices' in the host's accelerator.")
        if (version := lazy.version("torch")) != "none" and Version(version) < _sharding.LEAST_TORCH:
            message = f"sharding needs torch {_sharding.LEAST_TORCH}, and {version} is installed."
            yield Problem("missing-extra", self.name, message, f"Run: pip install 'torch>={_sharding.LEAST_TORCH}'.")
        whole = [name.rpartition(".")[2] for name in self.params.modules_to_save or ()]
        if self.params.bias != "none" or set(whole) - {"embed_tokens", "lm_head"}:
            key = "bias" if self.params.bias != "none" else "modules_to_save"
            message = f"with sharding, '{key}' cannot train parts of the decoder's layers: they are spread and frozen."
            yield Problem("unsupported", self.name, message, "Remove one of the two.")

    def _check_targets(self, facts: ModelFacts) -> Iterator[Problem]:
        targets = _targets.as_list(self.params.target_modules) or []
        excluded = _targets.as_list(self.params.exclude_modules) or []
        for pattern in _targets.broken_patterns([*targets, *excluded]):
            yield Problem("invalid-value", self.name, f"the module pattern {pattern!r} is no regular expression.")
        leaves = [*facts.linear_modules, "embed_tokens", "lm_head"]
        if facts.linear_modules and (missing := _targets.unmatched_leaves(targets, leaves)):
            yield Problem("invalid-value", self.name, _targets.sentence(missing, leaves))

    def _check_evaluation(self, arguments: Mapping[str, Any]) -> Iterator[Problem]:
        size = self.params.eval_dataset_size
        if size is not None and size > 1 and size % 1:
            message = f"eval_dataset_size must be a share below 1 or a whole number of rows, but is {size:g}."
            yield Problem("invalid-value", self.name, message)
        if self.params.early_stopping_patience is not None and not self._evaluates:
            message = "early_stopping_patience needs rows to evaluate on."
            yield Problem("invalid-value", self.name, message, "Set eval_dataset_size or eval_data_config.")
        if arguments.get("load_best_model_at_end") is True and not self._evaluates:
            message = "training_args.load_best_model_at_end needs rows to evaluate on."
            yield Problem("invalid-value", self.name, message, "Set eval_dataset_size or eval_data_config.")

    @property
    def _evaluates(self) -> bool:
        return self.params.eval_data_config is not None or self.params.eval_dataset_size is not None

    def estimate(self, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig]) -> Estimate:
        """Weights, adapter with its gradients and both moments, activations and logits of one micro-batch.

        On several devices: the GPU memory is that of each of them, the machine's memory that of all processes.
        """
        n_devices = machine.n_devices
        width = max(1, len(facts.linear_modules)) * 2 * facts.hidden_size
        n_adapter = self.params.r * width * facts.n_layers * 2
        size = 2 if facts.n_parameters >= BF16_FROM and machine.device == "cuda" else 4
        arguments, config = self.params.training_args, data.get(self.params.train_data_config)
        longest = config.pre_process_data_config.max_seq_len if config else 1024
        checkpointed = facts.n_layers if _training_arguments.checkpoints_activations(arguments) else 0
        shape = _memory.Shape.of_facts(facts, n_adapter, size, machine.device)
        shape = replace(
            shape, checkpointed=checkpointed, compiled=machine.device == "cuda" and bool(self.params.compile)
        )
        if self.params.sharding == "fsdp":
            shape = replace(shape, weight_bytes=shape.weight_bytes // n_devices)
        rows = -(-_training_arguments.rows_per_step(arguments) // n_devices)
        needed = _memory.peak_bytes(shape, max(longest, min(rows * longest, _memory.ENOUGH_TOKENS[machine.device])))
        on_device = needed if machine.device == "cuda" else 0
        return Estimate(
            memory_bytes=int(
                1.2e9 * (n_devices + (n_devices > 1)) + (facts.n_parameters * size if on_device else needed * n_devices)
            ),
            device_memory_bytes=int(on_device),
            disk_bytes=int(n_adapter * 4 + 3 * n_adapter * 12 + 20e6),
        )

    def run(self, model: Model, context: Context) -> Model:
        """Train and save the adapter beside the tokenizer it was trained with."""
        if context.machine.n_devices > 1 and context.rank is None:
            self._samples(context, load_tokenizer(model))  # prepared once, found by every rank
            return _launch.run_on_all(self, model, context)
        return self._train(model, context)

    def _train(self, model: Model, context: Context) -> Model:
        """In this process: all of it, or the share of a rank."""
        from transformers import set_seed

        from olivine.passes.finetune import _setup, _trainer

        arguments = _training_arguments.today(self.params.training_args)
        set_seed(int(arguments.get("seed", 42)))
        tokenizer = load_tokenizer(model)
        train_set, held_out = self._samples(context, tokenizer)
        context.report.record(samples=train_set.summary())
        if train_set.statistics.n_truncated or train_set.statistics.n_dropped:
            context.report.warn(train_set.summary())
        if held_out is None and arguments.get("eval_strategy", "no") != "no":
            context.report.warn(
                f"eval_strategy '{arguments['eval_strategy']}' has no rows to evaluate on and is left out; "
                "set eval_dataset_size or eval_data_config"
            )
        args = _trainer.arguments(
            self.params.training_args,
            context.scratch / "checkpoints",
            on_cpu=context.machine.device == "cpu",
            has_eval=held_out is not None,
            early_stopping=self.params.early_stopping_patience is not None,
        )
        adapted = self._adapted(model, context)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)
        settings = _setup.Settings(
            compile=self.params.compile,
            early_stopping_patience=self.params.early_stopping_patience,
            rank=context.rank or 0,
            world_size=1 if context.rank is None else context.machine.n_devices,
            sharded=self._is_sharded(context),
        )
        history = _trainer.train(adapted, train_set, held_out, args, pad, context.report, settings)
        _record(context, train_set, held_out, history)
        if not context.rank:
            _save(adapted, tokenizer, context)
        return Model(
            "adapter",
            context.output,
            base=model,
            task=model.task,
            trust_remote_code=model.trust_remote_code,
            attributes=self._attributes(),
        )

    def _stored_layer(self) -> Callable[[Any], Any] | None:
        """What is done to every decoder layer of the base as soon as it is loaded."""
        return None

    def _attributes(self) -> Mapping[str, Any]:
        """What later steps need to know of how the adapter was trained."""
        return {}

    def _samples(self, context: Context, tokenizer: Any) -> tuple[SampleSet, SampleSet | None]:
        """What is trained on, and what is held out; rows are split before they are packed."""
        rows = _made(context.data[self.params.train_data_config], context, tokenizer)
        if self.params.eval_data_config is not None:
            other = _made(context.data[self.params.eval_data_config], context, tokenizer)
            return rows.samples(), other.samples()
        if self.params.eval_dataset_size is None:
            return rows.samples(), None
        seed = _training_arguments.split_seed(self.params.training_args)
        train, held_out = split(len(rows), self.params.eval_dataset_size, seed)
        return rows.samples(train), rows.samples(held_out)

    def _is_sharded(self, context: Context) -> bool:
        return self.params.sharding == "fsdp" and context.rank is not None

    def _adapted(self, model: Model, context: Context) -> Any:
        from peft import get_peft_model

        from olivine.passes.finetune import _acceleration

        dtype, sharded = self._dtype(model, context.machine), self._is_sharded(context)
        each_layer = _sharding.shard_layer if sharded else self._stored_layer()
        if context.machine.device == "cuda" and self.params.compile:
            _acceleration.warm_compiler()
        base = load_causal_lm(model, dtype=dtype, device=context.machine.device, each_layer=each_layer)
        self._refuse_unmatched(base)
        if context.machine.device == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = self.params.allow_tf32
        if _training_arguments.checkpoints_activations(self.params.training_args):
            base.enable_input_require_grads()
        try:
            adapted = get_peft_model(base, self._lora_config(base))
        except ValueError as error:
            raise RequestError(f"the adapter cannot be made: {' '.join(str(error).split())}") from error
        n_trained, n_all = adapted.get_nb_trainable_parameters()
        n_all += sum(
            module.in_features * module.out_features for module in adapted.modules() if hasattr(module, "rounding")
        )
        if n_trained == 0:
            raise RequestError("nothing would be trained: no parameter of the model belongs to the adapter")
        if sharded:
            _sharding.shard_rest(adapted)
        context.report.record(
            n_trained_parameters=n_trained, n_parameters=n_all, trained_share=n_trained / n_all, dtype=dtype
        )
        return adapted.train()

    def _lora_config(self, base: Any) -> Any:
        from peft import LoraConfig

        targets = _targets.as_list(self.params.target_modules)
        excluded = _targets.as_list(self.params.exclude_modules) or ([] if targets else ["lm_head"])
        every = sorted({name.rpartition(".")[2] for name in linear_names(base)})
        return LoraConfig(
            r=self.params.r,
            lora_alpha=self.params.alpha,  # type: ignore[arg-type] # PEFT computes with any number
            lora_dropout=self.params.lora_dropout,
            target_modules=_targets.for_peft(targets or every),
            exclude_modules=_targets.for_peft(excluded) or None,
            modules_to_save=self.params.modules_to_save,
            bias=self.params.bias,
            use_rslora=self.params.use_rslora,
            use_dora=self.params.use_dora,
            init_lora_weights=self.params.init_lora_weights,
            task_type="CAUSAL_LM",
        )

    def _refuse_unmatched(self, base: Any) -> None:
        """A name that matches nothing is a mistake in each of the three lists; PEFT passes over most of them."""
        every = [name for name, _ in base.named_modules() if name]
        kinds = (torch.nn.Linear, torch.nn.Embedding)
        trainable = [name for name, module in base.named_modules() if isinstance(module, kinds)]
        for key, wanted, names in (
            ("target_modules", _targets.as_list(self.params.target_modules), trainable),
            ("exclude_modules", _targets.as_list(self.params.exclude_modules), every),
            ("modules_to_save", self.params.modules_to_save, every),
        ):
            if missing := _targets.unmatched(wanted or (), names):
                raise RequestError(_targets.sentence(missing, names, key))

    def _dtype(self, model: Model, machine: Machine) -> str:
        if self.params.torch_dtype != "auto":
            return self.params.torch_dtype
        if machine.device == "cuda":
            return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
        config = json.loads((model.path / "config.json").read_text(encoding="utf-8"))
        n_weights = 12 * config.get("num_hidden_layers", 0) * config.get("hidden_size", 0) ** 2
        return "bfloat16" if n_weights >= BF16_FROM and cpu_computes_in_bf16() else "float32"


# From this many parameters on, matrix products dominate a step and bfloat16 pays (SmolLM2-135M: 1.7 s against 2.3 s).
BF16_FROM = 50_000_000


def cpu_computes_in_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself; where it does not, torch emulates, slower than float32."""
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in flags)


def linear_names(model: Any) -> list[str]:
    """Full names of every linear layer but the head, fused ones included."""
    head = model.get_output_embeddings()
    return [
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    ]


def _made(config: DataConfig, context: Context, tokenizer: Any) -> Prepared:
    """The tokens of the rows; they lie beside the scratch folders, so that other steps and runs find them too."""
    return prepare(config, tokenizer, context.scratch.parent, context.report.progress)


def _record(context: Context, train_set: SampleSet, held_out: SampleSet | None, history: list[dict[str, Any]]) -> None:
    context.report.record(
        data=train_set.statistics.to_json(),
        eval_data=held_out.statistics.to_json() if held_out else None,
        loss_curve=[[entry["step"], entry["loss"]] for entry in history if "loss" in entry],
        eval_curve=[[entry["step"], entry["eval_loss"]] for entry in history if "eval_loss" in entry],
    )


def _save(adapted: Any, tokenizer: Any, context: Context) -> None:
    """PEFT's format, without the place where the base lay on this machine."""
    adapted.save_pretrained(context.output, save_embedding_layers=False)
    path = context.output / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    for key, value in config.items():
        if isinstance(value, list):  # PEFT keeps some as sets, whose order changes from process to process
            config[key] = sorted(value, key=str)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (context.output / "README.md").unlink(missing_ok=True)
    tokenizer.save_pretrained(context.output)

"""How a model is trained here, decided before the first step: packed or padded, how much at once, compiled or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.allowance import available_bytes
from olivine.data import SampleSet
from olivine.kernels.fused_layer import FusedLayers
from olivine.training import acceleration, memory, sharding
from olivine.training.batches import Packer, Padder, Row, StepSet, multiple_of, split_rows
from olivine.training.learning_rates import LoraPlus
from olivine.work import Reporter

if TYPE_CHECKING:
    import torch
    from torch import distributed
    from transformers import TrainingArguments
else:
    torch = lazy.module("torch")
    distributed = lazy.module("torch.distributed")


# Tokens of a step up to which its launches take longer than the work: padding pays there that would double most steps,
# to have them all of one form. A base in 8 bits is done before its launches in longer steps, too (8,192 tokens of
# Qwen3-4B's shape on H200s: 236 ms in place of 246 to 263), but padding hardly pays.
SHORT_STEP = 3072
MOST_PADDED_SHORT, MOST_PADDED_LONG = 2.0, 1.03


@dataclass(frozen=True)
class Settings:
    """What the pass decides beside TrainingArguments.

    compile: "auto", or whether decoder layers are compiled. early_stopping_patience: evaluations without a better loss
    after which training ends; None for never. rank and world_size: this process among those that train together,
    n_here of them on this node.
    sharded: the frozen base lies in parts on the devices of all of them. loraplus: learning rates by kind of parameter.
    master_weights: what is trained is held in fewer than 32 bits, and the optimizer works on float32 copies.
    memory_limit: bytes of the device's memory that the run may use at most, over all processes; 0 for all of it.
    fuse: "auto", or whether decoder layers compute in the fused form of `kernels.fused_layer`.
    """

    compile: bool | str = "auto"
    fuse: bool | str = "auto"
    early_stopping_patience: int | None = None
    rank: int = 0
    world_size: int = 1
    n_here: int = 1
    sharded: bool = False
    loraplus: LoraPlus | None = None
    master_weights: bool = False
    memory_limit: int = 0


@dataclass
class Setup:
    """What training works with.

    head: the way to a loss in chunks, None for the model's own loss. collate: rows to a micro-batch. steps: which rows
    travel together. limit: tokens of a micro-batch; it falls when memory runs out. lengths: tokens of each sample.
    """

    head: acceleration.Head | None
    collate: Packer | Padder
    steps: StepSet
    limit: int
    lengths: Sequence[int]
    settings: Settings
    recorded: FusedLayers | None = None

    @property
    def packed(self) -> bool:
        """Whether rows stand one after another in one packed row."""
        return isinstance(self.collate, Packer)

    def micro_batches(self, step: Mapping[str, Any]) -> list[list[Row]]:
        """The rows of a step in micro-batches that keep to the limit, which may be lower than when it was laid out."""
        given: list[list[Row]] = step["micro_batches"]
        if self.limit >= self.steps.limit:
            return given
        return split_rows(given, self.limit, packed=self.packed)

    def lower_limit(self, n_tokens: int) -> None:
        """Have smaller micro-batches from now on; compiled layers see one length again."""
        self.limit = max(1, n_tokens)
        if self.recorded is not None:  # its memory is what is missing
            self.recorded.recorded = None
        if isinstance(self.collate, Packer):
            self.collate.least = min(self.collate.least, self.limit)


def prepare(
    model: Any, samples: SampleSet, args: "TrainingArguments", pad: int, report: Reporter, settings: Settings
) -> Setup:
    """Put in what the model takes, and lay out the first epoch; what was decided is recorded.

    args.gradient_accumulation_steps becomes 1: the loader gives all of a step's rows at once.
    """
    device, lengths = torch.device(args.device), token_counts(samples)
    rows_per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps
    args.gradient_accumulation_steps = 1
    head, reason = _ways(model, args)
    report.record(packed=not reason, loss_in_chunks=head is not None, padded_because=reason or None)
    fused = None if reason else _fuse(model, device, settings, report)
    compiles = not reason and not fused and _compiles(model, args, settings, lengths, rows_per_step)
    shape = replace(_shape_of(model, args), compiled=compiles, fused=fused is not None)
    available = _available_bytes(shape, settings.memory_limit, settings.n_here)
    host = _least_of_ranks(int(available_bytes() / settings.n_here), shape.device)
    limit = _fit(model, shape, lengths, rows_per_step, report, available, host, packed=not reason, args=args)
    steps = StepSet(
        samples,
        lengths,
        rows_per_step,
        limit,
        seed=args.data_seed if args.data_seed is not None else args.seed,
        order=args.train_sampling_strategy,
        drop_last=args.dataloader_drop_last,
        packed=not reason,
        rank=settings.rank,
        world_size=settings.world_size,
    )
    collate = Padder(pad, device) if reason else _packer(model, pad, device)
    setup = Setup(head, collate, steps, limit, lengths, settings)
    if compiles:
        _compile(model, setup, report)
    if fused is not None and device.type == "cuda" and not shape.checkpointed and not settings.sharded:
        _record_layers(model, fused, setup, shape, available, report)
    return setup


def token_counts(samples: SampleSet) -> Sequence[int]:
    """Tokens of each sample without padding."""
    counts: Any = samples.lengths
    return [int(count) for count in (counts() if callable(counts) else counts)]


def _ways(model: Any, args: "TrainingArguments") -> tuple[acceleration.Head | None, str]:
    """The loss in chunks if the model has it, and why its rows cannot be packed (empty when they can)."""
    acceleration.use_lora_linear(model)
    if reason := _needs_own_loss(args):
        return None, reason
    head, reason = acceleration.find_head(model)
    return head, reason or acceleration.use_packed_attention(model)


def _needs_own_loss(args: "TrainingArguments") -> str:
    """Arguments of transformers' Trainer that work on whole logits or on padded rows."""
    for name in ("label_smoothing_factor", "neftune_noise_alpha", "fp16", "bf16_full_eval", "fp16_full_eval"):
        if getattr(args, name, None):
            return f"training_args.{name} works on padded rows"
    return "training_args.use_liger_kernel replaces the loss" if args.use_liger_kernel else ""


def _fuse(model: Any, device: "torch.device", settings: Settings, report: Reporter) -> FusedLayers | None:
    """Put the layers into their fused form where that is possible."""
    dtype = acceleration.base_of(model).dtype
    if not acceleration.wants_fused_layers(settings.fuse, device, dtype):
        return None
    fused, reason = acceleration.use_fused_layers(model)
    report.record(fused_layers=not reason, not_fused_because=reason or None)
    return fused


def _record_layers(
    model: Any, fused: FusedLayers, setup: Setup, shape: memory.Shape, available: int, report: Reporter
) -> None:
    """Record the layers as CUDA graphs where each step is one micro-batch, and all can have one form by padding."""
    assert isinstance(setup.collate, Packer)  # noqa: S101 - for the type checker: only packed rows are fused
    steps = [rows for step in setup.steps.steps for rows in step.ranks]
    sizes = [sum(setup.lengths[row] for row in rows) for micro_batches in steps for rows in micro_batches if rows]
    multiple = multiple_of(max(sizes))
    n_tokens = -(-max(sizes) // multiple) * multiple
    most_tokens = memory.ENOUGH_TOKENS["cuda"] if acceleration.has_eight_bits(model) else SHORT_STEP
    if any(len(micro_batches) > 1 for micro_batches in steps) or n_tokens > most_tokens:
        return
    is_short = n_tokens <= SHORT_STEP
    padded, most = (max(sizes), MOST_PADDED_SHORT) if is_short else (n_tokens, MOST_PADDED_LONG)
    if padded * len(sizes) > most * sum(sizes):
        return
    expected = memory.recorded_peak_bytes(shape, n_tokens)
    if expected > memory.USABLE * available:
        return
    lengths = {setup.lengths[row] for micro_batches in steps for rows in micro_batches for row in rows}
    length = lengths.pop() if len(lengths) == 1 and n_tokens == max(sizes) else None
    setup.collate.least = n_tokens
    setup.collate.fix(sizes, max(len(rows) for micro_batches in steps for rows in micro_batches), max(setup.lengths))
    collate = setup.collate
    reason = acceleration.record_layers(model, fused, n_tokens, collate.n_segments, collate.longest, length)
    setup.recorded = None if reason else fused
    report.record(recorded_layers=not reason, not_recorded_because=reason or None)
    if not reason:
        report.record(expected_peak_bytes=expected)


def _compiles(
    model: Any, args: "TrainingArguments", settings: Settings, lengths: Sequence[int], rows_per_step: int
) -> bool:
    n_steps = args.max_steps if args.max_steps > 0 else args.num_train_epochs * len(lengths) / rows_per_step
    n_tokens = int(n_steps * rows_per_step * sum(lengths) / len(lengths))
    dtype = acceleration.base_of(model).dtype
    return acceleration.wants_compile(settings.compile, torch.device(args.device).type, dtype, n_tokens)


def _fit(
    model: Any,
    shape: memory.Shape,
    lengths: Sequence[int],
    rows_per_step: int,
    report: Reporter,
    available: int,
    host: int,
    *,
    packed: bool,
    args: "TrainingArguments",
) -> int:
    """Tokens of a micro-batch that fits into `available` bytes; layers are checkpointed where it takes that.

    host: bytes of the machine's memory that this process may use.
    Where their inputs wait in the machine's memory it is done here even if args ask for it, and not by the Trainer.
    """
    longest = max(lengths)
    whole_step = min(rows_per_step * longest, sum(lengths)) if packed else rows_per_step * longest
    offloads = not _checkpointing_options(args) and memory.may_offload(shape, host, longest, whole_step)
    choice = memory.choose(replace(shape, offloads=offloads), available, longest, whole_step)
    if choice.checkpointed and (offloads or not shape.checkpointed):
        acceleration.checkpoint_layers(model, choice.checkpointed, offload=offloads)
        args.gradient_checkpointing = False
        if hasattr(args, "activation_checkpointing"):
            args.activation_checkpointing = False
    report.record(
        micro_batch_tokens=choice.n_tokens,
        checkpointed_layers=choice.checkpointed,
        offloaded_inputs=bool(choice.checkpointed and offloads),
        expected_peak_bytes=choice.peak_bytes,
    )
    if not choice.fits:
        report.warn(
            f"a row of {longest} tokens is expected to need {choice.peak_bytes / 1e9:.1f} GB, more than is free; "
            "lower max_seq_len if memory runs out"
        )
    return choice.n_tokens


def _shape_of(model: Any, args: "TrainingArguments") -> memory.Shape:
    """The sizes of a loaded model; checkpointed throughout where the user asked for it."""
    config = acceleration.base_of(model).config.get_text_config()
    hidden, n_heads = config.hidden_size, getattr(config, "num_attention_heads", 1)
    width = getattr(config, "head_dim", None) or hidden // n_heads
    parameters = list(model.parameters())
    n_trained = sum(p.numel() for p in parameters if p.requires_grad)
    frozen = [p for p in parameters if not p.requires_grad]
    frozen_bytes = sum(sharding.bytes_here(p) for p in frozen) + sharding.gathered_bytes(model)
    frozen_bytes += sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())  # weights in 4 bits
    beside_masters = memory.BYTES_WITH_MASTER - memory.BYTES_PER_TRAINED_WEIGHT
    frozen_bytes += sum(beside_masters * p.numel() for p in parameters if p.requires_grad and p.element_size() < 4)
    size = min((p.element_size() for p in frozen or parameters if p.is_floating_point()), default=4)
    return memory.Shape(
        hidden=hidden,
        intermediate=getattr(config, "intermediate_size", None) or 4 * hidden,
        n_layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
        query_size=n_heads * width,
        kv_size=(getattr(config, "num_key_value_heads", None) or n_heads) * width,
        weight_bytes=frozen_bytes,
        n_trained=n_trained,
        size=size,
        checkpointed=config.num_hidden_layers if _checkpoints(args) else 0,
        device="cuda" if torch.device(args.device).type == "cuda" else "cpu",
        update_bytes=_update_bytes(model),
        head_norms=any(name.endswith(("q_norm", "query_layernorm")) for name, _ in model.named_modules()),
        scales_outputs=any(getattr(module, "lora_magnitude_vector", None) for module in model.modules()),
    )


def _checkpoints(args: "TrainingArguments") -> bool:
    """Whether activations are computed again; newer releases of transformers have two names for it."""
    return bool(args.gradient_checkpointing or getattr(args, "activation_checkpointing", False))


def _checkpointing_options(args: "TrainingArguments") -> bool:
    """Whether the user says how activations are computed again; that is left to transformers then."""
    names = ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")
    return any(getattr(args, name, None) for name in names)


def _update_bytes(model: Any) -> int:
    """Of the updates that PEFT's LoHa, LoKr and DoRA write out, each in float32 and as large as its layer's weight."""
    from peft.tuners.lycoris_utils import LycorisLayer

    layers = [
        module.get_base_layer()
        for module in model.modules()
        if isinstance(module, LycorisLayer) or getattr(module, "lora_magnitude_vector", None)
    ]
    return sum(4 * layer.weight.numel() for layer in layers)


def _available_bytes(shape: memory.Shape, limit: int, n_here: int) -> int:
    """What this process may use in all, with what it holds already; the least of all ranks, which choose alike."""
    if shape.device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        available = int(free + torch.cuda.memory_reserved())
    else:
        available = int(available_bytes() / n_here + shape.weight_bytes)
        limit //= n_here
    return _least_of_ranks(min(available, limit or available), shape.device)


def _least_of_ranks(n_bytes: int, device: str) -> int:
    """The least that any process of the training has."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return n_bytes
    least = torch.tensor(n_bytes, device=device)
    distributed.all_reduce(least, op=distributed.ReduceOp.MIN)
    return int(least)


def _packer(model: Any, pad: int, device: "torch.device") -> Packer:
    dtype = acceleration.base_of(model).dtype
    return Packer(pad, device, with_lengths=not acceleration.has_variable_length(device, dtype))


def _compile(model: Any, setup: Setup, report: Reporter) -> None:
    """Compile the decoder layers: in one static form where all micro-batches can have one length."""
    assert isinstance(setup.collate, Packer)  # noqa: S101 - for the type checker: only packed rows are compiled
    micro_batches = [rows for step in setup.steps.steps for ranks in step.ranks for rows in ranks if rows]
    sizes = [sum(setup.lengths[row] for row in rows) for rows in micro_batches]
    alike = setup.collate.fix(sizes, max(map(len, micro_batches)), max(setup.lengths))
    report.note("the first step compiles the layers: up to a minute")
    n_layers = acceleration.compile_layers(model, dynamic=not alike)
    if setup.head is not None:
        setup.head.fused = True
    report.record(compiled_layers=n_layers, compiled_for="one length" if alike else "any length")

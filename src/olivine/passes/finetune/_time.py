"""How long a training takes on a CPU, as far as that can be said before it runs: a range, not a promise."""

from collections.abc import Mapping

from olivine.config.schema import DataConfig
from olivine.data import row_sizes
from olivine.models.facts import ModelFacts
from olivine.passes.finetune._params import TrainingParams
from olivine.training import training_arguments
from olivine.training.duration import range_in_words
from olivine.work import Machine

# Floating point operations in float32 that a core does in a second of training: of one that shares its units with
# another thread, and as measured with SmolLM2-135M on an EPYC with AVX-512 (benchmarks/results/finetune_cpu.json).
SLOW, FAST = 10e9, 70e9


def in_words(
    params: TrainingParams, facts: ModelFacts, machine: Machine, data: Mapping[str, DataConfig], *, all_weights: bool
) -> str | None:
    """Steps, tokens and time in a sentence; None where the rows or the device do not tell.

    all_weights: every weight is trained, which takes a gradient for each: six operations a weight and token, not four.
    """
    decoder = facts.as_decoder
    config = data.get(params.train_data_config)
    sizes = row_sizes(config, decoder.vocab_size) if config else None
    if sizes is None or machine.device != "cpu" or not facts.n_parameters:
        return None
    n_steps, rows = _steps(params, sizes.n_rows)
    if n_steps < 1:
        return None
    n_tokens = rows * sizes.mean
    embedding = 0 if decoder.tied_embeddings else decoder.embedding_size  # looked up, not multiplied
    work = (6 if all_weights else 4) * max(0, facts.n_parameters - embedding) * n_tokens * n_steps
    least, most = (work / (speed * machine.n_cores) for speed in (FAST, SLOW))
    steps = "step" if n_steps == 1 else "steps"
    return f"trains {n_steps:,} {steps} of about {n_tokens:,.0f} tokens: {range_in_words(least, most)} on these cores"


def _steps(params: TrainingParams, n_rows: int) -> tuple[int, int]:
    """How many steps there will be, and rows of each."""
    given = training_arguments.without_wrong(params.training_args)
    arguments = training_arguments.effective(given, on_cpu=True, has_eval=params.evaluates)
    rows = arguments["per_device_train_batch_size"] * arguments.get("gradient_accumulation_steps", 1)
    held_out = params.eval_dataset_size or 0
    if params.eval_data_config is not None:
        held_out = 0
    n_trained = n_rows - (held_out if held_out >= 1 else n_rows * held_out)
    if arguments.get("max_steps", -1) > 0:
        return arguments["max_steps"], rows
    return round(arguments["num_train_epochs"] * max(1, -(-n_trained // rows))), rows

"""Compare two models: the same tokens through both, a piece at a time; then the cost of each, measured alone."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.errors import Unsupported
from olivine.evaluate._degenerate import degenerate
from olivine.evaluate.parity import _sizes
from olivine.evaluate.parity._file import TextFile
from olivine.evaluate.parity._record import RUNTIME_SHARE, Greedy, Parity, Side, Tokens
from olivine.evaluate.parity._tokens import Windows, read_windows, same_vocabulary, sample_windows
from olivine.models import Model
from olivine.runtimes import onnx_folder
from olivine.runtimes.opening import open_model, runnable
from olivine.runtimes.process import RuntimeProcess
from olivine.work import Reporter, Silent

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from olivine.kernels import divergence
    from olivine.kernels.divergence import Positions
else:
    divergence = lazy.module("olivine.kernels.divergence")

Text = Path | TextFile | DataConfig | Sequence[Sequence[int]] | None
MAX_PERIOD = 8  # tokens of a loop that counts as repetition
_ABOVE_NOISE = 1e-5  # nats of divergence that rounding in float32 makes


@dataclass(frozen=True)
class Settings:
    """How a comparison is made.

    n_tokens: read by both models, in windows of `length`. seed: of the reference's own text. n_prompts, n_new: greedy
    texts and their length; no prompts, no texts. speed: measure load time, memory and speed. split: tell the error of
    the weights from that of the run time. device: "cpu" or "cuda" for models in transformers, None for a GPU where
    there is one. dtype: what those models are computed in. piece_bytes: of the logits that travel at once.
    """

    n_tokens: int = 4096
    length: int = 256
    seed: int = 0
    n_prompts: int = 8
    n_new: int = 32
    speed: bool = True
    split: bool = True
    device: str | None = None
    dtype: str = "float32"
    piece_bytes: int = 32 * 2**20


@dataclass(frozen=True)
class _Read:
    """What reading the windows gave.

    context: tokens that both models read at most. positions: of (reference, candidate), then those of the split.
    """

    windows: Windows
    greedy: Greedy | None
    context: int
    positions: "Positions"
    weights: "Positions | None"
    runtime: "Positions | None"
    broken: tuple[str | None, str | None]
    n_vocabulary: int


def compare(
    reference: Model | Path,
    candidate: Model | Path,
    text: Text = None,
    settings: Settings | None = None,
    report: Reporter | None = None,
) -> Parity:
    """How close `candidate` is to `reference`, measured teacher-forced on the same tokens; a record with `to_json()`.

    reference, candidate: records, or paths (see `open_model`). text: a file or data config (see `read_windows`), or
    token ids, each list read on its own; None lets the reference write text itself, from `settings.seed`.
    Raises ModelError for a model that cannot be read, DataError for a text that cannot, Unsupported when the
    vocabularies differ, and OlivineError with the cause when the process of a model fails. Files: a temporary folder,
    gone when this returns.
    """
    settings = settings or Settings()
    report = report or Silent()
    first, second = (one if isinstance(one, Model) else open_model(one) for one in (reference, candidate))
    with tempfile.TemporaryDirectory() as folder:
        opened = [runnable(one, Path(folder)) for one in (first, second)]
        tokenizer, note = same_vocabulary(*opened)
        given = _given(text, tokenizer, settings)
        read = _read(opened[0], opened[1], given, tokenizer, settings, report)
        sides = [_side(one, settings) for one in (first, second)]
        if settings.speed:
            costs = _costs(opened, read.windows, read.context, settings, report)
            sides = [replace(side, **cost) for side, cost in zip(sides, costs, strict=True)]
    sides = [replace(side, degenerate=what) for side, what in zip(sides, read.broken, strict=True)]
    tokens = Tokens(
        source=_in_words(text),
        n_windows=len(read.windows),
        n_tokens=sum(len(window) for window in read.windows),
        seed=settings.seed if text is None else None,
    )
    parity = Parity(
        reference=sides[0],
        candidate=sides[1],
        tokens=tokens,
        summary=divergence.summarize(read.positions),
        greedy=read.greedy,
        weights=divergence.summarize(read.weights) if read.weights else None,
        runtime=divergence.summarize(read.runtime) if read.runtime else None,
    )
    return replace(parity, warnings=tuple(remarks(parity, note)))


def sample(reference: Model | Path, settings: Settings | None = None) -> Windows:
    """The windows that `compare` would let the reference write: made once, they serve many candidates."""
    settings = settings or Settings()
    model = reference if isinstance(reference, Model) else open_model(reference)
    with tempfile.TemporaryDirectory() as folder:
        opened = runnable(model, Path(folder))
        with _process(opened, settings) as process:
            facts = process.open()
            tokenizer, _ = same_vocabulary(opened, opened)
            n_tokens, length = settings.n_tokens, _length(settings, _context(facts))
            return sample_windows(process, tokenizer, n_tokens, length, settings.seed, facts["n_vocabulary"])


def _given(text: Text, tokenizer: Any, settings: Settings) -> Windows | None:
    if text is None:
        return None
    if isinstance(text, (Path, TextFile, DataConfig)):
        return read_windows(text, tokenizer, settings.n_tokens, settings.length)
    return [list(window) for window in text]


def _in_words(text: Text) -> str:
    if text is None:
        return "text that the reference wrote itself"
    if isinstance(text, DataConfig):
        return f"data config '{text.name}'"
    if isinstance(text, TextFile):
        return str(text.path)
    return str(text) if isinstance(text, Path) else "given tokens"


def _read(
    reference: Model, candidate: Model, windows: Windows | None, tokenizer: Any, settings: Settings, report: Reporter
) -> _Read:
    """Every window through both models, and greedy text; the models are loaded for as long as that takes."""
    with ExitStack() as stack:

        def started(model: Model, level: int | None = None) -> tuple[RuntimeProcess, dict[str, Any]]:
            process = stack.enter_context(_process(model, settings, level))
            return process, process.open()

        (first, facts), (second, other) = started(reference), started(candidate)
        n_vocabulary = min(facts["n_vocabulary"], other["n_vocabulary"])
        context = _context(facts, other)
        if windows is None:
            length = _length(settings, context)
            windows = sample_windows(
                first, tokenizer, settings.n_tokens, length, settings.seed, n_vocabulary, _told(report, 0, 1)
            )
        _check(windows, n_vocabulary, context)
        processes = [first, second]
        if settings.split and candidate.format == "onnx" and set(onnx_folder.accuracy_levels(candidate)) - {1}:
            processes.append(started(candidate, 1)[0])
        positions = _positions(processes, windows, n_vocabulary, settings.piece_bytes, _told(report, 1, 2))
        texts = _greedy(processes[:2], windows, n_vocabulary, context, settings)
        return _Read(
            windows=windows,
            context=context,
            greedy=_common(texts, tokenizer, _n_new(settings, context)) if texts else None,
            positions=positions[0],
            weights=positions[1] if len(processes) > 2 else None,
            runtime=positions[2] if len(processes) > 2 else None,
            broken=degenerate_sides(positions[0], texts, tokenizer),
            n_vocabulary=n_vocabulary,
        )


def _process(model: Model, settings: Settings, level: int | None = None, *, takes_turns: bool = True) -> RuntimeProcess:
    return RuntimeProcess(
        model, device=settings.device, dtype=settings.dtype, accuracy_level=level, takes_turns=takes_turns
    )


def _told(report: Reporter, part: int, n_parts: int) -> Callable[[int, int], None]:
    """Progress of one of the parts that a comparison has."""
    return lambda done, total: report.progress(part * total + done, max(n_parts, part + 1) * total)


def _context(*facts: dict[str, Any]) -> int:
    return min(int(one["context_length"]) for one in facts)


def _length(settings: Settings, context: int) -> int:
    """Tokens of a window that every model can read."""
    return min(settings.length, settings.n_tokens, context)


def _n_new(settings: Settings, context: int) -> int:
    """Tokens of a greedy text that leave room for a prompt."""
    return min(settings.n_new, context // 2)


def _check(windows: Windows, n_vocabulary: int, context: int) -> None:
    """Raise Unsupported for tokens that a model cannot read; ValueError for a window without anything to predict."""
    longest, largest = max(map(len, windows), default=0), max((max(one, default=0) for one in windows), default=0)
    if min(map(len, windows), default=0) < 2:
        raise ValueError("a window needs two tokens at least: one to read and one to predict")
    if longest > context:
        raise Unsupported(f"a window of {longest} tokens is longer than the context of {context}; lower the length")
    if largest >= n_vocabulary:
        raise Unsupported(f"the token {largest} is beyond the vocabulary of {n_vocabulary} that both models have")


def _positions(
    processes: Sequence[RuntimeProcess],
    windows: Windows,
    n_vocabulary: int,
    piece_bytes: int,
    report: Callable[[int, int], None],
) -> "list[Positions]":
    """Positions of reference and candidate; with the candidate in float32 as a third, of weights and run time too."""
    parts: list[list[Positions]] = [[] for _ in (0, 1, 2)]
    for index, window in enumerate(windows):
        for targets, (reference, candidate, *exact) in _pieces(processes, window, n_vocabulary, piece_bytes):
            pairs = [
                (reference, candidate),
                *((pair) for one in exact for pair in ((reference, one), (one, candidate))),
            ]
            for of_pair, (p, q) in zip(parts, pairs, strict=False):
                of_pair.append(_never_agreeing_on_nan(divergence.compare_logits(p, q, targets)))
        report(index + 1, len(windows))
    return [divergence.Positions.joined(of_pair) for of_pair in parts if of_pair]


def _never_agreeing_on_nan(positions: "Positions") -> "Positions":
    """The first of NaN logits is no best token that another model could share."""
    known = ~(positions.reference_nan | positions.candidate_nan)
    return replace(positions, same_top=positions.same_top & known, top_overlap=positions.top_overlap * known)


def _pieces(
    processes: Sequence[RuntimeProcess], window: list[int], n_vocabulary: int, piece_bytes: int
) -> "Iterator[tuple[list[int], list[npt.NDArray[np.float32]]]]":
    """The targets of a few positions at a time, and the logits [positions, vocabulary] of every model there."""
    n_at_once = max(1, piece_bytes // (4 * n_vocabulary))
    last = len(window) - 1  # nothing is known of what follows the last token
    for start in range(0, last, n_at_once):
        end = min(start + n_at_once, last)
        ids = [window[start:end]]
        logits = [process.feed(ids, fresh=start == 0)[0, :, :n_vocabulary] for process in processes]
        yield window[start + 1 : end + 1], logits


def _greedy(
    processes: Sequence[RuntimeProcess], windows: Windows, n_vocabulary: int, context: int, settings: Settings
) -> list[tuple[int, list[list[int]]]]:
    """For each model the length of its prompts and what it writes after them; empty when nothing is to be written."""
    chosen = sorted(windows, key=len, reverse=True)[: settings.n_prompts]
    n_new = _n_new(settings, context)
    if not chosen or n_new < 1:
        return []
    length = min(32, context - n_new, *map(len, chosen))
    prompts = [window[:length] for window in chosen]
    return [(length, process.greedy(prompts, n_new, n_vocabulary)) for process in processes]


def _common(texts: list[tuple[int, list[list[int]]]], tokenizer: Any, n_new: int) -> Greedy:
    """How far the texts are the same; the reference's ends with its end token."""
    (length, ours), (_, theirs) = texts
    ended = [_ended(text, tokenizer.eos_token_id) for text in ours]
    return Greedy(
        n_prompts=len(ours),
        prompt_tokens=length,
        new_tokens=n_new,
        common_prefix=tuple(common_prefix(a, b) for a, b in zip(ended, theirs, strict=True)),
        lengths=tuple(len(text) for text in ended),
    )


def _ended(text: list[int], end: int | None) -> list[int]:
    return text[: text.index(end) + 1] if end in text else text


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens at the start are the same."""
    return next(
        (index for index, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), min(len(a), len(b))
    )


def loops(text: Sequence[int]) -> bool:
    """Whether the last three quarters of a text are a loop of at most eight tokens, gone through three times."""
    tail = list(text[len(text) // 4 :])
    return any(tail[period:] == tail[:-period] for period in range(1, MAX_PERIOD + 1) if 3 * period <= len(tail))


def _nan(flags: Any) -> str:
    return f"NaN logits at {int(flags.sum()):,} of {len(flags):,} positions"


def degenerate_sides(
    positions: "Positions", texts: list[tuple[int, list[list[int]]]], tokenizer: Any
) -> tuple[str | None, str | None]:
    """What is broken about the output of each model, or None."""
    written = [rows for _, rows in texts] or [[], []]
    loose = [[tokenizer.decode(row, skip_special_tokens=True) for row in rows] for rows in written]
    faults = [
        _nan(nan) if nan.any() else degenerate([False], [bool(flat.all())], text)
        for nan, flat, text in zip(
            (positions.reference_nan, positions.candidate_nan),
            (positions.reference_flat, positions.candidate_flat),
            loose,
            strict=True,
        )
    ]
    # small models loop on their own: it is a fault of the candidate where the reference hardly does
    n_loops = [sum(loops(row) for row in rows) for rows in written]
    n_rows = len(written[1])
    if faults[1] is None and n_rows and n_loops[1] > n_rows / 2 and n_loops[0] <= n_rows / 4:
        faults[1] = f"repetition: {n_loops[1]} of {n_rows} greedy texts run in a loop, {n_loops[0]} of the reference's"
    return faults[0], faults[1]


def _side(model: Model, settings: Settings) -> Side:
    n_parameters = _sizes.n_parameters(model)
    return Side(
        path=str(model.path),
        format=model.format,
        run_as=_sizes.run_as(model, settings.dtype),
        size_bytes=_sizes.size_bytes(model),
        n_parameters=n_parameters,
        bits_per_weight=8 * _sizes.weight_bytes(model) / n_parameters,
    )


def _costs(
    models: Sequence[Model], windows: Windows, context: int, settings: Settings, report: Reporter
) -> Iterator[dict[str, Any]]:
    """Load time, memory and speed of each model, in a fresh process while nothing else runs."""
    # onnxruntime-genai counts one token more than it writes
    n_new = max(1, min(settings.n_new, context // 2 - 1))
    n_most = max(1, min(settings.length, context - n_new - 1))
    prompt = [token for window in windows for token in window][:n_most]
    for index, model in enumerate(models):
        with _process(model, settings, takes_turns=False) as process:
            yield process.speed(prompt, n_new)
        _told(report, 2, 3)(index + 1, len(models))


def remarks(parity: Parity, note: str | None) -> Iterator[str]:
    """What the reader of a comparison should know besides its numbers, a sentence each."""
    if note:
        yield note
    if parity.reference.degenerate:
        yield f"the output of the reference itself is degenerate: {parity.reference.degenerate}"
    if parity.weights and parity.runtime:
        weights, runtime = parity.weights.kl, parity.runtime.kl
        if runtime > max(RUNTIME_SHARE * weights, _ABOVE_NOISE):
            yield (
                f"computing in int8 costs {runtime:.4f} nat beside {weights:.4f} of the weights: "
                "build it with accuracy level 1, or flatten the activations first (AWQ)"
            )

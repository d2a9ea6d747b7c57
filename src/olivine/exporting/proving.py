"""The proof that an export of this architecture is the model, on a small random one of the same config.

config.json ─ cut_config.cut ─> a small config ─ random weights ─> a checkpoint ─ the export, in fp32 ─> a graph
    └─ transformers: logits at each length  <─ compared ─>  onnxruntime-genai: prompts, and tokens written after them

A graph that differs from its checkpoint by its architecture (a window that is not there, another rotary embedding, a
norm left out) differs for random weights as for trained ones. Norms and biases are perturbed, so that none of them may
be left out. Every length at which the config says that something changes is approached from below, met and passed, by
prompts as well as by tokens that are written one at a time.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError, OlivineError
from olivine.exporting.cut_config import FIRST_PLAIN_TOKEN, SOFT_CAPS, Cut, cut
from olivine.models import Model
from olivine.models.config import load_config
from olivine.models.gguf import gguf_config
from olivine.models.inspect import read_config
from olivine.runtimes.genai import GenaiRuntime
from olivine.work import Context

if TYPE_CHECKING:
    import numpy as np
    import torch
    import transformers
else:
    np, torch, transformers = lazy.module("numpy"), lazy.module("torch"), lazy.module("transformers")

Export = Callable[[Model, Context], Model]
SEED = 0
# Logits may differ by this share of their own spread: rounding in float32 makes a hundredth of it in a small model.
TOLERANCE = 5e-4
_N_WRITTEN = 6  # tokens written after a prompt, enough to step over a boundary
_PLAIN = (300, 1100)  # lengths that are tried whatever the config says
_BEYOND = 200  # tokens past a window at which the runtime's cache has gone around
_N_SHOWN = 200  # characters of an error of the runtime
_GAIN = 1.4  # of random matrices: attention scores get a spread of 2, so that a head looks at few tokens


@dataclass(frozen=True)
class _Probe:
    """A prompt of n_tokens, and how many tokens are written after it."""

    n_tokens: int
    n_written: int


@dataclass(frozen=True)
class _Said:
    """What the runtime gave: all tokens, and the logits [vocabulary] after so many of them; or how it failed."""

    probe: _Probe
    tokens: tuple[int, ...] = ()
    logits: "Mapping[int, np.ndarray[Any, Any]]" = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class _Gap:
    """How far a logit is from that of transformers after so many tokens, and how far it may be."""

    probe: _Probe
    length: int
    size: float
    allowed: float

    @property
    def is_there(self) -> bool:
        """Whether it is more than rounding; NaN is."""
        return not self.size <= self.allowed


def prove(config: Mapping[str, Any], export: Export, context: Context) -> Mapping[str, Any]:
    """Facts of the proof, as Pass.prove gives them; raises OlivineError when the export is not the model.

    config: of the model, as config.json holds it. export: the export to prove, of a model in full precision.
    """
    with proof_folder(context) as folder:
        return _compare(config, export, context, folder)


@contextmanager
def proof_folder(context: Context) -> Iterator[Path]:
    """A folder for the small model and its export, which is gone afterwards; it is not there yet."""
    folder = context.scratch / "proof"
    shutil.rmtree(folder, ignore_errors=True)  # of a worker that was killed
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _compare(config: Mapping[str, Any], export: Export, context: Context, folder: Path) -> Mapping[str, Any]:
    models = _small_model(config, folder / "model")
    if isinstance(models, str):
        return {"lengths": [], "largest_difference": 0.0, "unproven": [models]}
    small, reference = models
    said = _ask(exported(export, folder, context), small)
    gaps = sorted((gap for one in said for gap in _gaps(one, reference, small)), key=lambda gap: gap.length)
    crossing = [gap for gap in gaps if gap.is_there and _grows_past_rope(gap.probe, gap.length, small)]
    if wrong := [gap for gap in gaps if gap.is_there and gap not in crossing]:
        raise OlivineError(differs(_in_words(wrong, gaps, said, reference, small)))
    if failed := next((one for one in said if one.error), None):
        raise OlivineError(differs(_failed(failed)))
    return {
        "lengths": sorted({gap.length for gap in gaps}),
        "largest_difference": max(gap.size for gap in gaps if not gap.is_there),
        "unproven": [_ROPE_RESTARTS.format(small.original)] if crossing else [],
    }


# onnxruntime-genai reads a text anew with the long angles when it grows to 4,097 tokens, whatever the config says
_ROPE_RESTARTS = (
    "prompts below and above the rope's original length of {:,} are read as transformers does, but onnxruntime-genai "
    "goes on with the angles of a short text when one grows past it while it is written"
)


def _grows_past_rope(probe: _Probe, length: int, small: Cut) -> bool:
    return small.rope_has_two_tables and small.original is not None and probe.n_tokens <= small.original < length


def _failed(said: _Said) -> str:
    written = f" and {said.probe.n_written} more" if said.probe.n_written else ""
    return f"a prompt of {said.probe.n_tokens:,} tokens{written} ends in the runtime's '{said.error}'"


def config_of(model: Model) -> dict[str, Any]:
    """The config of an input model, in whichever form it comes."""
    if model.format == "adapter" and model.base is not None:
        return config_of(model.base)
    return gguf_config(model.path) if model.format == "gguf" else read_config(model.path)


def differs(what: str) -> str:
    """What an export that is not the model is told by."""
    return f"the export of this architecture is not the model: {what}"


def _small_model(config: Mapping[str, Any], folder: Path) -> tuple[Cut, Any] | str:
    """The small model, written as a checkpoint with a tokenizer, and as a module; or why there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        small = cut(config, _read(config, folder))
        settings = _read(small.config, folder)
    except ModelError as error:
        return f"transformers makes no model of this config, to compare the export with: {error}"
    module = _module(settings)
    randomize(module)
    _try(module)
    module.save_pretrained(folder)
    _tokenizer(small.config["vocab_size"]).save_pretrained(folder)
    _write(small.config, folder)  # as it was written, not as transformers writes it
    return small, module


def small_model(config: Mapping[str, Any], folder: Path) -> tuple[Path, Any] | str:
    """A small random model of that config in `folder`, and as a module of transformers; or why there is none."""
    made = _small_model(config, folder)
    return made if isinstance(made, str) else (folder, made[1])


def _read(config: Mapping[str, Any], folder: Path) -> Any:
    _write({key: value for key, value in config.items() if key != "auto_map"}, folder)
    return load_config(folder)


def _module(settings: Any) -> Any:
    """A model of that config; the random numbers that later steps of this process meet stay what they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.float32).eval()


def _write(config: Mapping[str, Any], folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def randomize(module: Any) -> None:
    """Weights that make every part count: nothing is zero or one, and heads look at few tokens."""
    generator = torch.Generator().manual_seed(SEED)
    tables = {id(one.weight) for one in module.modules() if isinstance(one, torch.nn.Embedding)}
    buffers = [value for name, value in module.named_buffers() if name in module.state_dict()]
    with torch.no_grad():
        for value in [*module.parameters(), *buffers]:
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if value.dim() < 2:  # a norm around one or zero, a bias around zero
                value.add_(0.2 * noise)
            elif id(value) in tables:
                value.copy_(noise * (2 / value.shape[-1] ** 0.5))
            else:  # [rows, inputs]; a convolution [channels, 1, width]; experts [n, ..., ...]
                value.copy_(noise * (_GAIN / value.shape[-1] ** 0.5))


def _try(module: Any) -> None:
    """Read a few tokens; raises OlivineError where transformers takes a config that its model then stumbles over."""
    try:
        with torch.inference_mode():
            module(torch.full([1, 3], FIRST_PLAIN_TOKEN), use_cache=False)
    except (ValueError, RuntimeError, TypeError, LookupError, AttributeError) as error:
        what = f"{type(error).__name__}: {_line(error)}"
        raise OlivineError(f"transformers itself cannot run a model of this config: {what}") from error


def _tokenizer(n_tokens: int) -> Any:
    """Words, one a token: nothing is tokenized, but a checkpoint has a tokenizer."""
    from tokenizers import Tokenizer, models

    words = ["<pad>", "<s>", "</s>", *(f"word{index}" for index in range(3, n_tokens))]
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, words[0]))
    ends = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, **ends)


def exported(export: Export, folder: Path, context: Context) -> Path:
    """Export the small model that lies in `folder`; raises OlivineError, whatever the builder raises."""
    output = folder / "built"
    output.mkdir(parents=True, exist_ok=True)
    machine = replace(context.machine, device="cpu", execution_provider="CPUExecutionProvider")
    try:
        return export(Model("hf", folder / "model"), Context(output, folder / "scratch", machine, context.report)).path
    except (MemoryError, OSError):
        raise
    except Exception as error:  # the builder is not ours: whatever it raises, it would raise after all training too
        text = str(error) if isinstance(error, OlivineError) else f"{type(error).__name__}: {error}"
        raise OlivineError(f"the model builder cannot export this architecture: {text}") from error


def _probes(small: Cut) -> Iterator[_Probe]:
    """Short prompts, then for each boundary one that is stepped over by writing, one at it, and some beyond it."""
    lengths = [1, 7, *_PLAIN]
    for boundary in small.boundaries:
        lengths += [boundary - 2, boundary, boundary + 1]
        if boundary == small.window:
            lengths.append(boundary + min(boundary + 20, _BEYOND))
    for length in sorted({length for length in lengths if 0 < length <= small.context}):
        yield _Probe(length, min(_N_WRITTEN, small.context - length))


def _ask(folder: Path, small: Cut) -> list[_Said]:
    """Let the runtime read random prompts and go on from each, in the folder's own configuration."""
    try:
        runtime = GenaiRuntime(folder)
    except RuntimeError as error:  # all errors of the runtime are
        raise OlivineError(differs(f"the runtime does not load it: {_line(error)}")) from error
    said = []
    for probe in _probes(small):
        try:
            said.append(_written(runtime, probe, small))
        except RuntimeError as error:
            return [*said, _Said(probe, error=_line(error))]
    return said


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()).rpartition("Status Message: ")[2]  # after what the runtime always says
    return text if len(text) <= _N_SHOWN else f"{text[:_N_SHOWN]} ..."


def _written(runtime: GenaiRuntime, probe: _Probe, small: Cut) -> _Said:
    rng = np.random.default_rng([SEED, probe.n_tokens])
    prompt = rng.integers(FIRST_PLAIN_TOKEN, small.config["vocab_size"], probe.n_tokens).tolist()
    length = probe.n_tokens + probe.n_written
    room = max(length, runtime.config["search"]["max_length"])
    # an end token ends nothing here: the lengths are what counts
    writing = runtime.begin(do_sample=False, max_length=room, min_length=room)
    writing.read(prompt)
    logits = {probe.n_tokens: writing.logits()}
    for _ in range(probe.n_written):
        writing.write()
    if probe.n_written:
        logits[length] = writing.logits()
    return _Said(probe, writing.tokens, logits)


def _gaps(said: _Said, reference: Any, small: Cut) -> Iterator[_Gap]:
    """Of logits where the runtime gave them, and of every token that it wrote; the reference reads the same tokens."""
    lengths = range(said.probe.n_tokens, len(said.tokens) + 1)
    for length, expected in _expected(reference, said.tokens, lengths, small).items():
        allowed = TOLERANCE * float(expected.std())
        if length in said.logits:
            yield _Gap(said.probe, length, float(np.abs(said.logits[length] - expected).max()), allowed)
        if length < len(said.tokens):  # the token after it should have the highest logit, but for a tie and end tokens
            lower = float(expected[FIRST_PLAIN_TOKEN:].max() - expected[said.tokens[length]])
            yield _Gap(said.probe, length, lower, 2 * allowed)


def _expected(reference: Any, tokens: Sequence[int], lengths: Sequence[int], small: Cut) -> dict[int, Any]:
    """Logits [vocabulary] of transformers after so many of the tokens.

    A rope that depends on the length gives all tokens other angles once the text is longer than it was trained for, so
    texts below and above that length are read apart.
    """
    original = (small.original or 0) if small.rope_has_two_tables else 0
    parts = [[n for n in lengths if n <= original], [n for n in lengths if n > original]]
    logits_of: dict[int, Any] = {}
    for part in filter(None, parts):
        with torch.inference_mode():
            logits = reference(torch.tensor([list(tokens[: part[-1]])]), use_cache=False).logits[0]
        logits_of |= {n: logits[n - 1].float().numpy() for n in part}
    return logits_of


def _in_words(wrong: Sequence[_Gap], gaps: Sequence[_Gap], said: Sequence[_Said], reference: Any, small: Cut) -> str:
    """From where on, by how much, and what of the config the graph leaves out, where that explains it."""
    sizes = [gap.size for gap in wrong]
    by = "are not numbers" if any(map(math.isnan, sizes)) else f"differ by {max(sizes):.2g}"
    first = wrong[0].length
    where = f"from {first:,} tokens on" if gaps[0].length < first else "at every length"
    if all(gap.length > gap.probe.n_tokens for gap in wrong):
        where += ", while a text is written,"
    why = _cause(said, reference, small) or _boundary(first, small)
    failed = [f"; {_failed(one)}" for one in said if one.error]
    return f"{where} logits {by}{why}{''.join(failed)}"


def _boundary(first: int, small: Cut) -> str:
    """The boundary of the config that was passed last before the first difference."""
    names = {small.context: "context", small.original: "original length of the rope", small.window: "window"}
    passed = [length for length in names if length is not None and length < first <= length + _BEYOND]
    return f", beyond the {names[max(passed)]} of {max(passed):,}" if passed else ""


def _cause(said: Sequence[_Said], reference: Any, small: Cut) -> str:
    """What the graph leaves out: the change of the config that makes transformers agree with it."""
    for config, sentence in _suspects(small):
        other = _module(transformers.AutoConfig.for_model(**config))
        other.load_state_dict(reference.state_dict())
        if not any(gap.is_there for one in said for gap in _gaps(one, other, replace(small, original=None))):
            return sentence
    return ""


def _suspects(small: Cut) -> Iterator[tuple[dict[str, Any], str]]:
    """Configs without one of the things that exports were seen to drop."""
    config = small.config
    if small.window is not None:
        whole = config | {"sliding_window": small.context + 1}
        yield whole, f": beyond the window of {small.window:,} the exported graph reads everything"
    for key, what in SOFT_CAPS.items():
        if config.get(key):
            yield config | {key: None}, f": the exported graph has no soft cap of {what}"
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        plain = {key: value for key, value in config.items() if key not in ("rope_scaling", "rope_parameters")}
        theta = rope.get("rope_theta", config.get("rope_theta"))
        if theta is not None:
            plain["rope_theta"] = theta
        yield plain, f": the exported graph has no '{kind}' scaling of its rotary embedding"

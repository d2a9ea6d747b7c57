"""The proof that the export of a Whisper is the model, on a small random one of the same config.

    a sound ─ the runtime's processor ─> features <─ compared ─> transformers' feature extractor
    features ─ the runtime ─> tokens, up to the length that the model reads
    features, tokens ─ encoder.onnx, decoder.onnx ─> states, logits <─ compared ─> transformers

Every token that the runtime wrote, one at a time with its caches, must be the likeliest by transformers.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError, OlivineError
from olivine.exporting.proving import SEED, TOLERANCE, Export, differs, exported, proof_folder, randomize
from olivine.models.config import CODE_KEYS, load_config
from olivine.models.speech import RATE
from olivine.runtimes.speech import Listener, SpeechSession, Written, wav_of
from olivine.work import Context

if TYPE_CHECKING:
    import numpy as np
    import torch
    import transformers
else:
    np, torch, transformers = lazy.module("numpy"), lazy.module("torch"), lazy.module("transformers")

_SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
_END, _START = 0, 1
_PROMPT = "".join(_SPECIAL[_START:])
_N_HEADS, _N_LAYERS, _WIDTH = 2, 2, 128
_SECONDS = 2.0
_HEARD = 1e-3  # that features may differ by: they are logarithms to base ten, cut at 8 below the largest
_LEFT_OUT = ("quantization_config", "auto_map", "_name_or_path", "torch_dtype", *CODE_KEYS)


def prove(config: Mapping[str, Any], export: Export, context: Context) -> Mapping[str, Any]:
    """Facts of the proof, as Pass.prove gives them; raises OlivineError when the export is not the model."""
    with proof_folder(context) as folder:
        return _compare(config, export, context, folder)


def _compare(config: Mapping[str, Any], export: Export, context: Context, folder: Path) -> Mapping[str, Any]:
    (folder / "model").mkdir(parents=True)
    try:
        module = _small_model(config, folder / "model")
    except ModelError as error:
        why = f"transformers makes no model of this config, to compare the export with: {error}"
        return {"lengths": [], "largest_difference": 0.0, "unproven": [why]}
    built = exported(export, folder, context)
    sound = wav_of(_sound())
    n_most = int(module.config.max_target_positions)
    try:  # an end token ends nothing here: the length is what counts
        said = Listener(built).write(sound, _PROMPT, n_most, n_most)
    except (RuntimeError, ModelError) as error:
        raise OlivineError(differs(f"the runtime does not write: {' '.join(str(error).split())[-200:]}")) from error
    _check_features(said, sound, module.config.num_mel_bins)
    return _check_numbers(said, module, SpeechSession(built))


def _check_features(said: Written, sound: bytes, n_mels: int) -> None:
    samples = np.frombuffer(sound[44:], "<i2").astype(np.float32) / 2**15  # after the head of a WAV file
    extract = transformers.WhisperFeatureExtractor(feature_size=n_mels)
    expected = extract(samples, sampling_rate=RATE, return_tensors="np")["input_features"]
    apart = float(np.abs(said.features - expected).max()) if said.features.shape == expected.shape else float("inf")
    if not apart <= _HEARD:
        raise OlivineError(differs(f"its processor hears a sound otherwise: features differ by {apart:.2g}"))


def _check_numbers(said: Written, module: Any, session: SpeechSession) -> Mapping[str, Any]:
    tokens = np.array([said.tokens])
    given = session.run({"input_features": said.features, "decoder_input_ids": tokens})
    with torch.inference_mode():
        expected = module(
            input_features=torch.from_numpy(said.features), decoder_input_ids=torch.from_numpy(tokens), return_dict=True
        )
    logits = expected.logits[0].numpy()
    parts = {
        "the encoder's states": (given["encoder_last_hidden_state"], expected.encoder_last_hidden_state.numpy()),
        "logits": (given["logits"][0], logits),
    }
    for name, (one, other) in parts.items():
        gap = float(np.abs(one - other).max())
        if not gap <= TOLERANCE * float(other.std()):
            raise OlivineError(differs(f"{name} differ by {gap:.2g}"))
    _check_written(said.tokens, logits)
    return {
        "lengths": [len(_SPECIAL) - 1, len(said.tokens)],
        "largest_difference": float(np.abs(given["logits"][0] - logits).max()),
        "unproven": [],
    }


def _check_written(tokens: Sequence[int], logits: Any) -> None:
    """Each token after the prompt has the highest logit but that of the end, or one as high."""
    allowed = 2 * TOLERANCE * float(logits.std())
    for place in range(len(_SPECIAL) - 1, len(tokens)):
        before = logits[place - 1].copy()
        before[_END] = -np.inf
        lower = float(before.max() - before[tokens[place]])
        if not lower <= allowed:
            what = f"after {place} tokens it writes one whose logit is {lower:.2g} below the highest"
            raise OlivineError(differs(what))


def _sound() -> Any:
    """Noise that comes and goes: where a sound begins or ends at once, the runtime fills its edge up otherwise."""
    n_samples = int(_SECONDS * RATE)
    noise = np.random.default_rng(SEED).standard_normal(n_samples).astype(np.float32)
    return 0.2 * noise * np.hanning(n_samples).astype(np.float32)


def _small_model(config: Mapping[str, Any], folder: Path) -> Any:
    """A random model of the config in small widths, in `folder` with a tokenizer and the config of its features."""
    tokenizer = _tokenizer()
    small = _cut(config, len(tokenizer))
    (folder / "config.json").write_text(json.dumps(small, indent=2) + "\n", encoding="utf-8")
    settings = load_config(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module = transformers.AutoModelForSpeechSeq2Seq.from_config(settings, dtype=torch.float32).eval()
    randomize(module)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=settings.num_mel_bins).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(small, indent=2) + "\n", encoding="utf-8")
    return module


def _cut(config: Mapping[str, Any], n_tokens: int) -> dict[str, Any]:
    """Two heads as wide as they were and two layers, with one more where the encoder has more than the decoder."""
    small = {key: value for key, value in config.items() if key not in _LEFT_OUT}
    heads = int(config.get("encoder_attention_heads", 4))
    layers = [int(config.get(f"{part}_layers", 4)) for part in ("encoder", "decoder")]
    width = _N_HEADS * (int(config.get("d_model", 384)) // heads)
    return small | {
        "d_model": width,
        "encoder_layers": _N_LAYERS + (layers[0] > layers[1]),
        "decoder_layers": _N_LAYERS,
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), _N_HEADS),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), _WIDTH),
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), _END),
        **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens", "forced_decoder_ids")),
        "decoder_start_token_id": _START,
        "vocab_size": n_tokens,
        "dtype": "float32",
    }


def _tokenizer() -> Any:
    """Whisper's, of single bytes and the tokens that a prompt is made of."""
    from tokenizers import pre_tokenizers

    words = [*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = transformers.WhisperTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": list(_SPECIAL[_START:])})
    return tokenizer

"""What kind of model a config.json describes: its task, its labels, and what goes in and comes out.

All of it follows from the architecture's name, by transformers' own rules for names, and from the sizes in the config.
An architecture of which nothing is known counts as a decoder, as it did before there were others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from olivine.models.expected import MODEL_TYPES
from olivine.models.facts import Kind
from olivine.models.signature import Signature, Size, TensorSpec

# end of the architecture's name -> (kind, task on the hub)
_HEADS: Mapping[str, tuple[Kind, str]] = {
    "ForSequenceClassification": ("encoder", "text-classification"),
    "ForTokenClassification": ("encoder", "token-classification"),
    "ForQuestionAnswering": ("encoder", "question-answering"),
    "ForMultipleChoice": ("encoder", "multiple-choice"),
    "ForMaskedLM": ("encoder", "fill-mask"),
    "ForImageClassification": ("vision", "image-classification"),
    "ForObjectDetection": ("vision", "object-detection"),
    "ForSemanticSegmentation": ("vision", "image-segmentation"),
    "ForUniversalSegmentation": ("vision", "image-segmentation"),
    "ForDepthEstimation": ("vision", "depth-estimation"),
    "ForAudioClassification": ("audio", "audio-classification"),
    "ForAudioFrameClassification": ("audio", "audio-frame-classification"),
    "ForXVector": ("audio", "audio-xvector"),
    "ForCTC": ("audio", "automatic-speech-recognition"),
    "ForSpeechSeq2Seq": ("encoder-decoder", "automatic-speech-recognition"),
    "ForSeq2SeqLM": ("encoder-decoder", "text2text-generation"),
    "TextModelWithProjection": ("encoder", "feature-extraction"),
    "VisionModelWithProjection": ("vision", "image-feature-extraction"),
}
_SPEECH = frozenset({"wav2vec2", "wav2vec2-conformer", "wav2vec2-bert", "hubert", "wavlm", "sew", "sew-d", "unispeech"})
_SPEECH_TO_TEXT = frozenset({"whisper", "speech_to_text", "moonshine"})
_SPECTROGRAMS = frozenset({"audio-spectrogram-transformer"})
_SEQ2SEQ = frozenset({"t5", "mt5", "bart", "mbart", "marian", "pegasus", "m2m_100", "led", "longt5", "umt5"})
_CLASSIFIES = frozenset(
    {
        *("text-classification", "token-classification", "image-classification"),
        *("audio-classification", "audio-frame-classification"),
    }
)
TASKS = frozenset(
    {
        *(task for _, task in _HEADS.values()),
        *("text-generation", "text-generation-with-past", "feature-extraction", "image-feature-extraction"),
        *("audio-feature-extraction", "zero-shot-image-classification", "summarization", "translation"),
        *("text-to-speech", "image-to-text", "image-text-to-text", "sentence-similarity", "zero-shot-classification"),
        *("sentiment-analysis", "ner", "fill-mask", "mask-generation", "visual-question-answering"),
    }
)
"""Names of tasks that a config may give to a model, transformers' short ones included."""


@dataclass(frozen=True)
class Described:
    """What a config.json says of its model."""

    kind: Kind
    task: str
    labels: tuple[str, ...]
    signature: Signature | None


def describe(config: Mapping[str, Any], architecture: str) -> Described:
    """What kind of model a config describes. architecture: the first of those that it names."""
    kind, task = _kind(config, architecture)
    if kind == "decoder":
        return Described(kind, task, (), None)
    labels = _labels(config) if task in _CLASSIFIES else ()
    inputs, outputs = _inputs(config, kind, task), _outputs(config, kind, task, len(labels))
    return Described(kind, task, labels, Signature(tuple(inputs), tuple(outputs)) if inputs else None)


def _kind(config: Mapping[str, Any], architecture: str) -> tuple[Kind, str]:
    model_type = str(config.get("model_type", ""))
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "decoder", "text-generation"
    head = next((known for end, known in _HEADS.items() if architecture.endswith(end)), None)
    if head is not None:
        is_heard = model_type in _SPEECH and head == _HEADS["ForSequenceClassification"]  # of wav2vec2: of sounds
        return ("audio", "audio-classification") if is_heard else head
    if config.get("is_encoder_decoder") is True or model_type in _SPEECH_TO_TEXT | _SEQ2SEQ:
        is_heard = model_type in _SPEECH_TO_TEXT
        return "encoder-decoder", "automatic-speech-recognition" if is_heard else "text2text-generation"
    if not architecture.endswith("Model") or model_type in MODEL_TYPES:
        return "decoder", "text-generation"
    if "text_config" in config and "vision_config" in config:
        return "image-text", "zero-shot-image-classification"
    return _bare(config, model_type)


def _bare(config: Mapping[str, Any], model_type: str) -> tuple[Kind, str]:
    """A body without a head, by what its config has sizes of."""
    if model_type in _SPEECH | _SPECTROGRAMS or "num_mel_bins" in config:
        return "audio", "audio-feature-extraction"
    if "image_size" in config or "num_channels" in config:
        return "vision", "image-feature-extraction"
    return "encoder", "feature-extraction"


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes; two that transformers names where the config says nothing."""
    names = config.get("id2label")
    if not isinstance(names, Mapping):
        return ("LABEL_0", "LABEL_1")
    numbered = {int(key): str(value) for key, value in names.items() if str(key).isdecimal()}
    return tuple(numbered[key] for key in sorted(numbered))


def _size(config: Mapping[str, Any], key: str) -> int | None:
    """A size that the config tells."""
    value = config.get(key)
    return value if type(value) is int and value > 0 else None


def _inputs(config: Mapping[str, Any], kind: Kind, task: str) -> list[TensorSpec]:
    if kind == "encoder":
        return _text(config, ("batch", "choices") if task == "multiple-choice" else ("batch",))
    if kind == "vision":
        return [_pixels(config)]
    if kind == "audio":
        return [_sound(config)]
    if kind == "image-text":
        text, mask = _text(_part(config, "text_config"), ("batch",))[:2]
        return [text, _pixels(_part(config, "vision_config"), batch="images"), mask]
    source = [_spectrum(config)] if task == "automatic-speech-recognition" else _text(config, ("batch",))[:2]
    shape = ("batch", "decoder_sequence")
    return [*source, TensorSpec("decoder_input_ids", "int64", shape, _size(config, "vocab_size"))]


def _part(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config[key]
    return value if isinstance(value, Mapping) else {}


def _text(config: Mapping[str, Any], rows: tuple[Size, ...]) -> list[TensorSpec]:
    shape = (*rows, "sequence")
    specs = [
        TensorSpec("input_ids", "int64", shape, _size(config, "vocab_size")),
        TensorSpec("attention_mask", "int64", shape),
    ]
    if (_size(config, "type_vocab_size") or 0) > 1:
        specs.append(TensorSpec("token_type_ids", "int64", shape, _size(config, "type_vocab_size")))
    return specs


def _pixels(config: Mapping[str, Any], batch: str = "batch") -> TensorSpec:
    size = config.get("image_size")
    height: Any = "height"
    width: Any = "width"
    if isinstance(size, Mapping):
        height, width = size.get("height", height), size.get("width", width)
    elif isinstance(size, list) and len(size) == 2:
        height, width = size
    elif type(size) is int:
        height = width = size
    return TensorSpec("pixel_values", "float32", (batch, _size(config, "num_channels") or 3, height, width))


def _sound(config: Mapping[str, Any]) -> TensorSpec:
    """Samples of a wave, or the rows of its spectrogram."""
    model_type = str(config.get("model_type", ""))
    if model_type in _SPECTROGRAMS:
        return TensorSpec("input_values", "float32", ("batch", _size(config, "max_length"), _bins(config)))
    if model_type in _SPEECH_TO_TEXT:
        return _spectrum(config)
    return TensorSpec("input_values", "float32", ("batch", "samples"))


def _spectrum(config: Mapping[str, Any]) -> TensorSpec:
    """Whisper's: [batch, mel bins, frames], of which two become one position."""
    positions = _size(config, "max_source_positions")
    frames: Size = 2 * positions if positions is not None else "frames"
    return TensorSpec("input_features", "float32", ("batch", _bins(config), frames))


def _bins(config: Mapping[str, Any]) -> int | None:
    return _size(config, "num_mel_bins")


def _outputs(config: Mapping[str, Any], kind: Kind, task: str, n_labels: int) -> list[TensorSpec]:
    words, hidden = _size(config, "vocab_size"), _size(config, "hidden_size")
    shapes: Mapping[str, Mapping[str, tuple[Size, ...]]] = {
        "text-classification": {"logits": ("batch", n_labels)},
        "image-classification": {"logits": ("batch", n_labels)},
        "audio-classification": {"logits": ("batch", n_labels)},
        "token-classification": {"logits": ("batch", "sequence", n_labels)},
        "audio-frame-classification": {"logits": ("batch", "frames", n_labels)},
        "question-answering": {"start_logits": ("batch", "sequence"), "end_logits": ("batch", "sequence")},
        "multiple-choice": {"logits": ("batch", "choices")},
        "fill-mask": {"logits": ("batch", "sequence", words)},
        "zero-shot-image-classification": {
            "logits_per_image": ("images", "batch"),
            "logits_per_text": ("batch", "images"),
            "text_embeds": ("batch", _size(config, "projection_dim")),
            "image_embeds": ("images", _size(config, "projection_dim")),
        },
    }
    if kind == "encoder-decoder":
        return [_output("logits", ("batch", "decoder_sequence", words))]
    if kind == "audio" and task == "automatic-speech-recognition":
        return [_output("logits", ("batch", "frames", words))]
    if task in shapes:
        return [_output(name, shape) for name, shape in shapes[task].items()]
    if task.endswith("feature-extraction"):
        return [_output("last_hidden_state", ("batch", "sequence", hidden))]
    return []


def _output(name: str, shape: tuple[Size, ...]) -> TensorSpec:
    return TensorSpec(name, "float32", shape)

"""Sounds and images of rows as inputs of a model, by the feature extractor or the image processor beside it.

A sound is a list of samples, `{array, sampling_rate}`, a WAV file by its path, or the bytes of one; an image an array
of [height, width, channels], a file by its path, or the bytes of one. `datasets` keeps either as `{bytes, path}`.
"""

import io
import wave
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.config.schema import DataConfig
from olivine.data import named_file
from olivine.errors import DataError, ModelError
from olivine.models.inspect import PREPROCESSOR
from olivine.models.signature import Signature

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")

Extract = Callable[[Mapping[str, Any]], Mapping[str, Any]]

_USUAL = {"audio": ("audio", "speech", "sound"), "image": ("image", "img", "pixels")}
_INPUTS = {"input_values": "audio", "input_features": "audio", "pixel_values": "image"}
_DURATION = 30.0  # seconds of a sound that are read, as Olive has it
_WIDTHS = {1: "uint8", 2: "<i2", 4: "<i4"}  # bytes of a sample in a WAV file


def kind_of(signature: Signature) -> str | None:
    """Whether a model hears or sees: "audio", "image", or None for neither, by the names of its inputs."""
    return next((_INPUTS[spec.name] for spec in signature.inputs if spec.name in _INPUTS), None)


def feature_column(config: DataConfig, columns: Sequence[str], kind: str) -> str | None:
    """The column that holds the sound or image: the one that is named, or one of the usual."""
    named = config.pre_process_data_config.text_cols
    if named:
        return named if isinstance(named, str) else named[0]
    return next((column for column in _USUAL[kind] if column in columns), None)


def extractor(folder: Path, config: DataConfig, signature: Signature, columns: Sequence[str]) -> Extract | None:
    """What makes inputs of the sound or image of a row; None where rows hold the inputs themselves, or nothing of it.

    folder: of the model. Raises ModelError where nothing beside the model says how, or the library that reads images is
    not there.
    """
    kind = kind_of(signature)
    column = feature_column(config, columns, kind) if kind is not None else None
    if column is None or all(spec.name in columns for spec in signature.inputs):
        return None
    if not (folder / PREPROCESSOR).is_file():
        if column not in columns or any(_INPUTS.get(name) == kind for name in columns):
            return None
        raise ModelError(
            f"the rows hold {'a sound' if kind == 'audio' else 'an image'} in '{column}', but no {PREPROCESSOR} beside "
            "the model says what it reads of that; save its processor there, or name columns as its inputs are"
        )
    return _hearing(folder, config, column) if kind == "audio" else _seeing(folder, config, column)


def _hearing(folder: Path, config: DataConfig, column: str) -> Extract:
    from transformers import AutoFeatureExtractor

    settings = config.pre_process_data_config
    extract = AutoFeatureExtractor.from_pretrained(folder, **settings.feature_extractor_args)
    rate = int(extract.sampling_rate)
    longest = int(rate * heard_seconds(config))
    limits = {} if extract.model_input_names[0] == "input_features" else {"max_length": longest, "truncation": True}

    asked = settings.sample_rate
    if asked is not None and asked != rate:
        raise DataError(f"sample_rate is {asked}, and the model hears {rate} samples a second")

    def features(row: Mapping[str, Any]) -> Mapping[str, Any]:
        samples, own_rate = sound_of(row.get(column), column, config)
        if own_rate is not None and own_rate != rate and asked is None:
            raise DataError(
                f"the sound in '{column}' has {own_rate} samples a second, and the model hears {rate}: resample it, or "
                f"write sample_rate: {rate}"
            )
        samples = resampled(samples, own_rate or rate, rate)
        given = extract(samples[:longest], sampling_rate=rate, return_tensors="np", **_fitting(limits, extract))
        return {name: value[0] for name, value in given.items()}

    return features


def heard_seconds(config: DataConfig) -> float:
    """Seconds of a sound that are heard; what comes after them is not."""
    return config.pre_process_data_config.max_duration or _DURATION


def _fitting(limits: Mapping[str, Any], extract: Any) -> Mapping[str, Any]:
    """Lengths are asked for of waves alone: a spectrogram has that of its model."""
    return limits if getattr(extract, "num_mel_bins", None) is None else {}


def _seeing(folder: Path, config: DataConfig, column: str) -> Extract:
    try:
        from transformers import AutoImageProcessor

        process = AutoImageProcessor.from_pretrained(folder)
    except ImportError:
        raise ModelError(
            f"images of '{column}' are prepared by Pillow, which is not installed. Run: pip install 'olivine[images]'"
        ) from None

    def features(row: Mapping[str, Any]) -> Mapping[str, Any]:
        given = process(image_of(row.get(column), column, config), return_tensors="np")
        return {name: np.asarray(value)[0] for name, value in given.items()}

    return features


def sound_of(value: Any, column: str, config: DataConfig) -> tuple[Any, int | None]:
    """Samples in -1..1 as float32, and how many a second has; None where nothing says it. config: of the data."""
    if isinstance(value, Mapping) and value.get("array") is not None:
        rate = value.get("sampling_rate")
        return _wave(value["array"], column), int(rate) if rate is not None else None
    if isinstance(value, str | bytes | Mapping):
        return _decoded(_bytes(value, column, config), column)
    return _wave(value, column), None


def seconds_of(row: Mapping[str, Any], column: str | None, config: DataConfig) -> float:
    """How long the sound of a row is; 0 where nothing says it."""
    if column is None or column not in row:
        return 0.0
    samples, rate = sound_of(row[column], column, config)
    return len(samples) / rate if rate else 0.0


def resampled(samples: Any, rate: int, other: int) -> Any:
    """The same sound with another number of samples a second, without what would be above half of that.

    By its spectrum, cut or filled up, of the whole sound (Oppenheim and Schafer, Discrete-Time Signal Processing, 4.6).
    """
    if rate == other:
        return samples
    n_samples = round(len(samples) * other / rate)
    spectrum = np.fft.rfft(samples)
    n_kept = min(len(spectrum), n_samples // 2 + 1)
    return (np.fft.irfft(spectrum[:n_kept], n_samples) * (n_samples / len(samples))).astype(np.float32)


def image_of(value: Any, column: str, config: DataConfig) -> Any:
    """An image as an array of [height, width, channels]."""
    if not isinstance(value, str | bytes | Mapping):
        array = np.asarray(value)
        if array.dtype.kind not in "uif" or array.ndim not in (2, 3):
            raise DataError(f"the column '{column}' holds no image: an array of the shape {list(array.shape)}")
        return array
    from PIL import Image, UnidentifiedImageError

    try:
        return np.asarray(Image.open(io.BytesIO(_bytes(value, column, config))).convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"the column '{column}' holds no image that Pillow reads: {error}") from None


def _bytes(value: "str | bytes | Mapping[str, Any]", column: str, config: DataConfig) -> bytes:
    """The content of a file, as it is or by its path: see `named_file`."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path") or ""
    if isinstance(value, bytes):
        return value
    try:
        return (named_file(config, value) or Path(config.folder) / value).read_bytes()
    except OSError as error:
        raise DataError(f"the file '{value}' of the column '{column}' cannot be read: {error.strerror}") from None


def _wave(value: Any, column: str) -> Any:
    try:
        samples: Any = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        samples = np.zeros((0, 0))
    if samples.ndim != 1 or not samples.size:
        raise DataError(f"the column '{column}' holds no sound: a list of numbers, a WAV file or its bytes")
    return samples


def _decoded(content: bytes, column: str) -> tuple[Any, int]:
    """A sound file, its channels as one: a WAV file of whole numbers, or what soundfile reads where that is here."""
    if not content:
        raise DataError(f"the column '{column}' holds an empty file")
    try:
        with wave.open(io.BytesIO(content)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            frames = file.readframes(file.getnframes())
    except (wave.Error, EOFError):
        return _by_soundfile(content, column)
    if not frames:
        raise DataError(f"the column '{column}' holds a sound file without a sample")
    if width not in _WIDTHS:
        return _by_soundfile(content, column)
    numbers: Any = np.frombuffer(frames, _WIDTHS[width]).astype(np.float32)
    numbers = numbers / 128 - 1 if width == 1 else numbers / 2 ** (8 * width - 1)
    return numbers.reshape(-1, channels).mean(axis=1), rate


def _by_soundfile(content: bytes, column: str) -> tuple[Any, int]:
    """FLAC, Ogg, MP3, and WAV files of floats or 24 bits."""
    try:
        import soundfile
    except ImportError:
        raise DataError(
            f"the column '{column}' holds no WAV file of 8, 16 or 32 bits; what else there is (FLAC, Ogg, MP3) is read "
            "by soundfile, which is not installed. Run: pip install 'olivine[sounds]'"
        ) from None
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except RuntimeError as error:  # of libsndfile
        told = str(error).rpartition(": ")[2]  # after the name of what was opened
        raise DataError(f"the column '{column}' holds no sound that soundfile reads: {told}") from None
    if not len(samples):
        raise DataError(f"the column '{column}' holds a sound file without a sample")
    return samples.mean(axis=1), int(rate)

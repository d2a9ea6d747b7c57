"""A Whisper as onnxruntime-genai packages it, an encoder and a decoder: its outputs, and what it writes of a sound.

input_features [rows, mels, 3000] ─ encoder ─> states, keys and values of what was heard
                                      decoder_input_ids ─ decoder ─> logits [rows, tokens, vocabulary]
"""

import io
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.errors import ModelError
from olivine.models.json_files import read_object
from olivine.models.speech import RATE
from olivine.runtimes.session import OnnxSession

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnxruntime_genai
else:
    np, onnxruntime_genai = lazy.module("numpy"), lazy.module("onnxruntime_genai")


class SpeechSession:
    """The two graphs of a folder; the same calls as an OnnxSession has, with the names that transformers has."""

    input_names = ("input_features", "decoder_input_ids")

    def __init__(self, folder: Path, provider: str = "CPUExecutionProvider") -> None:
        self._config = read_object(folder / "genai_config.json")["model"]
        files = {part: self._config[part]["filename"] for part in ("encoder", "decoder")}
        self._encoder, self._decoder = (OnnxSession(folder / files[part], provider) for part in ("encoder", "decoder"))
        self._empty = self._no_past()

    def run(self, inputs: Mapping[str, Any]) -> "dict[str, npt.NDArray[Any]]":
        """Logits of all tokens, and the encoder's states, as float32."""
        heard = self._hear(inputs["input_features"])
        states = heard.pop(self._config["encoder"]["outputs"]["encoder_hidden_states"])
        n_rows = len(states)
        past = {name: np.zeros((n_rows, *empty.shape[1:]), empty.dtype) for name, empty in self._empty.items()}
        ids = np.asarray(inputs["decoder_input_ids"], np.int32)
        logits = self._decoder.run({"input_ids": ids, **past, **heard})["logits"]
        return {"logits": logits.astype(np.float32), "encoder_last_hidden_state": states.astype(np.float32)}

    def decoder(self, features: Any) -> "Callable[[Sequence[int]], npt.NDArray[np.float32]]":
        """What gives the logits [vocabulary] after tokens that grow by one from call to call: it keeps their caches."""
        heard, past, n_read = self._hear(features), dict(self._empty), 0
        heard.pop(self._config["encoder"]["outputs"]["encoder_hidden_states"])

        def following(tokens: Sequence[int]) -> "npt.NDArray[np.float32]":
            nonlocal past, n_read
            ids = np.array([tokens[n_read:]], np.int32)
            given = self._decoder.run({"input_ids": ids, **past, **heard})
            past, n_read = {name: given[name.replace("past_", "present_")] for name in past}, len(tokens)
            last: npt.NDArray[np.float32] = given["logits"][0, -1].astype(np.float32)
            return last

        return following

    def _hear(self, features: Any) -> "dict[str, npt.NDArray[Any]]":
        """The encoder's states, and keys and values under the names that the decoder has for them."""
        name = self._config["encoder"]["inputs"]["audio_features"]
        given = {name: np.asarray(features, self._encoder.dtype_of(name))}
        return {key.replace("present_", "past_"): value for key, value in self._encoder.run(given).items()}

    def _no_past(self) -> "dict[str, npt.NDArray[Any]]":
        """Keys and values of no token for each layer."""
        decoder = self._config["decoder"]
        shape = (1, decoder["num_key_value_heads"], 0, decoder["head_size"])
        names = [decoder["inputs"][f"past_{kind}_names"] for kind in ("key", "value")]
        layers = range(decoder["num_hidden_layers"])
        return {name % n: np.zeros(shape, self._decoder.dtype_of(name % n)) for name in names for n in layers}


@dataclass(frozen=True)
class Written:
    """What the runtime wrote of a sound.

    tokens: of the prompt and after it. features [rows, mels, 3000]: of the sound, as the runtime made them. logits
    [vocabulary]: that the last token was chosen by.
    """

    tokens: list[int]
    features: "npt.NDArray[np.float32]"
    logits: "npt.NDArray[np.float32]"


class Listener:
    """The folder in onnxruntime-genai, as its documentation has it: a WAV file in, tokens out.

    Raises ModelError where the runtime refuses the folder.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._model = onnxruntime_genai.Model(str(folder))
            self._processor = self._model.create_multimodal_processor()
        except RuntimeError as error:
            raise ModelError(f"onnxruntime-genai does not load {folder}: {' '.join(str(error).split())}") from error

    def write(self, sound: bytes, prompt: str, n_most: int, n_least: int = 0) -> Written:
        """The likeliest tokens, up to an end token or `n_most` with those of the prompt; at least `n_least`.

        sound: a WAV file. Raises RuntimeError, as all that the runtime refuses does.
        """
        params = onnxruntime_genai.GeneratorParams(self._model)
        params.set_search_options(do_sample=False, num_beams=1, max_length=n_most, min_length=n_least)
        generator = onnxruntime_genai.Generator(self._model, params)
        inputs = self._processor([prompt], audios=onnxruntime_genai.Audios.open_bytes(sound))
        features = np.array(inputs["audio_features"].as_numpy(), np.float32)
        generator.set_inputs(inputs)  # which takes them out of `inputs`
        logits = features[:0]
        while not generator.is_done():
            logits = np.array(generator.get_logits(), np.float32)[0, -1]
            generator.generate_next_token()
        return Written([int(token) for token in generator.get_sequence(0)], features, logits)


def wav_of(samples: Any, rate: int = RATE) -> bytes:
    """A WAV file of samples in -1..1, in whole numbers of 16 bits."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return content.getvalue()

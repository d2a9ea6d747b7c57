"""What a Whisper is told before it writes: the tokens of language and task, and the sizes of what it hears.

From the files of a checkpoint, or of the folder that was built of it; nothing is loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olivine.errors import ModelError
from olivine.models.json_files import is_file, read_object

RATE = 16_000  # samples a second, of all Whispers
SECONDS = 30  # of a window; a shorter sound is filled up with silence
GENERATION = "generation_config.json"
BESIDE = (GENERATION, "preprocessor_config.json")
"""What of a checkpoint stays true of the folder that is built of it, beside its tokenizer."""
_DEFAULT = {"language": "<|en|>", "task": "transcribe"}
_OPTIONS = (("language", "lang_to_id"), ("task", "task_to_id"))


@dataclass(frozen=True)
class Prompt:
    """What the decoder begins with.

    tokens: of begin, language and task. ends: those that end what it writes. n_most: tokens that it reads and writes.
    """

    tokens: tuple[int, ...]
    ends: tuple[int, ...]
    n_most: int


def prompt_of(folder: Path) -> Prompt:
    """Begin, language, task and "no times", as far as generation_config.json or config.json know them.

    English is meant where they name no language. Raises ModelError where nothing says what the decoder begins with.
    """
    said = {**_read(folder / "config.json"), **_of_genai(folder), **_read(folder / GENERATION)}
    start = said.get("decoder_start_token_id")
    if type(start) is not int:
        raise ModelError(f"{folder}: no decoder_start_token_id says what the decoder begins with")
    tokens = [start]
    if said.get("is_multilingual", bool(said.get("lang_to_id"))):
        tokens += [number for name, table in _OPTIONS if (number := _number(said, name, table)) is not None]
    if type(said.get("no_timestamps_token_id")) is int:
        tokens.append(said["no_timestamps_token_id"])
    if type(said.get("forced_bos_token_id")) is int:  # of BART, and the language that mBART writes
        tokens.append(said["forced_bos_token_id"])
    forced = said.get("forced_decoder_ids")
    if len(tokens) == 1 and isinstance(forced, list):  # as checkpoints of 2022 say the same
        tokens += [pair[1] for pair in forced if isinstance(pair, list) and len(pair) == 2 and type(pair[1]) is int]
    ends = said.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    n_most = said.get("max_target_positions") or said.get("context_length") or said.get("max_length") or 448
    places = said.get("max_position_embeddings")  # of BART and its like: there are none beyond
    n_most = min(n_most, places) if type(places) is int and places > 0 else n_most
    return Prompt(tuple(tokens), tuple(one for one in ends if type(one) is int), int(n_most))


def spelled(folder: Path, tokens: Sequence[int]) -> str:
    """Special tokens as text, by the tokenizer.json of a folder; ModelError for one that is not special there."""
    added = _read(folder / "tokenizer.json").get("added_tokens")
    known = {
        one.get("id"): one.get("content") for one in added or () if isinstance(one, Mapping) and one.get("special")
    }
    if missing := [token for token in tokens if not isinstance(known.get(token), str)]:
        raise ModelError(
            f"{folder}: the token {missing[0]} begins a transcript, and tokenizer.json has no such special one"
        )
    return "".join(str(known[token]) for token in tokens)


def hears(folder: Path) -> bool:
    """Whether a folder for onnxruntime-genai is that of a Whisper: two graphs, an encoder and a decoder."""
    return _of_genai(folder).get("type") == "whisper"


def _of_genai(folder: Path) -> Mapping[str, Any]:
    model = _read(folder / "genai_config.json").get("model")
    return model if isinstance(model, Mapping) else {}


def _number(said: Mapping[str, Any], name: str, table: str) -> int | None:
    """The token of a language or task, by its name as the files of generation have it."""
    numbers, asked = said.get(table), said.get(name) or _DEFAULT[name]
    if not isinstance(numbers, Mapping):
        return None
    number = numbers.get(asked, numbers.get(f"<|{asked}|>"))
    return number if type(number) is int else None


def _read(file: Path) -> Mapping[str, Any]:
    return read_object(file) if is_file(file) else {}

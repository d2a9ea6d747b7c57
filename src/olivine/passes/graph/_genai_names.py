"""The names by which a genai_config.json knows inputs and outputs of its graph, after the graph was changed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from olivine.errors import ModelError
from olivine.models import GENAI_CONFIG
from olivine.models.json_files import read_object
from olivine.models.onnx_header import OnnxHeader

# genai's names for what AttentionMaskToSequenceLengths takes in place of a mask
_LENGTHS = {"past_sequence_length": "past_seq_len", "total_sequence_length": "total_seq_len"}


def follow_names(folder: Path, before: Path, after: Path) -> str | None:
    """Write the names of the graph `after` into the genai_config.json of a folder; gives what is to be said of it.

    An input or output that has another name at the same place was renamed. ModelError where the config names one that
    is there no more, as onnxruntime-genai would not load the folder.
    """
    path = folder / GENAI_CONFIG
    config = read_object(path)
    decoder = config["model"]["decoder"]
    old, new = OnnxHeader.read(before).signature, OnnxHeader.read(after).signature
    said = None
    for section, was, now in (("inputs", old.inputs, new.inputs), ("outputs", old.outputs, new.outputs)):
        names = dict(decoder.get(section) or {})
        names_before, names_after = [one.name for one in was], [one.name for one in now]
        if section == "inputs" and {*_LENGTHS.values()} <= {*names_after} - {*names_before}:
            names = {key: name for key, name in names.items() if name in names_after or "%d" in str(name)} | _LENGTHS
            said = "onnxruntime-genai gives past_seq_len and total_seq_len only to models with a sliding_window"
        renamed = _renamed(names_before, names_after)
        decoder[section] = {key: renamed.get(name, name) for key, name in names.items()}
        lost = [name for name in _named(decoder[section], decoder) if name in names_before and name not in names_after]
        if lost:
            raise ModelError(
                f"{GENAI_CONFIG} names the {section[:-1]} '{lost[0]}', which the graph has no more: onnxruntime-genai "
                "would not load the model"
            )
    path.unlink()  # a copy of what the cache keeps read-only
    path.write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")
    return said


def _renamed(before: Sequence[str], after: Sequence[str]) -> dict[str, str]:
    if len(before) != len(after):
        return {}
    return {old: new for old, new in zip(before, after, strict=True) if old != new}


def _named(names: Mapping[str, Any], decoder: Mapping[str, Any]) -> Iterator[str]:
    """The names themselves; "past.%d.key" is one for each layer."""
    for name in map(str, names.values()):
        layers = range(int(decoder.get("num_hidden_layers", 0))) if "%d" in name else (0,)
        yield from (name.replace("%d", str(layer)) for layer in layers)

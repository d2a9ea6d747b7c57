"""The folder of a Whisper for onnxruntime-genai: what goes beside its graphs, and the check that it transcribes."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from olivine import lazy
from olivine.errors import ModelError
from olivine.models.inspect import read_config
from olivine.models.speech import BESIDE, GENERATION, RATE, prompt_of, spelled
from olivine.runtimes.speech import Listener, wav_of

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir
else:
    np, onnx_ir = lazy.module("numpy"), lazy.module("onnx_ir")

_N_WRITTEN = 4
CPU = "CPUExecutionProvider"


def complete(source: Path, folder: Path) -> None:
    """Copy what says which tokens mean which language and task, and how a sound becomes features.

    Raises ModelError where it does not say what a transcript begins with.
    """
    for name in BESIDE:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    settings = json.loads((folder / GENERATION).read_text(encoding="utf-8")) if (folder / GENERATION).is_file() else {}
    start = read_config(source).get("decoder_start_token_id")
    if settings.get("decoder_start_token_id") is None and start is not None:  # the folder holds no config.json
        settings["decoder_start_token_id"] = start
        (folder / GENERATION).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    spelled(folder, prompt_of(folder).tokens)


def graphs_of(folder: Path) -> "list[onnx_ir.Model]":
    """The encoder's and the decoder's; ModelError where the folder lacks one, its data, tokenizer or processor."""
    from olivine.exporting.genai_graph import check_external

    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
    names = [config[part]["filename"] for part in ("encoder", "decoder")]
    for name in ("tokenizer_config.json", "audio_processor_config.json", *names):
        if not (folder / name).is_file():
            raise ModelError(f"the built folder lacks '{name}'")
    graphs = [onnx_ir.load(folder / name) for name in names]
    for graph in graphs:
        check_external(folder, graph)
    return graphs


def check_transcribes(folder: Path, execution_provider: str) -> None:
    """A second of sound goes in as a WAV file, and tokens come out; ModelError when that fails.

    Skipped for a provider that is not here.
    """
    import onnxruntime

    if execution_provider not in onnxruntime.get_available_providers():
        return
    listener, prompt = Listener(folder), prompt_of(folder)
    n_most = min(prompt.n_most, len(prompt.tokens) + _N_WRITTEN)
    times = np.arange(RATE, dtype=np.float32) / RATE
    try:
        said = listener.write(wav_of(0.2 * np.sin(2 * np.pi * 440 * times)), spelled(folder, prompt.tokens), n_most)
    except RuntimeError as error:
        raise ModelError(f"the built model does not run: onnxruntime-genai says: {error}") from error
    if not np.isfinite(said.logits).all():
        raise ModelError("the built model does not run: its logits after a second of sound are no numbers")
    read = said.tokens[: len(prompt.tokens)]
    if read != list(prompt.tokens):
        raise ModelError(
            f"the built model does not run: onnxruntime-genai reads its prompt as the tokens {read}, which are "
            f"{list(prompt.tokens)}: the tokenizer's special tokens are not marked as such"
        )

"""The runtime's tokenizer: files that it would read past the end of, or for ever, never reach it."""

import json
import re
import shutil

import pytest

from olivine.errors import ModelError
from olivine.models import Model
from olivine.passes import Context, Machine, passes
from olivine.runtimes.chat import open_chat
from olivine.runtimes.genai_tokenizer import TokenizerRefusedError, open_tokenizer
from olivine.work import Silent

MACHINE = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
# models of a tokenizer.json, and what is said of them
REFUSED = {
    "WordLevel": ({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}, "(WordLevel) has no merges"),
    "WordPiece": ({"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a"}, "(WordPiece) has no merges"),
    "no merges": ({"type": "BPE", "vocab": {"a": 0}}, "(BPE) has no merges"),
    "no vocabulary": ({"type": "BPE", "merges": []}, "(BPE) has no vocab"),
    "old form, no merges": ({"vocab": {"a": 0}}, "has no merges"),
    "empty merge": ({"type": "BPE", "vocab": {"a": 0}, "merges": ["a a", ""]}, "never gets past a merge"),
    "carriage return": ({"type": "BPE", "vocab": {"a": 0}, "merges": ["\r"]}, "never gets past a merge"),
    "comment": ({"type": "BPE", "vocab": {"#": 0, "##": 1}, "merges": ["# #"]}, "never gets past a merge"),
    "token without score": ({"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0], ["b"]]}, "a token has no score"),
    "no object": (7, "json.exception"),  # of the runtime, which refuses this one by itself
}


@pytest.fixture(scope="module")
def built(tiny_llama, tmp_path_factory):
    """The tiny Llama in float32; read only."""
    build, folder = passes.classes["build"], tmp_path_factory.mktemp("built")
    context = Context(folder, tmp_path_factory.mktemp("scratch"), MACHINE, Silent())
    return build(build.Params(precision="fp32")).run(Model("hf", tiny_llama), context).path


@pytest.fixture
def folder_with(built, tmp_path):
    """Makes the built folder with another model in its tokenizer.json."""

    def make(model, **settings):
        folder = shutil.copytree(built, tmp_path / "folder")
        for name, changes in (("tokenizer.json", {"model": model}), ("tokenizer_config.json", settings)):
            document = json.loads((folder / name).read_text(encoding="utf-8")) | changes
            (folder / name).write_text(json.dumps(document), encoding="utf-8")
        return folder

    return make


@pytest.mark.parametrize("name", REFUSED)
def test_tokenizer_that_would_end_the_process_is_refused(name, folder_with):
    model, sentence = REFUSED[name]
    folder = folder_with(model)
    with pytest.raises(TokenizerRefusedError, match=re.escape(sentence)):
        open_tokenizer(folder)
    with pytest.raises(ModelError, match="has no tokenizer that onnxruntime-genai reads"):
        open_chat(folder)


def test_tokenizer_in_a_folder_of_its_own_is_looked_at_there(folder_with):
    folder = folder_with(REFUSED["WordLevel"][0])
    (folder / "text").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(folder / "text" / name)
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    config["model"]["tokenizer_dir"] = "text"
    (folder / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(TokenizerRefusedError, match="has no merges"):
        open_tokenizer(folder)


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ({"type": "BPE", "vocab": {"a": 0, "aa": 1}, "merges": ["a a"]}, "TokenizersBackend"),
        ({"type": "BPE", "vocab": {"a": 0, "aa": 1}, "merges": [["a", "a"]]}, "TokenizersBackend"),
        ({"vocab": {"a": 0, "aa": 1}, "merges": ["a a"]}, "TokenizersBackend"),
        ({"type": "BPE", "vocab": {"#": 2, "##": 3, "a": 0, "aa": 1}, "merges": ["a a", "# #"]}, "TokenizersBackend"),
        ({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["aa", -1.0]]}, "T5Tokenizer"),
    ],
)
def test_kinds_that_the_runtime_reads_are_read(model, kind, folder_with):
    assert 1 in open_tokenizer(folder_with(model, tokenizer_class=kind)).encode("aa").tolist()

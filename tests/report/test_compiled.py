"""Templates are compiled once, and never from something else than their text."""

import marshal
import sys

import jinja2
import pytest

from olivine.report.compiled import Compiled

OPTIONS = {"autoescape": True, "trim_blocks": False}


def rendered(folder, text, options=OPTIONS):
    cache = Compiled(folder)
    environment = jinja2.Environment(loader=jinja2.DictLoader({"page": text}), bytecode_cache=cache, **options)
    return environment.get_template("page").render(name="<me>")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    return tmp_path / "__pycache__"


def test_code_that_lies_there_is_taken(folder):
    assert rendered(folder, "for {{ name }}") == "for &lt;me&gt;"
    (file,) = folder.iterdir()
    told, _, _ = file.read_bytes().partition(b"\n")
    other = jinja2.Environment().compile("from the file")
    file.write_bytes(told + b"\n" + marshal.dumps(other))
    assert rendered(folder, "for {{ name }}") == "from the file"


def test_changed_text_and_other_options_are_compiled_anew(folder):
    text = "{% if name %}\nfor {{ name }}{% endif %}"
    assert rendered(folder, text) == "\nfor &lt;me&gt;"
    assert rendered(folder, text, {"autoescape": False, "trim_blocks": True}) == "for <me>"
    assert rendered(folder, text + "!") == "\nfor &lt;me&gt;!"


@pytest.mark.parametrize("damage", [b"", b"nothing", b"\x00" * 50, marshal.dumps(7)])
def test_damaged_code_is_compiled_again(folder, damage):
    rendered(folder, "for {{ name }}")
    (file,) = folder.iterdir()
    told, _, _ = file.read_bytes().partition(b"\n")
    file.write_bytes(told + b"\n" + damage)
    assert rendered(folder, "for {{ name }}") == "for &lt;me&gt;"


def test_folder_that_cannot_be_written_is_gone_without(folder, monkeypatch):
    folder.write_text("a file in its place")
    assert rendered(folder, "for {{ name }}") == "for &lt;me&gt;"
    folder.unlink()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert rendered(folder, "for {{ name }}") == "for &lt;me&gt;"
    assert not folder.exists()

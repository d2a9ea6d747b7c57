"""Plugins by name: which of them are imported to find one."""

import py_compile
import sys

import pytest

from olivine.registry import Registry

PLUGIN = """
from plants import Plant
class One(Plant):
    "A plant."
    aliases = {aliases}
{more}
"""


@pytest.fixture
def garden(tmp_path, monkeypatch):
    """A package of plugins, and the registry of them; and names of the modules that were imported."""
    package = tmp_path / "garden"
    for folder in (package, package / "bed"):
        folder.mkdir()
        (folder / "__init__.py").write_text("")
    (tmp_path / "plants.py").write_text("class Plant:\n    aliases = ()\n")
    (package / "rose.py").write_text(PLUGIN.format(aliases='("Rosa", "Queen")', more="# beside Tulipa"))
    (package / "bed" / "tulip.py").write_text(PLUGIN.format(aliases="('Tulipa', 'Rose')", more=""))
    (package / "bed" / "oak.py").write_text(PLUGIN.format(aliases="()", more='taller_than = "Rosa"'))
    (package / "bed" / "_soil.py").write_text("")
    (package / "weed.py").write_text("raise RuntimeError('nobody asked for it')")
    monkeypatch.syspath_prepend(tmp_path)
    from plants import Plant

    yield package, Registry("garden", Plant, group="nobody")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("garden", "plants")]:
        del sys.modules[name]


def imported() -> set[str]:
    return {name for name in sys.modules if name.startswith("garden.") and name != "garden.bed"}


def test_names_are_those_of_files_and_none_is_imported_to_know_them(garden):
    _, plants = garden
    assert plants.names == ["oak", "rose", "tulip", "weed"]
    assert "tulip" in plants
    assert "Tulipa" not in plants
    assert imported() == set()


def test_name_imports_its_file_alone(garden):
    _, plants = garden
    assert plants.find("TULIP").name == "tulip"
    assert imported() == {"garden.bed.tulip"}


def test_alias_imports_the_files_that_say_it_in_quotes(garden):
    _, plants = garden
    assert plants.find("tulipa").name == "tulip"
    assert imported() == {"garden.bed.tulip"}
    assert plants.find("ROSA").name == "rose"
    assert imported() <= {"garden.bed.tulip", "garden.bed.oak", "garden.rose"}


def test_name_goes_before_an_alias(garden):
    _, plants = garden
    assert plants.find("Rose").name == "rose"


def test_alias_is_known_where_only_compiled_files_are(garden):
    package, plants = garden
    (package / "weed.py").unlink()
    for path in package.rglob("*.py"):
        py_compile.compile(str(path), cfile=str(path.with_suffix(".pyc")))
        path.unlink()
    assert plants.find("queen").name == "rose"
    assert plants.names == ["oak", "rose", "tulip"]


def test_what_nothing_is_called_is_not_there(garden):
    package, plants = garden
    (package / "weed.py").unlink()
    assert plants.find("fern") is None
    assert plants.nearest("tulippa") == "Tulipa"
    with pytest.raises(KeyError, match="fern"):
        plants["fern"]

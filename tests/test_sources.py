"""Each kind of forbidden import is seen in a small tree, wherever and however it is written, and nothing else is."""

import pytest

from sources import Sources

TREE = {
    "__init__.py": "",
    "errors.py": "",
    "config/__init__.py": "from house.config._read import read\n",
    "config/_read.py": "from house.errors import Wrong\n\ndef read():\n    from house.config.schema import Schema\n",
    "config/schema.py": "import house.errors\n",
    "data/__init__.py": "import house.config.schema as schema\n",
    "models/__init__.py": "from house.models import weights\n",
    "models/weights.py": "from house import errors\n",
    "cli/__init__.py": "from house.models.weights import read\nfrom house import data\n",
}
LAYERS = {"errors": 0, "__init__": 0, "config": 1, "data": 2, "models": 2, "cli": 3}


def tree(folder, **changed):
    """The sound tree with other text in some of its files; `models__weights` stands for models/weights.py."""
    root = folder / "house"
    for name, text in {**TREE, **{f"{key.replace('__', '/')}.py": text for key, text in changed.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Sources(root, LAYERS)


def faults(sources):
    return sources.layer_faults(), sources.private_faults(), sources.circles()


def test_sound_tree_has_no_faults(tmp_path):
    assert faults(tree(tmp_path)) == ([], [], [])


UPWARDS = [
    "from house.cli import run",
    "from house import cli",
    "import house.cli",
    "import os, house.cli as program",
    "def late():\n    from house.cli import run",
    "if TYPE_CHECKING:\n    import house.cli",
    "from ..cli import run",
    "from .. import cli",
    "cli = lazy.module('house.cli')",
    "importlib.import_module('house.cli').run()",
]


@pytest.mark.parametrize("line", UPWARDS)
def test_import_from_a_layer_above_is_seen(line, tmp_path):
    (fault,) = tree(tmp_path, models__weights=line).layer_faults()
    assert fault == "house.models.weights imports house.cli"


@pytest.mark.parametrize("line", ["from house.data import rows", "def late():\n    import house.data"])
def test_import_between_packages_of_one_layer_is_seen(line, tmp_path):
    assert tree(tmp_path, models__weights=line).layer_faults() == ["house.models.weights imports house.data"]


def test_files_of_one_layer_are_apart_as_packages_are(tmp_path):
    assert tree(tmp_path, errors="import house").layer_faults() == ["house.errors imports house"]


PRIVATE = [
    "from house.config._read import read",
    "from house.config import _read",
    "import house.config._read",
    "def late():\n    from ..config import _read",
]


@pytest.mark.parametrize("line", PRIVATE)
def test_import_of_another_packages_private_module_is_seen(line, tmp_path):
    sources = tree(tmp_path, models__weights=line)
    assert faults(sources) == ([], ["house.models.weights imports house.config._read"], [])


def test_private_module_is_open_to_its_package_and_to_what_lies_in_that(tmp_path):
    below = {"config__dialects__old": "from house.config._read import read"}
    assert tree(tmp_path, **below).private_faults() == []


def test_private_module_of_a_package_inside_is_closed_to_the_package_around_it(tmp_path):
    inner = {"config__dialects___words": "", "config__schema": "from house.config.dialects import _words"}
    sources = tree(tmp_path, **inner)
    assert sources.private_faults() == ["house.config.schema imports house.config.dialects._words"]


def test_module_inside_of_a_private_package_is_closed_as_well(tmp_path):
    sources = tree(tmp_path, config___inner__words="", models__weights="from house.config._inner.words import first")
    assert sources.private_faults() == ["house.models.weights imports house.config._inner.words"]


def test_circle_is_seen_through_functions(tmp_path):
    back = {"config__schema": "def late():\n    from house.config import _read"}
    assert tree(tmp_path, **back).circles() == [["house.config._read", "house.config.schema"]]


def test_circle_over_the_name_of_the_package_is_seen(tmp_path):
    sources = tree(tmp_path, config__schema="from house.config import read")
    assert sources.circles() == [["house.config", "house.config._read", "house.config.schema"]]


def test_every_circle_is_told_by_itself(tmp_path):
    two = {"config__schema": "from house.config import _read", "models__weights": "from house.models import Model"}
    found = tree(tmp_path, **two).circles()
    assert found == [["house.config._read", "house.config.schema"], ["house.models", "house.models.weights"]]

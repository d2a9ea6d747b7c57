"""Graphs of tiny checkpoints, exported once; read only."""

import pytest

from encoders import tiny_encoder
from graph_tools import changed
from olivine.models import Model
from olivine.models.inspect import read_facts


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The file of the graph of a tiny model of that name."""
    known = {}

    def export(name, **params):
        key = (name, *sorted(params.items()))
        if key not in known:
            folder = tmp_path_factory.mktemp(name)
            path = tiny_encoder(folder / "model", name)
            model = Model("hf", path, task=read_facts(path).task)
            known[key], _ = changed("OnnxConversion", model, folder, **{"target_opset": 17, **params})
        return known[key]

    return export

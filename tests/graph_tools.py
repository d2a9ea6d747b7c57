"""Passes on graphs, run and looked at: what they say, and what the graph gives before and after."""

import numpy as np
import onnx
import onnxruntime

from olivine.models import Model
from olivine.models.onnx_files import graph_of, onnx_model
from olivine.models.onnx_header import OnnxHeader
from olivine.models.sample_inputs import made_up
from olivine.passes import passes
from olivine.testing.passes import MACHINE
from olivine.work import Context, Silent


class Heard(Silent):
    """A reporter that remembers."""

    def __init__(self):
        self.facts, self.notes, self.warnings = {}, [], []

    def record(self, **facts):
        self.facts |= facts

    def note(self, message):
        self.notes.append(message)

    def warn(self, message):
        self.warnings.append(message)


def result_of(name, model, folder, data=None, **params):
    """Run a pass on a model, with what the run checks before and after; gives its result, and what was said."""
    plugin = passes.find(name)
    step = plugin(plugin.Params.model_validate(params))
    (folder / "out").mkdir(parents=True)
    (folder / "scratch").mkdir()
    heard = Heard()
    step.requires(model)
    result = step.run(model, Context(folder / "out", folder / "scratch", MACHINE, heard, data or {}))
    step.ensures(result)
    assert result.form == plugin.gives(model.form)
    return result, heard


def changed(name, model, folder, data=None, **params):
    """As `result_of`, on the file of a graph as well; gives the file of the result, and what was said."""
    model = model if isinstance(model, Model) else onnx_model(model)
    result, heard = result_of(name, model, folder, data, **params)
    return graph_of(result), heard


def rows_for(path, n_rows=3, sizes=None):
    """Made-up inputs of a graph."""
    return made_up(OnnxHeader.read(path).signature, n_rows, 0, sizes or {"batch": 2, "sequence": 6})


def outputs(path, rows):
    """What onnxruntime gives for each row, by the names of outputs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    taken = {one.name for one in session.get_inputs()}
    return [
        dict(zip(names, session.run(None, {k: v for k, v in row.items() if k in taken}), strict=True)) for row in rows
    ]


def largest_difference(one, other, rows=None):
    """Of the outputs of two graphs that have the same names."""
    rows = rows or rows_for(one)
    pairs = zip(outputs(one, rows), outputs(other, rows), strict=True)
    return max(
        float(np.abs(a[name].astype(np.float64) - b[name].astype(np.float64)).max()) for a, b in pairs for name in a
    )


def operators(path):
    """How many nodes of each type a graph has, those of inner graphs left out."""
    counts = {}
    for node in onnx.load(path, load_external_data=False).graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts

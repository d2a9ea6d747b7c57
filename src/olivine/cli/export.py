"""`olivine export`."""

from typing import TYPE_CHECKING

import click

from olivine.cli._one_step import ROWS, SETTINGS, Request, one_step_options
from olivine.cli._pass_options import Said, pass_options
from olivine.cli._rows import Rows, rows_options
from olivine.errors import RequestError
from olivine.passes import Pass, passes

if TYPE_CHECKING:
    from collections.abc import Mapping

_STEP = "export"
_CALIBRATION = "calibration_data_config"


def _exporters() -> dict[str, type[Pass]]:
    """The passes from a checkpoint to an ONNX model, the usual ones first."""
    plugins = {
        name: plugin for name, plugin in passes.classes.items() if "hf" in plugin.accepts and plugin.produces == "onnx"
    }
    return dict(sorted(plugins.items(), key=lambda pair: not pair[1].is_usual_way))


@click.command("export", context_settings=SETTINGS)
@one_step_options
@rows_options
@pass_options(_exporters(), without=frozenset({_CALIBRATION, "device"}))  # --device is every command's own
def command(request: Request, rows: Rows, params: "Mapping[str, Said]") -> int:
    """Export a model to ONNX, quantized on the way where the precision says so, and measure what it costs.

    A decoder becomes a folder for onnxruntime-genai, any other model a graph for onnxruntime. The rows of --data
    calibrate, and every model is scored on them; without rows, models are compared on text, or on made-up inputs. The
    config of this one step is printed, and then run as olivine run does.
    """
    plan = request.plan()
    facts = plan.facts
    if plan.input_model is not None and plan.input_model.format == "onnx":
        raise RequestError(
            f"the model '{plan.input_model.path}' is an ONNX graph already; 'olivine quantize' rounds it, 'olivine "
            "optimize' looks for what serves it best"
        )
    kind = facts.kind if facts is not None else "decoder"
    fitting = [plugin for plugin in _exporters().values() if kind in plugin.kinds] or list(_exporters().values())
    plugin = fitting[0]
    request.merge_adapter()
    request.flags.put(("passes", _STEP, "type"), plugin.name)
    for key, said in params.items():
        request.flags.put(("passes", _STEP, key), said.value, said.flag)
    if rows.is_given:
        rows.put(request.flags, ROWS)
        request.flags.put(("quality", "data_config"), ROWS)
        if _CALIBRATION in plugin.Params.model_fields:
            request.flags.put(("passes", _STEP, _CALIBRATION), ROWS)
    return request.carry_out()

"""`olivine quantize`."""

from typing import TYPE_CHECKING

import click

from olivine.cli._one_step import ROWS, SETTINGS, Request, one_step_options
from olivine.cli._pass_options import Said, pass_options
from olivine.cli._rows import Rows, rows_options
from olivine.models.onnx_files import is_onnx
from olivine.passes import Pass, passes
from olivine.paths import of_user

if TYPE_CHECKING:
    from collections.abc import Mapping

_STEP, _EXPORT = "quantize", "export"
_BITS = {"int4": 4, "uint4": 4, "int8": 8, "uint8": 8}
# what a pass on graphs calls the params and algorithms that passes on checkpoints have, too
_OF_GRAPHS = {"group_size": "block_size", "sym": "is_symmetric"}
_ALGORITHMS_OF_GRAPHS = {"rtn": "RTN", "kquant": "k_quant", "k_quant": "k_quant", "search": "search", "default": "RTN"}


def _quantizers() -> "dict[str, type[Pass]]":
    """The passes from a checkpoint to one with quantized weights."""
    return {
        name: plugin
        for name, plugin in passes.classes.items()
        if "hf" in plugin.accepts and plugin.produces == "hf" and "bits" in plugin.Params.model_fields
    }


@click.command("quantize", context_settings=SETTINGS)
@one_step_options
@click.option(
    "--algorithm",
    default="rtn",
    show_default=True,
    help="Of a decoder's checkpoint: rtn, kquant, awq, gptq or another quantizing pass; of an ONNX model, or what is "
    "exported to one on the way: rtn or search.",
)
@click.option("--precision", metavar="int4|int8", help="What a weight is stored in; int4 where nothing is said.")
@rows_options
@click.option("--max-drop", help="Fail when label accuracy on the rows falls by more: 0.03, 3pp or 3%.")
@pass_options(_quantizers(), without=frozenset({"data_config"}))
def command(
    request: Request,
    algorithm: str,
    precision: str | None,
    rows: Rows,
    max_drop: str | None,
    params: "Mapping[str, Said]",
) -> int:
    """Quantize a checkpoint or an ONNX model, and measure what it costs.

    The rows of --data calibrate where the algorithm calibrates, and every model is scored on them; without rows, models
    are compared on passages of text. A checkpoint that is no decoder is exported to ONNX first. The config is printed,
    and then run as olivine run does.
    """
    request.merge_adapter()
    is_graph = is_onnx(of_user(request.model)) or _is_exported(request)
    if is_graph and algorithm.lower() in _ALGORITHMS_OF_GRAPHS:
        kind, params = "quantize_onnx", {_OF_GRAPHS.get(key, key): said for key, said in params.items()}
        _put(request, "algorithm", Said(_ALGORITHMS_OF_GRAPHS[algorithm.lower()], "--algorithm"))
    else:
        kind = algorithm
    request.flags.put(("passes", _STEP, "type"), kind, "--algorithm")
    if precision is not None:
        if precision.lower() not in _BITS:
            raise click.UsageError(f"--precision '{precision}' is not served; weights are stored in int4 or int8")
        _put(request, "bits", Said(_BITS[precision.lower()], "--precision"))
    for key, said in params.items():
        _put(request, key, said)
    if rows.is_given:
        rows.put(request.flags, ROWS)
        request.flags.put(("quality", "data_config"), ROWS)
        plugin = passes.find(kind)
        if plugin is not None and "data_config" in plugin.Params.model_fields:
            request.flags.put(("passes", _STEP, "data_config"), ROWS)
    if max_drop is not None:
        request.flags.put(("quality", "max_drop"), max_drop, "--max-drop")
    return request.carry_out()


def _is_exported(request: Request) -> bool:
    """Whether the model is a checkpoint that a graph is made of; the pass that makes it is put before."""
    from olivine.workflow.climb import exporter_of

    exporter = exporter_of(request.plan().facts)
    if exporter is not None:
        request.flags.put(("passes", _EXPORT, "type"), exporter.name)
    return exporter is not None


def _put(request: Request, key: str, said: Said) -> None:
    request.flags.put(("passes", _STEP, key), said.value, said.flag)

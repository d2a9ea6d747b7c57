"""`olivine finetune`."""

import difflib
from typing import TYPE_CHECKING

import click

from olivine.cli._one_step import ROWS, SETTINGS, Request, one_step_options
from olivine.cli._pass_options import Said, others, pass_options
from olivine.cli._rows import Rows, rows_options
from olivine.passes import Pass, passes

if TYPE_CHECKING:
    from collections.abc import Mapping

_STEP, _EVAL_ROWS = "finetune", "eval_rows"
_HELD_OUT = 0.1  # of the rows, where no others are named to evaluate on
_FULL = {"full": "full_finetune"}
# flags of the command that are arguments of transformers by another name
_SHORT = {"epochs": "num_train_epochs", "batch_size": "per_device_train_batch_size"}
_SPELLINGS = {"lora_r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout"}


def _trainers() -> dict[str, type[Pass]]:
    """The passes that train."""
    return {
        name: plugin for name, plugin in passes.classes.items() if "train_data_config" in plugin.Params.model_fields
    }


@click.command("finetune", context_settings={**SETTINGS, "ignore_unknown_options": True, "allow_extra_args": True})
@one_step_options
@click.option(
    "--method", default="lora", show_default=True, help="lora, qlora, dora, full or another pass that trains."
)
@rows_options
@click.option("--eval-data", help="Rows to evaluate on, of the same form; else a tenth of --data is held out.")
@click.option("--merge", is_flag=True, help="Merge the adapter into the model; else the adapter is the result.")
@click.option("--max-drop", help="Fail when label accuracy on the rows falls by more: 0.03, 3pp or 3%.")
@pass_options(_trainers(), without=frozenset({"train_data_config", "eval_data_config"}))
@click.pass_context
def command(
    context: click.Context,
    request: Request,
    method: str,
    rows: Rows,
    eval_data: str | None,
    merge: bool,
    max_drop: str | None,
    params: "Mapping[str, Said]",
) -> int:
    """Fine-tune a model on your rows, and measure what it gained on rows that were held out.

    Any argument of transformers' training is a flag as well: --learning-rate 1e-4, --num-train-epochs 3 (or --epochs),
    --per-device-train-batch-size 8 (or --batch-size). The config of this workflow is printed, and then run as olivine
    run does.
    """
    if not rows.is_given:
        raise click.UsageError("no rows are named to train on: give --data rows.jsonl")
    kind = _FULL.get(method, method)
    if request.has_adapter and not merge and getattr(passes.find(kind), "produces", "") == "adapter":
        raise click.UsageError("a new adapter on a merged one fits that model alone: add --merge to get it whole")
    request.merge_adapter()
    flags, place = request.flags, ("passes", _STEP)
    flags.put((*place, "type"), kind, "--method")
    rows.put(flags, ROWS)
    flags.put((*place, "train_data_config"), ROWS)
    if eval_data is not None:
        rows.put(flags, _EVAL_ROWS, eval_data, "--eval-data")
        flags.put((*place, "eval_data_config"), _EVAL_ROWS)
    elif "eval_dataset_size" not in params:
        flags.put((*place, "eval_dataset_size"), _HELD_OUT)
    for key, said in params.items():
        flags.put((*place, key), said.value, said.flag)
    for key, said in _more(passes.find(kind), list(context.args), context):
        flags.put((*place, *key.split(".")), said.value, said.flag)
    if merge:
        flags.put(("passes", "merge", "type"), "merge", "--merge")
    if max_drop is not None:
        flags.put(("quality", "max_drop"), max_drop, "--max-drop")
    return request.carry_out()


def _more(plugin: type[Pass] | None, arguments: list[str], context: click.Context) -> "list[tuple[str, Said]]":
    """Flags that are arguments of transformers, each with its place in the params; UsageError for any other."""
    told = []
    for flag, said in others(arguments):
        name = _SHORT.get(flag, flag)
        key = _SPELLINGS.get(name) or (plugin.Params.belongs_in(name) if plugin is not None else name)
        if key is None:
            raise click.UsageError(_no_such_flag(flag.replace("_", "-"), context))
        told.append((key, said or Said(value=True, flag=f"--{flag.replace('_', '-')}")))
    return told


def _no_such_flag(name: str, context: click.Context) -> str:
    known = [option.lstrip("-") for one in context.command.params for option in one.opts]
    known += ["learning-rate", "num-train-epochs", "per-device-train-batch-size", "epochs", "batch-size", "max-steps"]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '--{near[0]}'?" if near else "it is no argument of transformers' training either."
    return f"no such flag '--{name}'; {hint}"

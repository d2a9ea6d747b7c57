"""`olivine optimize`."""

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from olivine.cli import _amounts
from olivine.cli._common import say
from olivine.cli._one_step import ROWS, SETTINGS, Request, one_step_options, put_machine
from olivine.cli._rows import Rows, rows_options

if TYPE_CHECKING:
    from olivine.workflow.steps import Plan

_BEST_FIRST = (
    "CUDAExecutionProvider",
    "DmlExecutionProvider",
)  # before the CPU, where neither device nor provider is named


@click.command("optimize", context_settings=SETTINGS)
@one_step_options
@click.option("--precision", metavar="int4|int8|fp16", help="What weights are stored in; else as few bits as do.")
@click.option("--max-drop", default="1%", show_default=True, help="How much worse it may be: 0.01, 1% or 1pp.")
@click.option("--min-tokens-per-second", metavar="NUMBER", help="That a decoder writes; of other models, rows.")
@click.option("--min-speedup", metavar="2x", help="As often as fast as the input model, at least.")
@click.option("--max-latency", metavar="MS", help="Milliseconds of a token of a decoder, of a batch of other models.")
@click.option("--max-size", metavar="90MB", help="Of the model's files.")
@click.option("--max-memory", metavar="2GB", help="Of a process that loads the model and answers.")
@click.option("--budget", metavar="20m", help="The time that all of it may take; else until nothing is left to try.")
@click.option("--label", metavar="COLUMN", help="Column of the rows that holds the expected answer or class.")
@rows_options
def command(
    *,
    request: Request,
    precision: str | None,
    max_drop: str,
    min_tokens_per_second: str | None,
    min_speedup: str | None,
    max_latency: str | None,
    max_size: str | None,
    max_memory: str | None,
    budget: str | None,
    label: str | None,
    rows: Rows,
) -> int:
    """Find the cheapest way to a model that meets your goals on this machine, measured on what ships.

    What fits the model and the machine is tried from the cheapest on, until one meets every goal or the budget ends;
    each rung is told with its price and what it bought. The result lies in the output folder; its workflow.json is the
    config that was arrived at, which olivine run repeats without a search. Exit code 1 when no rung meets the goals:
    the nearest lies in the output folder then, and by how much each missed is told.
    """
    from olivine.cli._rungs import Rungs
    from olivine.workflow.climb import PRECISIONS, Aim, ladder

    if precision is not None and precision.lower() not in PRECISIONS:
        raise click.UsageError(f"--precision '{precision}' is not served; there is {', '.join(PRECISIONS)}")
    aim = Aim(
        max_drop=_amounts.share(max_drop, "--max-drop"),
        min_tokens_per_second=_number(min_tokens_per_second, "--min-tokens-per-second"),
        min_speedup=_amounts.number(min_speedup, "--min-speedup", "x") if min_speedup is not None else None,
        max_latency_ms=_number(max_latency, "--max-latency"),
        max_size_bytes=_amounts.n_bytes(max_size, "--max-size") if max_size is not None else None,
        max_memory_bytes=_amounts.n_bytes(max_memory, "--max-memory") if max_memory is not None else None,
        precision=precision.lower() if precision is not None else None,
        budget_seconds=_amounts.seconds(budget, "--budget") if budget is not None else None,
    )
    if aim.min_speedup is not None and aim.min_speedup < 1:
        raise click.UsageError("--min-speedup is below 1x, which would be slower; write 2x, say")
    if rows.is_given:
        rows.put(request.flags, ROWS)
        request.flags.put(("quality", "data_config"), ROWS)
    if label is not None:
        request.flags.put(("quality", "target"), label, "--label")
    plan = request.plan()
    if not request.names_machine and (provider := _provider(plan)) is not None:
        put_machine(request.flags, None, provider)
        plan = replace(plan, machine=replace(plan.machine, execution_provider=provider))
    built = ladder(plan, aim)
    for key, section in built.sections.items():
        request.flags.put((key,), section)
    climbs = request.plan()
    if not climbs.problems and not request.as_json:
        for note in built.notes:
            say(f"note: {note}", err=True, dim=True)
    code = request.carry_out(Rungs(climbs.asked), tells_config=False)
    if not code and not request.dry_run and not request.as_json:
        click.echo(f"config: {plan.output_dir / 'workflow.json'} (olivine run repeats it without a search)")
    return code


def _number(text: str | None, flag: str) -> float | None:
    return _amounts.number(text, flag) if text is not None else None


def _provider(plan: "Plan") -> str | None:
    """The execution provider that is faster than the CPU and here, with its device; None: the CPU it is."""
    host = plan.hosts.get(None)
    if host is None:
        return None
    there = set(host.probe.execution_providers)
    if not host.probe.has_nvidia:
        there.discard("CUDAExecutionProvider")
    return next((name for name in _BEST_FIRST if name in there), None)

"""`olivine data`."""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from olivine.cli._common import columns, config_options, json_option, print_json, read_plan, say

if TYPE_CHECKING:
    from olivine.config.schema import DataConfig
    from olivine.data import Prepared
    from olivine.workflow.steps import Plan, Step

_WRONG = ("missing-data", "missing-file", "missing-model", "invalid-value", "unknown-key", "network")
_NOT_WRITTEN = ("output_dir",)  # what is wrong with it keeps a run from its result, and rows from nothing
_BAR = 40  # characters of the longest bar of the histogram
_SHOWN = 1200  # characters of a sample


@click.command("data")
@config_options
@click.option("--samples", "n_samples", default=3, type=click.IntRange(0), help="How many samples to show of each.")
@json_option
def command(config: Path, overrides: tuple[str, ...], offline: bool, n_samples: int, as_json: bool) -> int:
    """Look at what training would see: samples, lengths, what is cut, doubled or shared.

    CONFIG is the workflow config, which names the rows. Exit code 2 when training would refuse the data. The tokens are
    kept in cache_dir, and the run takes them from there.
    """
    from olivine.errors import ConfigError

    plan = read_plan(config, overrides, offline=offline)
    if wrong := [one for one in plan.problems if one.kind in _WRONG and one.key != _NOT_WRITTEN]:
        raise ConfigError(wrong)
    found = list(_examined(plan, n_samples))
    if as_json:
        print_json(found)
    else:
        for each in found:
            _show(each)
    problems = {each["data"]: each["problem"] for each in reversed(found) if each["problem"]}  # of train before eval
    for name, problem in reversed(problems.items()):
        say(f"olivine: data config '{name}' {problem}", err=True, fg="red")
    return 2 if problems else 0


class _Part(NamedTuple):
    """Rows that are looked at together. kept_apart_from: the training rows that none of these should be among."""

    name: str
    config: "DataConfig"
    prepared: "Prepared"
    rows: Sequence[int] | None
    kept_apart_from: "_Part | None" = None


def _examined(plan: "Plan", n_samples: int) -> Iterator[dict[str, Any]]:
    from olivine.config.schema import DataConfig
    from olivine.data import describe, doubts, examine, seen_sentence, shared_rows, template_of

    written = {given["name"]: DataConfig.model_validate(given) for given in plan.workflow.get("data_configs", ())}
    for part in _parts(plan):
        settings = part.prepared.config.pre_process_data_config
        template = template_of(part.prepared.tokenizer)
        config = written.get(part.config.name, part.config)
        form = describe(config, template)
        found = examine(part.prepared, part.rows, n_samples)
        found["warnings"] += doubts(config, template)
        if part.prepared.form.otherwise_asked:
            found["warnings"].append(part.prepared.form.otherwise_asked)
        if (unanswered := part.prepared.unanswered) is not None:
            found["warnings"].append(unanswered.sentence(part.prepared.config, part.prepared.form))
        shared = None
        if (train := part.kept_apart_from) is not None:
            shared = shared_rows(train.prepared, train.rows, part.prepared, part.rows)
            if (sentence := seen_sentence(shared["n"], found["n_rows"], part.config.name)) is not None:
                found["warnings"].append(sentence)
        yield {
            "data": part.prepared.config.name,
            "part": part.name,
            "form": form.partition(";")[0] if part.name == "score" else form,
            "strategy": settings.strategy,
            "train_on": settings.train_on,
            "max_seq_len": settings.max_seq_len,
            "n_unanswered_rows": unanswered.n if unanswered is not None else 0,
            **found,
            "shared_with_train": shared,
        }


def _parts(plan: "Plan") -> Iterator[_Part]:
    """What the training steps train and evaluate on, and what models are scored on; without such a step, all data."""
    from olivine.config.schema import DataConfig
    from olivine.data import prepare
    from olivine.models.context import context_of
    from olivine.workflow.events import Progress, StepStarted

    tokenizer = _tokenizer(plan)
    context = context_of(plan.input_model) if plan.input_model is not None else None
    screen = _screen()

    def prepared(config: "DataConfig") -> "Prepared":
        screen(StepStarted(step=config.name, description="rows to tokens"))

        def progress(done: float, total: float, **metrics: Any) -> None:
            screen(Progress(step=config.name, done=done, total=total, metrics=metrics))

        try:
            return prepare(config, tokenizer, plan.cache_dir / "scratch", progress, context)
        finally:
            screen.close()

    steps = [step for step in plan.steps if step.trains]
    if not steps:
        for given in plan.workflow.get("data_configs", ()):
            config = DataConfig.model_validate(given)
            yield _Part("all", config, prepared(config), None)
    for step in steps:
        yield from _parts_of(step, plan, prepared)


def _parts_of(step: "Step", plan: "Plan", prepared: Any) -> Iterator[_Part]:
    from olivine.data import split

    used = step.trains_on
    if used is None:
        return
    config = step.data[used.data]
    every = prepared(config)
    train, held_out = _Part("train", config, every, None), None
    if used.eval_data is not None:
        other = step.data[used.eval_data]
        held_out = _Part("eval", other, prepared(other), None, train)
    elif used.eval_size is not None:
        rows = split(len(every), used.eval_size, used.seed)
        train = _Part("train", config, every, rows[0])
        held_out = _Part("eval", config, every, rows[1], train)
    yield train
    if held_out is not None:
        yield held_out
    if (
        plan.score is not None
        and plan.score.data is not None
        and not plan.score.on_text
        and plan.score.part == "all"
        and plan.score.data.name not in step.data
    ):
        yield _Part("score", plan.score.data, prepared(plan.score.data), None, train)


def _tokenizer(plan: "Plan") -> Any:
    """The tokenizer of the input model, read in this process."""
    from olivine.errors import RequestError
    from olivine.models.gguf import readable
    from olivine.models.loading import load_tokenizer
    from olivine.systems import ENVIRONMENT

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    model = plan.input_model
    if model is None and plan.hub_name is None:
        raise RequestError(f"the model '{plan.model_address}' is not here yet; 'olivine run' brings it")
    if model is None:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(plan.hub_name, revision=plan.hub_revision)
    with tempfile.TemporaryDirectory() as folder:
        return load_tokenizer(readable(model, Path(folder)))


def _screen() -> Any:
    from olivine.cli._screen import Screen

    return Screen()


def _show(found: Mapping[str, Any]) -> None:
    """All that is told of a part; what a sentence is about stands below it."""
    say(f"{found['data']} ({found['part']})", bold=True)
    for line in _numbers(found):
        say(f"  {line}")
    for line in _histogram(found["row_lengths"], found["max_seq_len"]):
        click.echo(line)
    for sample in found["samples"]:
        say(f"  sample{' of ' + sample['where'] if sample['where'] else ''}, {sample['n_tokens']} tokens:")
        click.echo(_coloured(sample["pieces"]))
    places = _places(found)
    for warning in found["warnings"]:
        say(f"  ! {warning}", fg="yellow")
        for first, again in places.get(warning, ()):
            say(f"    {again} is {first}", indent=6)


def _numbers(found: Mapping[str, Any]) -> Iterator[str]:
    yield found["form"]
    yield (
        f"{found['n_rows']:,} rows, {found['n_samples']:,} samples of at most {found['max_seq_len']:,} tokens "
        f"({found['strategy']}), {found['n_tokens']:,} tokens"
    )
    yield f"trained: {found['share_trained']:.1%} of the tokens; cut: {found['share_truncated']:.1%} of the samples"
    begin, end = found["begin"], found["end"]
    once = f"{begin['token']}, exactly once in {begin['share_once']:.1%} of the rows" if begin["token"] else "none"
    yield f"begin token: {once}"
    yield f"end token: {end['token'] or 'none'}, an end is trained in {end['share_trained']:.1%} of the rows"
    lengths = found["row_lengths"]
    yield (
        f"tokens of a row: {lengths['shortest']:,} to {lengths['longest']:,}, half up to {lengths['median']:,}, "
        f"95 % up to {lengths['p95']:,}"
    )


def _places(found: Mapping[str, Any]) -> dict[str | None, Sequence[tuple[str, str]]]:
    """Where rows stand that are there before, or are also trained on, by the sentence that warns of them."""
    from olivine.data import doubled_sentence, seen_sentence

    n_rows, doubled, shared = found["n_rows"], found["duplicates"], found["shared_with_train"] or {"n": 0, "places": ()}
    return {
        doubled_sentence(doubled["n"], n_rows): doubled["places"],
        seen_sentence(shared["n"], n_rows, found["data"]): shared["places"],
    }


def _histogram(lengths: Mapping[str, Any], limit: int) -> Iterator[str]:
    bars = list(dropwhile(lambda bar: not bar["n"], lengths["histogram"]))
    most = max(bar["n"] for bar in bars)
    width = len(f"{bars[-1]['to']:,}")
    room = max(5, min(_BAR, (columns() or 2 * _BAR) - width - len("    up to   1,000,000 < max_seq_len")))
    for bar in bars:
        mark = " < max_seq_len" if bar["from"] <= limit <= bar["to"] else ""
        yield f"    up to {bar['to']:>{width},} {'#' * round(room * bar['n'] / most)} {bar['n']:,}{mark}"


def _coloured(pieces: Sequence[Mapping[str, Any]]) -> str:
    """The text with what is trained on in green; between angle quotes where there are no colours."""
    has_colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    text, room = "", _SHOWN
    for piece in pieces:
        shown = piece["text"] if len(piece["text"]) <= room else f"{piece['text'][:room]} ..."
        room = max(0, room - len(shown))
        if piece["trained"]:
            text += click.style(shown, fg="green") if has_colours else f"«{shown}»"
        else:
            text += click.style(shown, dim=True) if has_colours else shown
        if not room:
            break
    return "\n".join(f"    {line}" for line in text.splitlines())

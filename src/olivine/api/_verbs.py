"""The commands as functions: what `olivine run`, `plan`, `evaluate` and `parity` do, with values in place of files."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from olivine.api._lines import Lines
from olivine.api._results import Comparison, Evaluation, Plan, Result
from olivine.api._workflow import Workflow, overridden, settings
from olivine.config import Loaded, document_of, load_document, read
from olivine.errors import GoalMissed, RequestError
from olivine.evaluate.parity import TextFile
from olivine.passes import passes
from olivine.report.handover import handing_over
from olivine.systems import OFFLINE
from olivine.workflow import engine
from olivine.workflow.compare import compare_models
from olivine.workflow.events import Listener, Warned
from olivine.workflow.measure import score_model
from olivine.workflow.plan import make_plan

Config = str | Path | Mapping[str, Any] | Workflow
"""A config: its file, a mapping, or one that was loaded."""


def plan(
    config: Config, overrides: Mapping[str, Any] | None = None, *, on: str | None = None, offline: bool = False
) -> Plan:
    """What the config would do, and in `problems` everything that keeps it from being done; touches nothing.

    overrides: other values, as {"passes.lora.r": 8}. on: the system of the config where passes run. offline: use no
    network. Raises ConfigError only where so much is wrong that there is nothing to plan.
    """
    chosen = {**(overrides or {}), **({"host": on} if on is not None else {})}
    with _network(offline=offline):
        return Plan.of(make_plan(_loaded(config, chosen), offline=offline))


def run(
    config: Config | Plan,
    overrides: Mapping[str, Any] | None = None,
    *,
    on: str | None = None,
    offline: bool = False,
    listen: Listener | None = None,
) -> Result:
    """Do what a config or a plan says, and give what came of it; the result lies in its output_dir.

    listen: hears every event (docs/events.md) in place of `Lines`, which writes some to standard error. The others are
    those of `plan`. Raises ConfigError with every problem, before anything is done; StepFailed with step, cause and
    log; GoalMissed, whose `result` is what was made all the same; Interrupted. Finished steps stay cached.
    """
    if isinstance(config, Plan) and (overrides or on is not None):
        raise RequestError("a plan is what it is: give overrides and 'on' to olivine.plan")
    made = config if isinstance(config, Plan) else plan(config, overrides, on=on, offline=offline)
    with _network(offline=offline):
        tell = listen or Lines()
        try:
            with handing_over(made.output_dir, tell, lambda why: tell(Warned(step="report", message=why))) as listener:
                return Result.of(engine.run(made, listener))
        except GoalMissed as missed:
            if isinstance(missed.result, engine.Result):
                missed.result = Result.of(missed.result)
            raise


def evaluate(
    model: str | Path,
    config: Config,
    overrides: Mapping[str, Any] | None = None,
    *,
    offline: bool = False,
    listen: Listener | None = None,
) -> Evaluation:
    """The scores of a model on the rows on which `run` would score every seam of the config.

    model: a Hugging Face folder, an adapter folder of the config's input model, an ONNX folder or file, or a GGUF file.
    Raises RequestError where there are no rows, or the model cannot be scored.
    """
    folder = Path(model)
    made = plan(config, overrides, offline=offline)
    with _network(offline=offline):
        record = score_model(made, folder, listen or Lines())
    return Evaluation(folder, record["scores"], record.get("samples", ()), record.get("measured", ()))


def parity(
    reference: str | Path,
    candidate: str | Path,
    *,
    base: str | Path | None = None,
    data: str | Path | None = None,
    text_template: str | None = None,
    encoding: str | None = None,
    sep: str | None = None,
    max_kld: float | None = None,
    min_top1: float | None = None,
    n_tokens: int = 4096,
    length: int = 256,
    seed: int = 0,
    device: Literal["cpu", "cuda"] | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    speed: bool = True,
    split: bool = True,
    listen: Listener | None = None,
) -> Comparison:
    """How far the candidate is from the model that it was made from, token by token.

    Both are Hugging Face folders, adapter folders, ONNX folders or GGUF files that share a tokenizer. base: what an
    adapter adapts, where its record is wrong. data: a file that both read (text_template, encoding and sep say how);
    else the reference writes the text. max_kld, min_top1: limits, whose misses are in `missed`. speed: measure load
    time, memory and speed too. split: tell the error of the weights from that of computing in int8. Raises RequestError
    where the two cannot be compared.
    """
    params = {
        "text_template": text_template,
        "encoding": encoding,
        "sep": sep,
        "max_kld": max_kld,
        "min_top1": min_top1,
        "n_tokens": n_tokens,
        "length": length,
        "seed": seed,
        "dtype": dtype,
        "speed": speed,
        "split": split,
    }
    _check_parity(params, Path(data) if data is not None else None)
    record = compare_models(
        Path(reference),
        Path(candidate),
        listen or Lines(),
        base=Path(base) if base is not None else None,
        data=Path(data) if data is not None else None,
        device=device,
        **params,
    )
    return Comparison.of(record)


def _check_parity(params: Mapping[str, Any], data: Path | None) -> None:
    """RequestError for what no comparison takes, before anything starts."""
    try:
        passes["parity_check"].Params.model_validate({**params, "text": str(data) if data is not None else None})
    except ValidationError as error:
        told = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}".removeprefix(": ") for fault in error.errors())
        raise RequestError("; ".join(told)) from None
    if data is not None:
        TextFile(data, params["text_template"], params["encoding"], params["sep"]).check()


def _loaded(config: Config, overrides: Mapping[str, Any]) -> Loaded:
    if isinstance(config, Workflow):
        return overridden(config.loaded, overrides)
    document = document_of(config) if isinstance(config, Mapping) else read(Path(config))
    return load_document(document, settings(overrides))


@contextmanager
def _network(*, offline: bool) -> Iterator[None]:
    """Say to every library meanwhile that there is no network, where that is wished."""
    before = {name: os.environ.get(name) for name in OFFLINE} if offline else {}
    os.environ.update(OFFLINE if offline else {})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

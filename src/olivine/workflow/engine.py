"""Run a plan: each step from the cache or in the worker, each seam scored, the result delivered."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from olivine import __version__
from olivine.config.schema import DataConfig
from olivine.data import doubts
from olivine.errors import ConfigError, GoalMissed, Interrupted, ModelError, OlivineError, RequestError, StepFailed
from olivine.models import Model
from olivine.models.adapter import name_base
from olivine.models.chat_template import read_chat_template
from olivine.passes import UNCHANGED, first_line, passes
from olivine.paths import exists, of_user
from olivine.store.entries import Cache, Entry
from olivine.store.files import is_full_disk, usable_folder
from olivine.store.hashes import Hashes, digest
from olivine.store.packing import pack, unpack
from olivine.systems import Job, JobKind, SystemParams, Worker
from olivine.systems.local import Local
from olivine.work import Machine
from olivine.workflow.deliver import Delivery, write_whole
from olivine.workflow.folders import refuse_overlaps
from olivine.workflow.journal import Journal, hide_secrets
from olivine.workflow.keys import (
    Keys,
    Seam,
    absolute,
    addressed_key,
    fetch_key,
    fetched_model,
    materialize_key,
    model_content,
    plan_keys,
    score_key,
    score_params,
    seams,
    step_key,
    trusts_code,
    version,
)
from olivine.workflow.moving import moving, with_rows
from olivine.workflow.names import FileNames, name_problem
from olivine.workflow.plan import make_plan
from olivine.workflow.proofs import PROOF, in_words, proof_key
from olivine.workflow.remarks import remarks
from olivine.workflow.resolved import resolved
from olivine.workflow.steps import Plan, Step
from olivine.workflow.verdict import drop_allowed

VERSIONS = ("torch", "transformers", "peft", "datasets", "onnxruntime", "onnxruntime-genai", "onnx-ir", "safetensors")


class Screen(Protocol):
    """Who is told while a run goes on."""

    def step_started(self, name: str, description: str) -> None:
        """A step begins to work."""

    def progress(self, name: str, done: float, total: float, metrics: Mapping[str, Any]) -> None:
        """The step that is at work came further."""

    def step_done(self, name: str, outcome: str) -> None:
        """A step is done, or was found in the cache; `outcome` says which, and what it cost."""

    def warning(self, name: str, message: str) -> None:
        """Something that the user should know, though the run goes on."""


class SilentScreen:
    """Tells nobody."""

    def step_started(self, name: str, description: str) -> None:
        """See Screen."""

    def progress(self, name: str, done: float, total: float, metrics: Mapping[str, Any]) -> None:
        """See Screen."""

    def step_done(self, name: str, outcome: str) -> None:
        """See Screen."""

    def warning(self, name: str, message: str) -> None:
        """See Screen."""


@dataclass(frozen=True)
class Result:
    """What a run gave.

    model: the delivered folder; None for a workflow without steps. scores: a row for each seam, in order: "model",
    "format", "size_bytes", the numbers of `olivine.evaluate`, "drop": the label accuracy lost since the seam before.
    samples: what the last model answered. steps: {"name", "cached", "seconds", "peak_memory_bytes", "facts"} of each.
    trained_on: the scored rows were trained on. missed: the goals that do not hold, as sentences.
    """

    model: Path | None
    scores: list[dict[str, Any]]
    samples: list[dict[str, str]]
    steps: list[dict[str, Any]]
    trained_on: bool
    missed: list[str]
    output_dir: Path

    @property
    def status(self) -> str:
        """In a word or two."""
        return "goal missed" if self.missed else "done"

    def to_json(self) -> dict[str, Any]:
        """What `olivine run --json` prints."""
        places = {"model": str(self.model) if self.model else None, "output_dir": str(self.output_dir)}
        return {"status": self.status, **asdict(self), **places}


@dataclass
class _Run:
    """A run in progress: what it works with, and what it has so far."""

    plan: Plan
    screen: Screen
    journal: Journal
    cache: Cache
    hashes: Hashes
    worker: Worker
    keys: Keys = field(default_factory=lambda: Keys({}, {}))
    models: dict[str | None, Model] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    scored: dict[str | None, Entry] = field(default_factory=dict)  # by the step of the seam, as in Keys
    scores: dict[str | None, dict[str, Any]] = field(default_factory=dict)
    samples: list[dict[str, str]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    logs: FileNames = field(default_factory=FileNames)
    delivered: Path | None = None


def run(plan: Plan, screen: Screen | None = None) -> Result:
    """Do what the plan says and put the result into its output folder.

    Raises ConfigError when the plan has problems; StepFailed with step, cause and log; GoalMissed, with the Result,
    when the model was made but lost more than the config allows; Interrupted on Ctrl-C. What was finished stays cached.
    """
    if plan.problems:
        raise ConfigError(plan.problems)
    with _started(plan, screen or SilentScreen()) as state:
        for act in (_bring_input, _look_at_data, _make_keys, _prove, _climb, _deliver):
            act(state)
        result = _summary(state)
        state.journal.write("run_done", **result.to_json())
    if result.missed:
        missed = GoalMissed("; ".join(result.missed))
        missed.result = result
        raise missed
    return result


@contextmanager
def _started(plan: Plan, screen: Screen) -> Iterator[_Run]:
    """Everything a run works with; however it ends, the journal says so and the worker is gone."""
    drop_allowed(plan.quality.max_drop)
    _refuse(plan)
    usable_folder(plan.output_dir, f"output_dir '{plan.output_dir}'")
    cache = Cache(plan.cache_dir, lambda message: screen.warning("cache", message))
    cache.prepare()
    journal = Journal(plan.output_dir)
    try:
        journal.write("run_started", workflow=plan.workflow, versions=versions(), translated=plan.translated)
        with cache, Local(SystemParams()).worker() as worker:
            yield _Run(plan, screen, journal, cache, cache.hashes, worker)
    except (KeyboardInterrupt, Interrupted) as stop:
        ended = stop if isinstance(stop, Interrupted) else Interrupted.by(stop)
        with suppress(OSError):
            journal.write("run_interrupted", where=str(ended))
        ended.args = (f"{ended}; finished steps are kept, the same command goes on from there",)
        raise ended from None
    except OSError as error:
        failure = _as_failure("deliver", error, plan.output_dir)
        with suppress(OSError):  # a disk that is full has no room for this line either
            journal.write("run_failed", error=str(failure))
        raise failure from error
    except RequestError as error:  # by now something was begun and written: it is no longer the request alone
        with suppress(OSError):
            journal.write("run_failed", error=str(error))
        raise StepFailed("start", str(error)) from error
    except BaseException as error:
        expected = isinstance(error, OlivineError)
        with suppress(OSError):
            journal.write("run_failed", error=str(error) if expected else f"{type(error).__name__}: {error}")
        raise


def _refuse(plan: Plan) -> None:
    """RequestError for what a plan's problems say of a config, for plans that were made by a program."""
    for step in plan.steps:
        if not step.implicit and (reserved := name_problem(step.name)) is not None:
            raise RequestError(reserved)
    if plan.input_model is not None and not exists(plan.input_model.path):
        raise ModelError(f"the model '{plan.input_model.path}' does not exist")
    refuse_overlaps(plan)


def _bring_input(state: _Run) -> None:
    """The input model, fetched when it lies on the hub."""
    plan = state.plan
    model = plan.input_model or fetched_model(state.cache, plan)
    if model is None:
        name = f"fetch:{plan.hub_name}"
        params = {"name": plan.hub_name, "revision": plan.hub_revision, "trust_remote_code": trusts_code(plan)}

        def fetch(content: Path) -> Mapping[str, Any]:
            return _do(state, _job(state, "fetch", name, fetch_key(plan), content, plan.machine, params=params))

        state.cache.remove(fetch_key(plan))  # it names a place where the model is no longer
        entry = _obtain(state, fetch_key(plan), name, f"Bring {plan.hub_name} from the hub", fetch)
        model = Model.from_json(entry.result["model"])
    state.models[None] = model
    _check_fetched(plan, model)


def _check_fetched(plan: Plan, model: Model) -> None:
    """Plan once more with the model that came: until then it was known from what the hub said of it, if at all."""
    if plan.hub_name is None or plan.source is None:
        return
    problems = make_plan(plan.source, offline=plan.machine.offline, fetched=model.path).problems
    if problems:
        raise StepFailed("fetch", " ".join(f"{problem.message} {problem.fix}".strip() for problem in problems))


def _look_at_data(state: _Run) -> None:
    """The rows of data that is not here, before anything is keyed by them: the same name may give others today."""
    configs = moving(state.plan)
    told = {config.name: _told(state, config) for config in configs}
    if not told:
        return
    template = read_chat_template(state.models[None])
    for config in configs:
        for doubt in doubts(config, template, told[config.name]["sample"]):
            state.journal.write("warning", step=f"rows:{config.name}", message=doubt)
            state.screen.warning(f"rows:{config.name}", doubt)
    state.plan = with_rows(state.plan, told, template)


def _told(state: _Run, config: DataConfig) -> Mapping[str, Any]:
    name = f"rows:{config.name}"
    key = digest({"rows": config.name, "at": str(state.plan.output_dir)})
    state.screen.step_started(name, f"Look at the rows of {config.load_dataset_config.data_name}")
    given = {config.name: absolute(config).model_dump(mode="json")}
    job = _job(state, "rows", name, key, state.cache.scratch(key), state.plan.machine, data=given)
    try:
        told = _do(state, job)
    except StepFailed as error:
        _note_failure(state, error)
        raise
    state.cache.drop_scratch(key)
    state.journal.write("rows", data=config.name, content=told["content"], n_rows=told["n_rows"])
    state.screen.step_done(name, f"{told['n_rows']:,} rows")
    return told


def _make_keys(state: _Run) -> None:
    """The key of every result, all before anything runs: a file that is edited meanwhile does not mix into them."""
    state.keys = plan_keys(state.plan, state.models[None], state.hashes)


def _prove(state: _Run) -> None:
    """Before any work: that every export to be made is the model, on a small one of its config."""
    model = state.models[None]
    steps = [step for step in state.plan.steps if not state.cache.has(state.keys.models[step.name])]
    keys = {key: step for step in steps if (key := proof_key(step, model, state.hashes)) is not None}
    for key, step in keys.items():
        entry = _obtain(state, key, "prove", PROOF, partial(_make_proof, state, step, key), in_words)
        for sentence in entry.result["proof"]["unproven"]:
            state.journal.write("warning", step="prove", message=sentence)
            state.screen.warning("prove", sentence)


def _make_proof(state: _Run, step: Step, key: str, content: Path) -> Mapping[str, Any]:
    job = _job(state, "prove", "prove", key, content, step.machine, state.models[None], params=step.params)
    try:
        return _do(state, replace(job, name=step.pass_name))
    finally:  # there is nothing to go on from
        state.cache.drop_scratch(key)


def _climb(state: _Run) -> None:
    """Every step, and after each the score of what it made."""
    waiting = seams(state.plan)
    for step in (None, *state.plan.steps):
        if step is not None:
            _step(state, step)
        for seam in [seam for seam in waiting if seam.step == (step.name if step is not None else None)]:
            _score(state, seam)


def _step(state: _Run, step: Step) -> None:
    """The result of one step, from the cache or the worker."""
    plugin = passes.find(step.pass_name)
    if plugin is None:
        raise LookupError(f"no pass '{step.pass_name}'")
    key, model = state.keys.models[step.name], state.models[step.parent]

    def make(content: Path) -> Mapping[str, Any]:
        data = {name: absolute(config).model_dump(mode="json") for name, config in step.data.items()}
        names = [name for name in state.models if name is not None]
        before = {"input": state.models[None], **{name: state.models[name] for name in names}}
        models = {name: one.to_json() for name, one in before.items()}
        fields = {"params": step.params, "data": data, "models": models}
        job = _job(state, "pass", step.name, key, content, step.machine, model, **fields)
        again = partial(step_key, step, state.keys.models[step.parent], state.hashes)
        with _unedited(state, step.name, key, again):
            result = _do(state, replace(job, name=step.pass_name))
        return {**result, "model": _inside(step, pack(result["model"], content, model.to_json()))}

    entry = _obtain(state, key, step.name, first_line(plugin).rstrip("."), make)
    state.entries[step.name] = entry
    state.models[step.name] = Model.from_json(unpack(entry.result["model"], entry.content, model.to_json()))


@contextmanager
def _unedited(state: _Run, name: str, key: str, again: Callable[[], str]) -> Iterator[None]:
    """StepFailed unless what the key was made of is, before and after, what it was.

    A result of other rows or weights would be served under the key of these ever after. Files whose size, modification
    time and inode are as they were are not read.
    """
    for moment in ("before", "after"):
        try:
            is_same = model_content(state.models[None], state.hashes) == state.keys.models[None] and again() == key
            why = f"'{next(reversed(state.hashes.edited))}' was edited" if state.hashes.edited else "its files changed"
        except (OSError, RequestError) as error:
            is_same, why = False, str(error)
        if not is_same:
            raise StepFailed(name, f"{why} while the run was at work; its result is not kept, run it again")
        if moment == "before":
            yield


def _inside(step: Step, record: Any) -> Any:
    """The packed record of a result; a place outside of the output folder and the input model would not last."""
    if isinstance(record, Mapping) and not str(record["path"]).startswith("${"):
        raise TypeError(f"pass '{step.pass_name}' gave a model at {record['path']}, outside of its output folder")
    return record


def _score(state: _Run, seam: Seam) -> None:
    """Score a seam; a model of metadata only cannot answer and is left out."""
    model, rows = state.models[seam.step], state.plan.score
    if rows is None or model.attributes.get("metadata_only"):
        return
    key, name = state.keys.scores[seam.step], f"score:{seam.name}"
    previous = state.scored.get(seam.previous.step) if seam.previous else None
    machine = state.plan.machine
    if "execution_provider" in model.attributes:
        machine = replace(machine, execution_provider=model.attributes["execution_provider"])
    params = score_params(rows) | {"previous": str(previous.content) if previous else None}

    def make(content: Path) -> Mapping[str, Any]:
        before = state.keys.scores[seam.previous.step] if seam.previous else None
        again = partial(score_key, state.keys.models[seam.step], rows, before, state.plan.machine.device, state.hashes)
        with _unedited(state, name, key, again):
            return _do(state, _job(state, "score", name, key, content, machine, model, params=params))

    try:
        entry = _obtain(state, key, name, "Measure on the scored rows", make, _said)
    except StepFailed as error:
        if not rows.on_text:
            raise
        state.screen.warning(seam.name, f"not measured: {error.cause}")  # nobody asked for it
        return
    state.scored[seam.step] = entry
    state.samples = list(entry.result["samples"])
    state.scores[seam.step] = row = _row(state, seam, model, entry)
    state.journal.write("score", key=key, **row)
    before = state.scores.get(seam.previous.step) if seam.previous else None
    trained = any(step.name == seam.step and step.trains for step in state.plan.steps)
    for remark in remarks(row, before, trained=trained):
        state.journal.write("warning", step=seam.name, message=remark)
        state.screen.warning(seam.name, remark)


def _row(state: _Run, seam: Seam, model: Model, entry: Entry) -> dict[str, Any]:
    row = {"model": seam.name, "format": model.format, "size_bytes": _size(model), **entry.result["scores"]}
    before = state.scores.get(seam.previous.step, {}).get("label_accuracy") if seam.previous else None
    if before is not None and row.get("label_accuracy") is not None:
        row["drop"] = before - row["label_accuracy"]
    return row


def _obtain(
    state: _Run,
    key: str,
    name: str,
    description: str,
    make: Callable[[Path], Mapping[str, Any]],
    said: Callable[[Mapping[str, Any]], str] = lambda result: "",  # noqa: ARG005
) -> Entry:
    """An entry from the cache, or made now; the screen and the journal are told which, and what it cost."""

    def made(content: Path) -> Mapping[str, Any]:
        state.screen.step_started(name, description)
        state.journal.write("step_started", step=name, key=key)
        return make(content)

    try:
        entry, is_cached = state.cache.obtain(key, name, made)
    except StepFailed as error:
        _note_failure(state, error)
        raise
    except OSError as error:
        failure = _as_failure(name, error, state.cache.folder)
        _note_failure(state, failure)
        raise failure from error
    if not is_cached:
        state.cache.drop_scratch(key)
    record = _record(name, entry, is_cached=is_cached)
    state.steps.append(record)
    state.journal.write("step_cached" if is_cached else "step_done", key=key, **record)
    state.screen.step_done(name, ", ".join(filter(None, [said(entry.result), _outcome(record)])))
    return entry


def _note_failure(state: _Run, failure: StepFailed) -> None:
    with suppress(OSError):  # a full disk may have no room for the journal either
        log = str(failure.log) if failure.log else None
        state.journal.write("step_failed", step=failure.step, cause=failure.cause, log=log)


def _as_failure(name: str, error: OSError, place: Path) -> StepFailed:
    """An error of the file system as what it means for a step."""
    where = error.filename or place
    if is_full_disk(error):
        return StepFailed(
            name, f"the disk is full: no room for {where}; free some, or name another cache_dir or output_dir"
        )
    return StepFailed(name, f"{error.strerror or error}: {where}")


def _job(
    state: _Run,
    kind: JobKind,
    step: str,
    key: str,
    content: Path,
    machine: Machine,
    model: Model | None = None,
    **fields: Any,
) -> Job:
    return Job(
        kind=kind,
        step=step,
        output=content.absolute(),
        scratch=state.cache.scratch(key).absolute(),
        model=model.to_json() if model else None,
        machine=asdict(machine),
        log=str(_new_log(state, step)),
        **fields,
    )


def _do(state: _Run, job: Job) -> dict[str, Any]:
    def listen(event: str, fields: Mapping[str, Any]) -> None:
        if event == "progress":
            state.screen.progress(job.step, fields["done"], fields["total"], fields["metrics"])
        elif event == "warning":
            state.journal.write("warning", step=job.step, message=fields["message"])
            state.screen.warning(job.step, fields["message"])

    return state.worker.run(job, listen)


def _new_log(state: _Run, step: str) -> Path:
    """An empty log file; step names come from configs, so they are spelt as plain file names."""
    folder = state.plan.output_dir / "logs"
    folder.mkdir(exist_ok=True)
    log = folder / f"{state.logs.of(step)}.log"
    log.write_bytes(b"")
    return log.absolute()


def _record(name: str, entry: Entry, *, is_cached: bool) -> dict[str, Any]:
    """What a step cost when it was made, and the facts that its pass kept."""
    cost = {key: entry.result[key] for key in ("peak_memory_bytes", "peak_device_memory_bytes") if key in entry.result}
    seconds = round(entry.manifest["seconds"], 2)
    return {"name": name, "cached": is_cached, "seconds": seconds, **cost, "facts": entry.result.get("facts", {})}


def _outcome(record: Mapping[str, Any]) -> str:
    if record["cached"]:
        return "cached"
    text = f"{record['seconds']:.1f} s"
    if "peak_memory_bytes" in record:
        text += f", peak memory {record['peak_memory_bytes'] / 1e9:.1f} GB"
    if "n_trained_parameters" in record["facts"]:
        text += f", {record['facts']['n_trained_parameters']:,} parameters trained"
    if "summary" in record["facts"]:
        text += f", {record['facts']['summary']}"
    return text


def _said(result: Mapping[str, Any]) -> str:
    scores = result["scores"]
    parts = [
        form.format(scores[key])
        for key, form in (("label_accuracy", "accuracy {:.1%}"), ("loss", "loss {:.3f}"))
        if scores.get(key) is not None
    ]
    return ", ".join(parts)


def _size(model: Model) -> int | None:
    """Bytes of the model on disk; None where its weights are computed from another's."""
    if model.format == "hf" and model.base is not None:
        return model.base.path.stat().st_size if model.base.format == "gguf" else None
    if model.path.is_file():
        return model.path.stat().st_size
    return sum(file.stat().st_size for file in model.path.iterdir() if file.is_file())


def _deliver(state: _Run) -> None:
    """Put the result, the adapter and the resolved config into the output folder."""
    plan = state.plan
    # workflow first: re-reading this file runs the same; the versions stand beside it
    write_whole(plan.output_dir / "workflow.json", {**hide_secrets(resolved(plan)), "environment": versions()})
    made = [step for step in plan.steps if step.produces != UNCHANGED]
    if not made:
        return
    adapters = [step.name for step in made if state.models[step.name].format == "adapter"]
    results = {"model": _whole(state, made[-1])}
    if adapters:
        results["adapter"] = _addressed(state, adapters[-1])
    delivery = Delivery(plan.output_dir, state.hashes, lambda message: state.screen.warning("deliver", message))
    if not delivery.is_done(results):
        state.cache.hold()
        delivery.deliver(results)
    state.delivered = plan.output_dir / "model"


def _addressed(state: _Run, step: str) -> Entry:
    """The adapter as it is delivered: with the name of its base, by which PEFT's Auto classes find it.

    A step's own result names no place: it serves wherever its base lies.
    """
    entry, model = state.entries[step], state.models[step]
    if model.base is None or model.base != state.models[None] or model.base.format != "hf":
        return entry  # the base is a result of this run, or a file that PEFT does not load
    given = str(state.plan.workflow.get("input_model", {}).get("model_path") or model.base.path)
    base = str(model.base.path) if exists(of_user(given)) else given  # what is no path is the hub's name

    def make(content: Path) -> Mapping[str, Any]:
        for name in entry.files:
            (content / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(entry.content / name, content / name)
        name_base(content, base, state.plan.hub_revision)
        return entry.result

    return state.cache.obtain(addressed_key(entry.key, base, state.plan.hub_revision), f"address:{step}", make)[0]


def _whole(state: _Run, step: Step) -> Entry:
    """The entry whose files are all of the model: the step's own, or its computed weights written out."""
    model = state.models[step.name]
    if model.format != "hf" or model.base is None:
        return state.entries[step.name]
    key, name = materialize_key(state.keys.models[step.name]), f"materialize:{step.name}"

    def make(content: Path) -> Mapping[str, Any]:
        with _unedited(state, name, key, lambda: key):
            result = _do(state, _job(state, "materialize", name, key, content, step.machine, model))
        return {**result, "model": pack(result["model"], content, None)}

    return _obtain(state, key, name, f"Write the weights of '{step.name}'", make)


def _summary(state: _Run) -> Result:
    rows = state.plan.score
    return Result(
        model=state.delivered,
        scores=list(state.scores.values()),
        samples=state.samples,
        steps=state.steps,
        trained_on=rows is not None and rows.part == "train",
        missed=list(_missed(state)),
        output_dir=state.plan.output_dir,
    )


def _missed(state: _Run) -> Iterator[str]:
    """Checks that were missed, seams that lost more accuracy than allowed, those where a model that worked broke."""
    for step in state.steps:
        yield from (f"'{step['name']}': {sentence}" for sentence in step["facts"].get("missed", ()))
    allowed = drop_allowed(state.plan.quality.max_drop)
    for seam in seams(state.plan):
        row = state.scores.get(seam.step)
        before = state.scores.get(seam.previous.step) if seam.previous else None
        if row is None or before is None:
            continue
        if "degenerate" in row and "degenerate" not in before:
            yield f"'{seam.name}' is broken, '{before['model']}' was not: {row['degenerate']}"
        # half a part in a million: a drop of exactly the allowed share is allowed, whatever binary fractions make of it
        if allowed is not None and row.get("drop", 0.0) > allowed + 5e-7:
            yield (
                f"label accuracy fell by {100 * row['drop']:.1f} points from '{before['model']}' "
                f"({before['label_accuracy']:.1%}) to '{seam.name}' ({row['label_accuracy']:.1%}), "
                f"but quality.max_drop allows {100 * allowed:.1f}"
            )


def versions() -> dict[str, str]:
    """Versions of what decides results."""
    return {"olivine": __version__} | {name: version(name) for name in VERSIONS}

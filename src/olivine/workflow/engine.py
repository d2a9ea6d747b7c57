"""Run a plan: bring what it reads, prove what it claims, make and score every step, deliver, sum up."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from olivine import __version__
from olivine.config.nodes import plain
from olivine.errors import ConfigError, GoalMissed, Interrupted, ModelError, OlivineError, RequestError, StepFailed
from olivine.models.licence import licence_of
from olivine.passes import UNCHANGED
from olivine.paths import exists, of_user
from olivine.store.entries import Cache
from olivine.store.files import usable_folder
from olivine.store.hashes import hash_file
from olivine.systems import Ahead, System, SystemParams
from olivine.systems.local import Local
from olivine.work import Estimate
from olivine.workflow.deliver import Delivery, alone_in, half_written, holds_text, text_of, write_text
from olivine.workflow.events import (
    Delivered,
    Event,
    Listener,
    Noted,
    RunDone,
    RunFailed,
    RunInterrupted,
    RunStarted,
    Sampled,
    Scored,
    StepDone,
    Warned,
)
from olivine.workflow.execute import Execution, climb
from olivine.workflow.folders import refuse_overlaps
from olivine.workflow.inputs import bring_hosts, bring_model, bring_remotes, look_at_data, look_at_rows
from olivine.workflow.journal import Journal, hide_secrets
from olivine.workflow.keys import cached, seams
from olivine.workflow.names import name_problem
from olivine.workflow.packing import is_due, pack
from olivine.workflow.proofs import prove
from olivine.workflow.resolved import resolved
from olivine.workflow.samples import side_by_side
from olivine.workflow.steps import Plan, Step
from olivine.workflow.survey import first_look
from olivine.workflow.units import readable_bytes
from olivine.workflow.verdict import checks_missed, drop_allowed, missed_goals, table_of
from olivine.workflow.workers import Workers
from olivine.workflow.workshop import Workshop, as_failure

VERSIONS = ("torch", "transformers", "peft", "datasets", "onnxruntime", "onnxruntime-genai", "onnx-ir", "safetensors")
N_TENSORS = 60  # kinds of tensors of a result that its event names

_LARGE_BYTES = 10**9  # seconds of a disk


@dataclass(frozen=True)
class Result:
    """What a run gave.

    model: the delivered folder; None for a workflow without steps. scores: a row for each seam, in order: "model",
    "format", "size_bytes", the numbers of `olivine.evaluate`, "drop": the label accuracy lost since the seam before.
    samples: what the last model answered. steps: {"name", "cached", "seconds", "peak_memory_bytes", "facts"} of each.
    trained_on: the scored rows were trained on. missed: the goals that do not hold, as sentences. search: which trial
    the model is of ("chosen", "point"), the "front" of trials, how many there were, and near misses; None without one.
    measured: what the evaluator asks for, see `verdict.table_of`.
    """

    model: Path | None
    scores: list[dict[str, Any]]
    samples: list[dict[str, str]]
    steps: list[dict[str, Any]]
    trained_on: bool
    missed: list[str]
    output_dir: Path
    search: dict[str, Any] | None = None
    measured: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> str:
        """In a word or two."""
        return "goal missed" if self.missed else "done"

    def to_json(self) -> dict[str, Any]:
        """What `olivine run --json` prints."""
        places = {"model": str(self.model) if self.model else None, "output_dir": str(self.output_dir)}
        return {"status": self.status, **asdict(self), **places}


def run(plan: Plan, listen: Listener | None = None, *, system: System | None = None, n_workers: int = 1) -> Result:
    """Do what the plan says and put the result into its output folder.

    listen: hears every event, progress included. system: where jobs run; else here. n_workers: how many may at once.

    Raises ConfigError when the plan has problems; StepFailed with step, cause and log; GoalMissed, with the Result,
    when the model was made but lost more than the config allows; Interrupted on Ctrl-C. What was finished stays cached.
    """
    if plan.problems:
        raise ConfigError(plan.problems)
    drop_allowed(plan.quality.max_drop)
    _refuse(plan)
    systems = {None: Local(SystemParams()), **{name: host.system for name, host in plan.hosts.items()}}
    if system is not None:
        systems[None] = system
    n_workers = max(n_workers, plan.search.n_parallel if plan.search is not None else 1)
    with Workers.of(systems.items(), plan.cache_dir, n_workers) as workers:
        told = first_look(plan, workers, listen)
        _warm(plan, workers)
        result = _run(plan, listen, workers, told)
    if result.missed:
        missed_goal = GoalMissed("; ".join(result.missed))
        missed_goal.result = result
        raise missed_goal
    return result


def _warm(plan: Plan, workers: Workers) -> None:
    """Let a worker of each host begin with what is not in the cache, while files are hashed here."""
    if plan.awaits or plan.search is not None or not _left(plan, plan.cached):  # what runs is known later, or nothing
        return
    done = cached(plan)  # a plan that was made before another run does not know what that made
    scores = plan.form not in ("onnx", "openvino") and any(f"score:{seam.name}" not in done for seam in seams(plan))
    steps = _left(plan, done)
    unknown = {name for name, host in plan.hosts.items() if not host.is_known}  # what they run in is still to be made
    for host in dict.fromkeys(step.host for step in steps if step.host not in unknown):
        names = tuple(dict.fromkeys(step.pass_name for step in steps if step.host == host))
        is_scored_there = scores and plan.score is not None and plan.score.host == host
        workers.warm(Ahead(names, is_scored_there, plan.machine.offline), host)


def _left(plan: Plan, done: Collection[str]) -> list[Step]:
    return [step for step in plan.steps if step.name not in done]


def _run(plan: Plan, listen: Listener | None, workers: Workers, told: list[str] | None) -> Result:
    """The run itself. told: what is known of its rows; None where they are still to be looked at."""
    with _opened(plan, listen, workers) as (workshop, history):
        plan = bring_hosts(plan, workshop)
        plan = bring_remotes(plan, workshop)
        model = bring_model(plan, workshop)
        plan = look_at_data(plan, model, workshop)
        reserve(plan)
        for sentence in told if told is not None else look_at_rows(plan, model, workshop):
            workshop.warn("data", sentence)
        search, n_before = None, 0
        if plan.search is not None:
            from olivine.workflow.tune import tune

            chosen = tune(plan, plan.search, model, workshop)
            plan, search, n_before = chosen.plan, chosen.record, len(history)
        execution = Execution(plan, model, workshop)
        prove(execution.plan, model, execution.keys.models, workshop)
        scores = [score for score in climb(execution) if score is not None]
        scored = execution.timed([event for event in history[n_before:] if isinstance(event, Scored)])
        if rows := side_by_side({score.event.model: score.answers for score in scores}):
            workshop.tell(Sampled(rows=rows))
        delivered = _deliver(execution)
        if delivered is not None:
            workshop.tell(_described(execution, delivered))
        samples = scores[-1].samples if scores else []
        result = _summary(execution.plan, history[n_before:], scored, samples, delivered, search)
        workshop.tell(RunDone(**result.to_json()))
    return result


def reserve(plan: Plan) -> None:
    """Tell every system what the jobs of the run need of it; what is measured there needs as much as the whole plan."""
    for name, host in plan.hosts.items():
        needs = [step.estimate for step in plan.steps if step.host == name]
        if plan.score is not None and plan.score.host == name:
            needs.append(replace(plan.estimate, disk_bytes=0))
        host.system.reserve(
            Estimate(
                memory_bytes=max((need.memory_bytes for need in needs), default=0),
                device_memory_bytes=max((need.device_memory_bytes for need in needs), default=0),
                disk_bytes=sum(need.disk_bytes for need in needs),
            )
        )


@contextmanager
def _opened(plan: Plan, listen: Listener | None, workers: Workers) -> Iterator[tuple[Workshop, list[Event]]]:
    """What the run works with, and the events so far; however it ends, the journal says so and the workers are gone."""
    usable_folder(plan.output_dir, f"output_dir '{plan.output_dir}'")
    history: list[Event] = []
    journal = Journal(plan.output_dir)
    tell = _one_at_a_time(journal.write, _keeps(history), *([listen] if listen else []))
    store = Cache(plan.cache_dir, lambda message: tell(Warned(step="cache", message=message)), hashing(tell))
    store.prepare()
    try:
        known = versions(plan), _of_hosts(plan)
        tell(
            RunStarted(
                workflow=_asked(plan),
                versions=known[0],
                hosts=known[1],
                machine=_machine(plan),
                translated=plan.translated,
            )
        )
        with store, workers:
            yield Workshop(plan.output_dir, store, workers, tell), history
    except BaseException as error:
        end, raised = _ending(error, plan.output_dir)
        with suppress(OSError):  # a disk that is full has no room for this line either
            tell(end)
        if raised is error:
            raise
        raise raised from (None if isinstance(raised, Interrupted) else error)


def hashing(tell: Listener, large_bytes: int = _LARGE_BYTES) -> Callable[[Path], str]:
    """What hashes files: of a large one it is told before it is read, so that who waits knows for what."""

    def read(path: Path) -> str:
        if (size := path.stat().st_size) >= large_bytes:
            tell(Noted(step="cache", message=f"reading {path.name}, {readable_bytes(size)}, to know it from others"))
        return hash_file(path)

    return read


def _asked(plan: Plan) -> Mapping[str, Any]:
    """The config as it was asked for; of a search, with all that it may choose."""
    if plan.search is None or plan.source is None:
        return plan.workflow
    asked: dict[str, Any] = plain(plan.source.document.root)
    return asked


def _machine(plan: Plan) -> dict[str, Any]:
    """What the workflow's host has, as far as a reader of the results needs it."""
    machine = plan.machine
    names = ("device", "execution_provider", "n_cores", "memory_bytes", "n_devices", "n_nodes", "device_memory_bytes")
    host = plan.hosts.get(plan.steps[0].host if plan.steps else None)
    gpus = list(host.probe.gpu_names) if host is not None and machine.device != "cpu" else []
    return {name: getattr(machine, name) for name in names} | {"gpu_names": gpus}


def _one_at_a_time(*listeners: Listener) -> Listener:
    """A listener that passes on what it hears to others, of one thread at a time."""
    lock = threading.RLock()

    def tell(event: Event) -> None:
        with lock:
            for listen in listeners:
                listen(event)

    return tell


def _keeps(history: list[Event]) -> Listener:
    """A listener that appends what the journal keeps too: of progress there is no end."""
    return lambda event: history.append(event) if event.is_kept else None


def _ending(error: BaseException, output_dir: Path) -> tuple[Event, BaseException]:
    """How a run that did not come to its end is written down, and what is raised."""
    if isinstance(error, (KeyboardInterrupt, Interrupted)):
        stop = error if isinstance(error, Interrupted) else Interrupted.by(error)
        end = RunInterrupted(where=str(stop))
        stop.args = (f"{stop}; finished steps are kept, the same command goes on from there",)
        return end, stop
    if isinstance(error, OSError):
        failure = as_failure("deliver", error, output_dir)
        return RunFailed(error=str(failure)), failure
    if isinstance(error, RequestError):  # by now something was begun and written: it is no longer the request alone
        return RunFailed(error=str(error)), StepFailed("start", str(error))
    expected = isinstance(error, OlivineError)
    return RunFailed(error=str(error) if expected else f"{type(error).__name__}: {error}"), error


def _refuse(plan: Plan) -> None:
    """RequestError for what a plan's problems say of a config, for plans that were made by a program."""
    for step in plan.steps:
        if not step.implicit and (reserved := name_problem(step.name)) is not None:
            raise RequestError(reserved)
    if plan.input_model is not None and not exists(plan.input_model.path):
        raise ModelError(f"the model '{plan.input_model.path}' does not exist")
    refuse_overlaps(plan)


def _deliver(execution: Execution) -> Path | None:
    """Put the result, the adapter and the resolved config into the output folder; gives the folder of the model."""
    plan, workshop = execution.plan, execution.workshop
    # workflow first: re-reading this file runs the same; the versions stand beside it
    workflow = plan.output_dir / "workflow.json"
    asked = text_of({**hide_secrets(resolved(plan)), "environment": versions(plan)})
    if not holds_text(workflow, asked) or half_written(plan.output_dir):
        with alone_in(plan.output_dir):
            write_text(workflow, asked)
    made = [step for step in plan.steps if step.produces != UNCHANGED]
    if not made:
        return None
    adapters = [step for step in made if execution.result(step).format == "adapter"]
    results = {"model": execution.whole(made[-1])}
    if adapters:
        results["adapter"] = execution.addressed(adapters[-1])
    delivery = Delivery(plan.output_dir, workshop.store.hashes, lambda message: workshop.warn("deliver", message))
    if not delivery.is_done(results):
        workshop.store.hold()
        delivery.deliver(results)
    config = plan.source.workflow if plan.source is not None else None
    if config is not None and is_due(config, plan.output_dir):
        with alone_in(plan.output_dir):
            pack(config, plan.output_dir / "model", plan.output_dir, workshop.store.hashes, delivery.warn)
    return plan.output_dir / "model"


def _described(execution: Execution, delivered: Path) -> Delivered:
    """What lies in the folder of the result, and what it was made from."""
    plan, model = execution.plan, execution.model
    named = plan.workflow.get("input_model", {})
    given = named.get("model_path") if isinstance(named, Mapping) else None
    base = str(given) if isinstance(given, str) and not exists(of_user(given)) else model.path.name
    made = next(step for step in reversed(plan.steps) if step.produces != UNCHANGED)
    held = execution.contents(made)[:N_TENSORS]
    return Delivered(model=str(delivered), base=base, licence=licence_of(model.path), tensors=held)


def _summary(
    plan: Plan,
    history: list[Event],
    scored: list[Scored],
    samples: list[dict[str, str]],
    delivered: Path | None,
    search: dict[str, Any] | None,
) -> Result:
    """What the events of a run come to, and whether its goals hold."""
    steps = [event.record for event in history if isinstance(event, StepDone)]
    return Result(
        model=delivered,
        scores=[event.row for event in scored],
        samples=samples,
        steps=steps,
        trained_on=plan.score is not None and plan.score.part == "train",
        missed=[*checks_missed(steps), *missed_goals(plan, scored)],
        output_dir=plan.output_dir,
        search=search,
        measured=table_of(plan, scored),
    )


def _of_hosts(plan: Plan) -> dict[str, dict[str, str]]:
    """Versions of what decides results on each system beside the workflow's host, as far as they are known."""
    others = {name: host.probe for name, host in plan.hosts.items() if name is not None and host.is_known}
    return {
        name: {library: probe.version(library) for library in VERSIONS}
        for name, probe in others.items()
        if probe.versions is not plan.versions
    }


def versions(plan: Plan) -> dict[str, str]:
    """Versions of what decides results, on the workflow's host."""
    return {"olivine": __version__} | {name: plan.versions.get(name, "none") for name in VERSIONS}

"""Results and scores of a plan, each made once, whoever asks and in whatever order; threads may ask at once.

    execution = Execution(plan, input_model, workshop)
    execution.result(step)    the model that a step makes; the steps before it are made first
    execution.score(seam)     what is measured of it, beside the model before

A search tries many plans in one workshop: what two of them have in common is made once, as it has one key.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from olivine.absent import address_of
from olivine.errors import RequestError, StepFailed
from olivine.models import Model
from olivine.models.chained import GENAI
from olivine.passes import Pass, first_line, passes
from olivine.paths import exists, of_user
from olivine.store.entries import Entry
from olivine.store.packing import pack, unpack
from olivine.systems import CPU
from olivine.work import Machine
from olivine.workflow.durations import note_duration
from olivine.workflow.events import Scored, Timed
from olivine.workflow.keys import (
    Seam,
    absolute,
    addressed_key,
    contents_key,
    device_of_scores,
    materialize_key,
    model_content,
    plan_keys,
    score_key,
    score_params,
    seams,
    step_key,
    timing_key,
)
from olivine.workflow.remarks import remarks
from olivine.workflow.steps import Plan, ScoreRows, Step, timing_params
from olivine.workflow.workshop import Locks, Task, Workshop


@dataclass(frozen=True)
class Score:
    """What was measured of a model. entry: with the evidence that the model after it is compared with."""

    event: Scored
    entry: Entry

    @property
    def samples(self) -> list[dict[str, str]]:
        """Some of its answers."""
        return list(self.entry.result["samples"])

    @property
    def answers(self) -> list[dict[str, Any]]:
        """Those that can be shown beside the answers of other models; what an earlier version kept has its samples."""
        from olivine.evaluate import answers_of_samples

        if (told := self.entry.result.get("answers")) is not None:
            return list(told)
        is_graded = self.event.scores.get("label_accuracy") is not None
        return answers_of_samples(self.samples, is_graded=is_graded)


class Execution:
    """A plan, its input model that is here, and all that comes of them.

    Every key is made when this is, before anything runs: a file that is edited meanwhile does not mix into them.
    """

    def __init__(self, plan: Plan, model: Model, workshop: Workshop) -> None:
        self.plan, self.model, self.workshop = plan, model, workshop
        self.keys = plan_keys(plan, model, workshop.store.hashes)
        self._steps = {step.name: step for step in plan.steps}
        self._locks = Locks()
        self._entries: dict[str, Entry] = {}
        self._models: dict[str, Model] = {}
        self._scores: dict[str | None, Score | None] = {}  # by the step of the seam, as in Keys

    def result(self, step: Step) -> Model:
        """The model that a step makes, from the store or a worker; that of its parent is made first."""
        with self._locks.of(step.name):
            if step.name not in self._models:
                self._make(step)
            return self._models[step.name]

    def entry(self, step: Step) -> Entry:
        """The files of a step's result in the store."""
        self.result(step)
        return self._entries[step.name]

    def score(self, seam: Seam) -> Score | None:
        """What is measured of a model on the plan's rows; that of the model before comes first.

        None where nothing is: a plan without rows, and a model that cannot answer here.
        """
        if self.plan.score is None:
            return None
        with self._locks.of(("score", seam.step)):
            if seam.step not in self._scores:
                previous = self.score(seam.previous) if seam.previous else None
                self._scores[seam.step] = self._measure(seam, self.plan.score, previous)
            return self._scores[seam.step]

    def whole(self, step: Step) -> Entry:
        """The entry whose files are all of a step's model as it is delivered.

        Its own, one with its computed weights written out, or that of an adapter with the name of its base.
        """
        model = self.result(step)
        if model.format == "adapter":
            return self.addressed(step)
        if model.format != "hf" or model.base is None:
            return self._entries[step.name]
        key = materialize_key(self.keys.models[step.name])
        task = Task(
            f"materialize:{step.name}",
            key,
            f"Write the weights of '{step.name}'",
            parent=step.name,
            parent_key=self.keys.models[step.name],
            host=step.host,
        )

        def make(content: Path) -> Mapping[str, Any]:
            with self._unedited(task, lambda: key):
                result = self.workshop.do("materialize", task, content, step.machine, model)
            return {**result, "model": pack(result["model"], content, None)}

        return self.workshop.obtain(task, make)

    def addressed(self, step: Step) -> Entry:
        """An adapter as it is delivered: with the name of its base, by which PEFT's Auto classes find it.

        A step's own result names no place: it serves wherever its base lies.
        """
        model, entry = self.result(step), self._entries[step.name]
        if model.base is None or model.base != self.model or model.base.format != "hf":
            return entry  # the base is a result of this run, or a file that PEFT does not load
        given = str(self.plan.workflow.get("input_model", {}).get("model_path") or model.base.path)
        base = str(model.base.path) if exists(of_user(given)) else given  # what is no path is the hub's name
        base = address_of(model.base.path) or base  # not of this machine

        def make(content: Path) -> Mapping[str, Any]:
            from olivine.models.adapter import name_base

            for name in entry.files:
                (content / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(entry.content / name, content / name)
            name_base(content, base, self.plan.hub_revision)
            return entry.result

        key = addressed_key(entry.key, base, self.plan.hub_revision)
        return self.workshop.store.obtain(key, f"address:{step.name}", make)[0]

    def contents(self, step: Step) -> list[dict[str, Any]]:
        """What the files of a step's model hold as it is delivered, the largest first; read once from their headers."""
        entry = self.whole(step)

        def make(_: Path) -> Mapping[str, Any]:
            from olivine.models.contents import contents

            return {"tensors": [tensors.to_json() for tensors in contents(entry.content)]}

        kept, _ = self.workshop.store.obtain(contents_key(entry.key), f"contents:{step.name}", make)
        return list(kept.result["tensors"])

    def _make(self, step: Step) -> None:
        plugin, model, key = plugin_of(step), self._model_of(step.parent), self.keys.models[step.name]
        task = Task(
            step.name,
            key,
            first_line(plugin).rstrip("."),
            step.pass_name,
            step.params,
            step.parent,
            self.keys.models[step.parent],
            step.host,
        )

        def make(content: Path) -> Mapping[str, Any]:
            data = {name: absolute(config).model_dump(mode="json") for name, config in step.data.items()}
            models = {name: one.to_json() for name, one in self._before(step).items()}
            again = partial(step_key, step, self.keys.models, self.workshop.store.hashes)
            with self._unedited(task, again):
                files = tuple(map(str, step.files))
                fields = {"name": step.pass_name, "data": data, "models": models, "files": files}
                result = self.workshop.do("pass", task, content, step.machine, model, **fields)
            self._note(step.pass_name, step.params, step.host, result)
            return {**result, "model": _inside(step, pack(result["model"], content, model.to_json()))}

        entry = self.workshop.obtain(task, make)
        self._entries[step.name] = entry
        self._models[step.name] = Model.from_json(unpack(entry.result["model"], entry.content, model.to_json()))

    def _note(self, kind: str, params: Mapping[str, Any], host: str | None, result: Mapping[str, Any]) -> None:
        """Remember what a job here took."""
        if host is None and "seconds" in result:
            folder, n_parameters = self.workshop.store.folder, self.plan.n_parameters
            note_duration(folder, kind, params, n_parameters, float(result["seconds"]))

    def _model_of(self, name: str | None) -> Model:
        return self.model if name is None else self.result(self._steps[name])

    def _before(self, step: Step) -> dict[str, Model]:
        """The models that a step may read: the input, those that its own was made from, and those that it names."""
        ancestors = []
        name = step.parent
        while name is not None:
            ancestors.append(name)
            name = self._steps[name].parent
        needed = {*ancestors, *step.models}
        return {"input": self.model} | {one: self._model_of(one) for one in self._steps if one in needed}

    def _measure(self, seam: Seam, rows: ScoreRows, previous: Score | None) -> Score | None:
        model = self._model_of(seam.step)
        if not self._can_answer(model, rows):
            return None
        model_key = self.keys.models[seam.step]
        task = Task(
            f"score:{seam.name}",
            self.keys.scores[seam.step],
            "Measure on the scored rows",
            params=score_params(rows),
            parent=seam.step,
            parent_key=model_key,
            host=rows.host,
            summary=_in_words,
        )

        def make(content: Path) -> Mapping[str, Any]:
            before = self.keys.scores[seam.previous.step] if seam.previous else None
            device, hashes = device_of_scores(self.plan), self.workshop.store.hashes
            again = partial(score_key, model_key, rows, before, device, hashes)
            params = {**task.params, "previous": str(previous.entry.content) if previous else None}
            with self._unedited(task, again):
                machine = self._machine_for(model, rows)
                files = tuple(map(str, _files_of(rows)))
                result = self.workshop.do("score", task, content, machine, model, params=params, files=files)
            self._note(f"score {model.format}", {}, rows.host, result)
            return result

        try:
            entry = self.workshop.obtain(task, make)
        except StepFailed as error:
            if self.plan.asked or (not rows.on_text and rows.data is not None):
                raise
            self.workshop.warn(seam.name, f"not measured: {error.cause}")  # nobody asked for it
            return None
        score = Score(self._scored(seam, model, entry, previous), entry)
        self._tell(seam, score, previous)
        return score

    def timed(self, scored: Sequence[Scored]) -> list[Scored]:
        """The same, with what is timed of the input model and of the one that ships, where the plan asks for it.

        Nothing else of a run is at work meanwhile: it comes after all steps and scores.
        """
        key, rows, places = timing_key(self.plan, self.keys.models), self.plan.score, seams(self.plan)
        if key is None or rows is None:
            return list(scored)
        models = {seam.name: self._model_of(seam.step) for seam in (places[0], places[-1])}
        if not all(self._can_answer(model, rows) for model in models.values()):
            return list(scored)
        event = self._time(places[-1], key, models, rows)
        self.workshop.tell(event)
        return [replace(one, scores={**one.scores, **event.numbers.get(one.model, {})}) for one in scored]

    def _time(self, seam: Seam, key: str, models: Mapping[str, Model], rows: ScoreRows) -> Timed:
        """What is timed of models beside each other. seam: the one that ships."""
        task = Task(
            f"time:{seam.name}",
            key,
            "Time it beside the input model" if len(models) > 1 else "Time it",
            params=timing_params(self.plan.asked) or {},
            parent=seam.step,
            parent_key=self.keys.models[seam.step],
            host=rows.host,
        )
        records = {name: model.to_json() for name, model in models.items()}
        machine = self._machine_for(models[seam.name], rows)
        result = self.workshop.obtain(
            task, lambda content: self.workshop.do("time", task, content, machine, models=records)
        ).result
        told = {name: result[name] for name in ("numbers", "n_requests", "spread", "load", "together")}
        return Timed(model=seam.name, key=key, **told)

    def _machine_for(self, model: Model, rows: ScoreRows) -> Machine:
        """Where models are measured, with the execution provider that a model was built for."""
        machine, provider = rows.machine or self.plan.machine, model.attributes.get("execution_provider")
        if not machine.is_target_here and model.packaging == "plain":  # any graph runs on the processor as well
            return replace(machine, execution_provider=CPU)
        return replace(machine, execution_provider=provider) if provider else machine

    def _can_answer(self, model: Model, rows: ScoreRows) -> bool:
        """Whether a model can be run where it is measured: one of metadata alone, or for another target, cannot.

        Nor can parts of a decoder with a cache be asked for a text: nothing here hands their caches on.
        """
        if GENAI in model.attributes and not rows.on_outputs:
            return False
        machine = rows.machine or self.plan.machine
        is_elsewhere = model.packaging == "genai" and not machine.is_target_here
        is_built = model.attributes.get("execution_provider", CPU) == machine.execution_provider
        return not model.attributes.get("metadata_only") and not (is_elsewhere and is_built)

    def _scored(self, seam: Seam, model: Model, entry: Entry, previous: Score | None) -> Scored:
        scores: dict[str, Any] = dict(entry.result["scores"])
        before: Mapping[str, Any] = previous.event.scores if previous else {}
        earlier, accuracy = before.get("label_accuracy"), scores.get("label_accuracy")
        return Scored(
            model=seam.name,
            step=seam.step,
            key=entry.key,
            model_key=self.keys.models[seam.step],
            previous=seam.previous.name if seam.previous else None,
            format=model.format,
            size_bytes=scores.pop("size_bytes", None),
            drop=None if earlier is None or accuracy is None else earlier - accuracy,
            scores=scores,
        )

    def _tell(self, seam: Seam, score: Score, previous: Score | None) -> None:
        self.workshop.tell(score.event)
        trained = seam.step is not None and self._steps[seam.step].trains
        before, has_goal = previous.event.row if previous else None, self._has_goal
        for remark in remarks(score.event.row, before, trained=trained, has_goal=has_goal):
            self.workshop.warn(seam.name, remark)

    @property
    def _has_goal(self) -> bool:
        """Whether the config says how much accuracy may be lost."""
        asked = any(one.goal is not None and one.number == "label_accuracy" for one in self.plan.asked)
        return asked or self.plan.quality.max_drop is not None

    @contextmanager
    def _unedited(self, task: Task, again: Callable[[], str]) -> Iterator[None]:
        """StepFailed unless what the key was made of is, before and after, what it was.

        A result of other rows or weights would be served under the key of these ever after. Files whose size,
        modification time and inode are as they were are not read.
        """
        hashes = self.workshop.store.hashes
        for moment in ("before", "after"):
            try:
                is_same = model_content(self.model, hashes) == self.keys.models[None] and again() == task.key
                why = f"'{next(reversed(hashes.edited))}' was edited" if hashes.edited else "its files changed"
            except (OSError, RequestError) as error:
                is_same, why = False, str(error)
            if not is_same:
                raise StepFailed(task.step, f"{why} while the run was at work; its result is not kept, run it again")
            if moment == "before":
                yield


def climb(execution: Execution) -> Iterator[Score | None]:
    """Make every step and score each seam when it is there; gives what was measured, None after a step."""
    waiting = seams(execution.plan)
    for step in (None, *execution.plan.steps):
        if step is not None:
            execution.result(step)
            yield None
        for seam in waiting:
            if seam.step == (step.name if step is not None else None):
                yield execution.score(seam)


def plugin_of(step: Step) -> type[Pass]:
    """The pass of a step; LookupError when there is none, which a plan without problems does not have."""
    plugin = passes.find(step.pass_name)
    if plugin is None:
        raise LookupError(f"no pass '{step.pass_name}'")
    return plugin


def _files_of(rows: ScoreRows) -> Iterator[Path]:
    """Files of the user that scores are made with: of scripts, and of tasks with the folder that they lie in."""
    for script in rows.scripts:
        yield from script.files
    if rows.task_folder is not None:
        yield from (rows.task_folder, *rows.task_files)


def _inside(step: Step, record: Any) -> Any:
    """The packed record of a result; a place outside of the output folder and the input model would not last."""
    if isinstance(record, Mapping) and not str(record["path"]).startswith("${"):
        raise TypeError(f"pass '{step.pass_name}' gave a model at {record['path']}, outside of its output folder")
    return record


def _in_words(result: Mapping[str, Any]) -> str:
    scores = result["scores"]
    forms = (("label_accuracy", "accuracy {:.1%}"), ("loss", "loss {:.3f}"))
    return ", ".join(form.format(scores[key]) for key, form in forms if scores.get(key) is not None)

"""What rows come to with a model's tokenizer: whether the steps and scores of a workflow can use them."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from olivine.calibration.sizes import FEWEST
from olivine.config.schema import DataConfig
from olivine.data import Prepared, prepare, seen_sentence, shared_rows, split
from olivine.errors import DataError, ModelError, RequestError, sentence
from olivine.messages import Events
from olivine.models import Model
from olivine.models.context import context_of, vocabulary_of
from olivine.models.gguf import readable
from olivine.models.loading import load_tokenizer
from olivine.systems._protocol import Job
from olivine.work import Silent


class Survey:
    """The uses of rows one after the other; tokens are kept in `cache`, where the steps find them.

    configs: data configs by the names under which the uses know them. A use is a mapping: its `kind`, the `step`, the
    `data` and more, see the methods.
    """

    def __init__(self, model: Model, configs: Mapping[str, DataConfig], scratch: Path, events: Events) -> None:
        self._model, self._configs, self._scratch, self._events = model, configs, scratch, events
        self._prepared: dict[str, Prepared] = {}

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(readable(self._model, self._scratch))

    @cached_property
    def _context(self) -> int | None:
        return context_of(self._model)

    def report(self, uses: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
        """`problems`, each with the name of its data config, message and fix; `warnings`, a sentence each."""
        problems: dict[str, dict[str, str]] = {}  # by data config: one mistake, one message
        warnings: dict[str, None] = {}
        for use in uses:
            name = self._configs[use["data"]].name
            if name in problems:
                continue
            try:
                warnings |= dict.fromkeys(getattr(self, f"_{use['kind']}")(use))
            except ModelError:  # there is no tokenizer to look with: the step that needs it says so
                continue
            except RequestError as error:
                problems[name] = {"data": name, "message": sentence(error), "fix": getattr(error, "fix", "")}
        return {"problems": list(problems.values()), "warnings": list(warnings)}

    def _rows(self, name: str) -> Prepared:
        if name not in self._prepared:
            cache = self._scratch.parent
            made = prepare(self._configs[name], self._tokenizer, cache, self._events.progress, self._context)
            self._refuse_unknown_tokens(made)
            self._prepared[name] = made
        return self._prepared[name]

    def _refuse_unknown_tokens(self, rows: Prepared) -> None:
        """DataError for a token that the tokenizer knows and the model has no embedding of."""
        ids, n_known = rows.store.ids, vocabulary_of(self._model)
        if n_known is None or not len(ids) or int(ids.max()) < n_known:
            return
        at = int((ids >= n_known).argmax())
        place = rows.where(int(rows.store.stops.searchsorted(at, side="right")))
        raise DataError(
            f"{place}: the token {self._tokenizer.decode([int(ids[at])])!r} has the number {int(ids[at])}, but the "
            f"model has {n_known} embeddings: resize them (transformers: resize_token_embeddings) or leave it out"
        )

    def _train(self, use: Mapping[str, Any]) -> Iterator[str]:
        """As a training step lays rows out. eval_data: held out, all of it; or eval_size and seed of a part."""
        rows = self._rows(use["data"])
        if rows.unanswered is not None:
            yield rows.unanswered.sentence(rows.config, rows.form)
        if rows.form.otherwise_asked:
            yield f"'{rows.config.name}': {rows.form.otherwise_asked}"
        train, other, held_out = None, rows, None
        if use["eval_data"] is not None:
            other = self._rows(use["eval_data"])
        elif use["eval_size"] is not None:
            train, held_out = split(len(rows), use["eval_size"], use["seed"])
        rows.samples(train)
        if other is rows and held_out is None:
            return
        n_samples = other.samples(held_out).statistics.n_rows
        shared = shared_rows(rows, train, other, held_out)
        if (sentence := seen_sentence(shared["n"], n_samples, other.config.name)) is not None:
            yield sentence

    def _calibrate(self, use: Mapping[str, Any]) -> Iterator[str]:
        """As a step draws tokens to calibrate with. held_out, seed: rows that it leaves out; param: names the data."""
        rows = self._rows(use["data"])
        chosen = split(len(rows), use["held_out"], use["seed"])[0] if use["held_out"] is not None else None
        n_tokens = rows.n_tokens(chosen)
        if n_tokens >= FEWEST:
            return
        few = f"'{rows.config.name}' gives {n_tokens:,} tokens, and to calibrate takes {FEWEST} at least"
        if not use["may_be_short"]:
            raise TooFewToCalibrateError(
                f"step '{use['step']}' calibrates on '{rows.config.name}': {few}",
                f"Add rows, or remove '{use['param']}' of that step: general text is then used.",
            )
        yield f"step '{use['step']}' does not calibrate on the rows of the training: {few}"

    def _score(self, use: Mapping[str, Any]) -> Iterator[str]:
        """As rows are scored. params: those of a score job, without `data`."""
        from olivine.evaluate import check_rows

        params = {**use["params"], "data": self._configs[use["data"]].model_dump(mode="json")}
        check_rows(params, self._tokenizer, self._context or 2**31, Silent())
        yield from ()


class TooFewToCalibrateError(DataError):
    """Rows that a step names to calibrate with are too few. fix: what to do."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def survey(job: Job, events: Events) -> dict[str, Any]:
    """The result of a job of that kind."""
    if job.model is None:
        raise ValueError("a survey needs a model")
    configs = {name: DataConfig.model_validate(value) for name, value in job.data.items()}
    job.scratch.mkdir(parents=True, exist_ok=True)
    found = Survey(Model.from_json(job.model), configs, job.scratch, events)
    return found.report(job.params["uses"])

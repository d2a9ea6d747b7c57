"""Score one model on rows: the job between two steps of a workflow."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.config.schema import DataConfig, PreProcess
from olivine.data import begins_itself, examples, pick_rows, resolved, split, template_of
from olivine.errors import DataError
from olivine.evaluate._answer import Answers, answers_of
from olivine.evaluate._bare import bare, special_tokens
from olivine.evaluate._base import Artifact, Evidence, TaskEvidence
from olivine.evaluate._batches import LOGIT_BYTES, MAX_BATCH, PASSAGE_TOKENS
from olivine.evaluate._custom import custom_numbers
from olivine.evaluate._degenerate import degenerate
from olivine.evaluate._metrics import chosen, measured
from olivine.evaluate._outputs import evenly, named, rows_of, score_outputs
from olivine.evaluate._rows import Question, passages, questions
from olivine.evaluate._shown import shortened
from olivine.evaluate.label_accuracy import matches
from olivine.models import Model
from olivine.models.disk import bytes_on_disk
from olivine.models.gguf import readable
from olivine.models.loading import load_tokenizer
from olivine.models.turns import end_tokens
from olivine.work import Machine, Reporter

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    np = lazy.module("numpy")

KEPT_BYTES = 32 * 2**20  # log-probabilities kept for the next seam: 340 positions of 49,152 tokens
KEPT_FILE = "log_probabilities.npy"
PASSAGE_NEW = 16  # tokens that are written after the prompt of a passage
N_SAMPLES = 8
N_ANSWERS = 1000  # that can be shown beside those of other models
MAX_TOKENS = 4096  # of a prompt and its target; a longer prompt keeps its end


@dataclass(frozen=True)
class _Reading:
    """What is kept of the answer to one question.

    text: all that was generated. answer: what of it is held against the label. prompt: the tokens that the runtime
    made of the question, where it did.
    """

    token_losses: "npt.NDArray[np.float64]"
    kept: "npt.NDArray[np.float16]"
    text: str
    answer: str
    is_flat: bool
    is_nan: bool
    prompt: tuple[int, ...] | None = None


def score(
    model: Model,
    params: Mapping[str, Any],
    output: Path,
    machine: Machine,
    report: Reporter,
    *,
    answers: Answers | None = None,
    kept_bytes: int = KEPT_BYTES,
) -> dict[str, Any]:
    """Measure `model` on the rows that `params` describes and keep what the next seam compares with in `output`.

    params: data (a DataConfig), part, eval_size, seed, target, max_rows, on_text (the rows are passages that are gone
    on with, and no labels), on_outputs (the model is measured by its outputs, whatever it is), metrics (params by
    name), previous (folder of the model one seam before). Returns {"scores": name -> number, "samples": first rows with
    what was expected and generated, "answers": the same of many rows, in short, and whether each is right}. answers:
    what answers in the place of the model. kept_bytes: of log-probabilities, at most. A model that does not write text
    is measured by its outputs, see `score_outputs`.
    """
    if params.get("on_outputs") or model.is_graph or model.format == "composite":
        return score_outputs(model, params, output, machine, report, kept_bytes=kept_bytes)
    config = DataConfig.model_validate(params["data"])
    artifact = Artifact(bytes_on_disk(model))
    model = readable(model, output)  # a workflow has opened a GGUF file already
    tokenizer = load_tokenizer(model)
    answers = answers or answers_of(model, machine.device, machine.execution_provider)
    if answers.untyped is not None:
        report.warn(
            f"onnxruntime-genai cannot read the tokenizer of {model.path} ({answers.untyped}), so no text can be typed "
            "there: its rows are asked and read in the token ids of transformers"
        )
    on_text = bool(params.get("on_text"))
    if on_text:
        rows, n_left_out = _passages(config, params, tokenizer, answers.context_length), 0
    else:
        rows, n_left_out = _questions(config, params, tokenizer, answers.context_length, report)
    n_new = PASSAGE_NEW if on_text else max(len(row.target) for row in rows) + 4
    positions = _positions_kept(rows, len(tokenizer), kept_bytes)
    readings = _ask(answers, rows, tokenizer, _ends(model, tokenizer), n_new, positions, report)
    generated = [reading.text for reading in readings]
    kept = np.concatenate([reading.kept for reading in readings])
    np.save(output / KEPT_FILE, kept)
    previous = params.get("previous")
    evidence = Evidence(
        labels=[] if on_text else [row.example.label for row in rows],
        generated=[] if on_text else [reading.answer for reading in readings],
        token_losses=np.concatenate([result.token_losses for result in readings]),
        log_probabilities=kept,
        previous=np.load(Path(previous) / KEPT_FILE, mmap_mode="r") if previous else None,
    )
    scores: dict[str, Any] = {"n_rows": len(rows), "n_tokens": len(evidence.token_losses)}
    if n_left_out:
        scores["n_left_out"] = n_left_out
    if answers.untyped is not None:
        scores["token_ids_only"] = True
    if on_text:
        scores["on_text"] = True
    elif n_empty := sum(not reading.answer.strip() for reading in readings):
        scores["n_empty"] = n_empty
    if n_other := _tell_other_tokens(rows, readings, report):
        scores["n_other_tokens"] = n_other
    metrics = params.get("metrics") or {}
    scores |= measured(metrics, evidence, artifact, *_of_tasks(metrics, answers, tokenizer, model, report))
    scores |= custom_numbers(params.get("scripts") or (), model, evidence, machine)
    written = [] if on_text else generated  # a sound model may well repeat itself when nothing is asked of it
    if problem := degenerate([r.is_nan for r in readings], [r.is_flat for r in readings], written):
        scores["degenerate"] = problem
    told = _answers(rows, readings, on_text=on_text, metrics=metrics)
    return {"scores": named(scores), "samples": _samples(rows, generated), "answers": told}


def _of_tasks(
    metrics: Mapping[str, Mapping[str, Any]], answers: Answers, tokenizer: Any, model: Model, report: Reporter
) -> Iterator[TaskEvidence]:
    """What the tasks that a config asks for say of the model."""
    given = chosen(metrics, TaskEvidence)
    if given:
        from olivine.evaluate._harness import run_tasks

    for metric in given:
        yield run_tasks(metric.params.model_dump(), answers.runtime, tokenizer, _bottom(model).path, report.progress)


def check_rows(params: Mapping[str, Any], tokenizer: Any, context: int, report: Reporter) -> None:
    """Raise DataError for rows that `score` could not ask a model with that tokenizer, which reads `context` tokens."""
    _questions(DataConfig.model_validate(params["data"]), {**params, "previous": ""}, tokenizer, context, report)


def _questions(
    config: DataConfig, params: Mapping[str, Any], tokenizer: Any, context: int, report: Reporter
) -> tuple[list[Question], int]:
    """The rows as questions, and how many were left out because the model cannot read all of them."""

    def choose(n_rows: int) -> Sequence[int]:
        indices: Sequence[int] = range(n_rows)
        if params["part"] != "all" and params.get("eval_size"):
            train, held_out = split(n_rows, params["eval_size"], params["seed"])
            indices = held_out if params["part"] == "eval" else train
        return rows_of(indices, params)

    rows = pick_rows(config, choose, template_of(tokenizer))
    if not len(rows):
        raise DataError(f"data config '{config.name}' has no rows to score")
    config = resolved(
        config, template=template_of(tokenizer)
    )  # by the first rows of the data, as for training, and not by those that were picked
    if params.get("previous") is None:
        _tell_begin(config.pre_process_data_config, tokenizer, report)
    chosen = examples(config, rows, tokenizer, params.get("target"))
    chosen_questions = questions(chosen, tokenizer, MAX_TOKENS, config.pre_process_data_config, context)
    n_left_out = len(chosen) - len(chosen_questions)
    if n_left_out == len(chosen):
        raise DataError(
            f"data config '{config.name}': each of the {len(chosen)} rows to score is longer than the {context} tokens "
            "that the model reads; shorten them"
        )
    if n_left_out:
        report.warn(f"{n_left_out} of {len(chosen)} rows are longer than the {context} tokens that the model reads")
    return chosen_questions, n_left_out


def _tell_begin(settings: PreProcess, tokenizer: Any, report: Reporter) -> None:
    """Say, before anything is trained, that texts go without the begin token that the tokenizer has for them."""
    is_text = settings.add_special_tokens and not settings.chat_template
    if is_text and settings.begin_token is False and begins_itself(tokenizer):
        begin = tokenizer.bos_token
        report.warn(
            f"transformers puts {begin} before a text, onnxruntime-genai does not, so nothing is trained or scored "
            "with it; where the model needs it, write it: at the start of text_template, and of every prompt"
        )


def _passages(config: DataConfig, params: Mapping[str, Any], tokenizer: Any, context: int) -> list[Question]:
    rows = pick_rows(config, lambda n_rows: evenly(range(n_rows), params["max_rows"]))
    n_most = min(PASSAGE_TOKENS, context - PASSAGE_NEW)
    return passages([str(row["text"]) for row in rows], tokenizer, max(2, n_most))


def _tell_other_tokens(rows: Sequence[Question], readings: Sequence[_Reading], report: Reporter) -> int:
    """How many prompts the runtime's own tokenizer reads otherwise than transformers' does; one of them is named."""
    pairs = [(row, reading.prompt) for row, reading in zip(rows, readings, strict=True) if reading.prompt is not None]
    other = [(row, prompt) for row, prompt in pairs if prompt != row.prompt]
    if other:
        row, prompt = other[0]
        at = next((i for i, both in enumerate(zip(prompt, row.prompt, strict=False)) if both[0] != both[1]), 0)
        report.warn(
            f"the tokenizer of onnxruntime-genai reads {len(other)} of {len(pairs)} prompts as other tokens than "
            f"transformers, e.g. {json.dumps(row.text, ensure_ascii=False)}: {list(prompt[at : at + 4])} in place of "
            f"{list(row.prompt[at : at + 4])} from token {at} on; the scores are those of its tokens"
        )
    padded = sum(prompt is not None and row.text != row.example.prompt for row, prompt in pairs)
    if padded and not other:
        report.warn(
            f"{padded} of {len(pairs)} prompts end in white space that belongs to the first token of the answer; leave "
            "it out of what the model is asked"
        )
    return len(other)


def _positions_kept(rows: Sequence[Question], n_vocabulary: int, n_bytes: int) -> list[list[int]]:
    """For each question, which target positions are kept for the next seam; evenly spread within the byte budget."""
    flat = [(row, position) for row, question in enumerate(rows) for position in range(len(question.target))]
    kept: list[list[int]] = [[] for _ in rows]
    for index in evenly(range(len(flat)), max(1, n_bytes // (2 * n_vocabulary))):
        row, position = flat[index]
        kept[row].append(position)
    return kept


def _ends(model: Model, tokenizer: Any) -> list[int]:
    """The tokens that end an answer, the same at every seam: those that an exported model stops at."""
    return end_tokens(tokenizer, _bottom(model).path)


def _bottom(model: Model) -> Model:
    """The model below all adapters."""
    while model.format == "adapter" and model.base is not None:
        model = model.base
    return model


def _ask(
    answers: Answers,
    rows: Sequence[Question],
    tokenizer: Any,
    end_tokens: Sequence[int],
    max_new_tokens: int,
    kept: Sequence[Sequence[int]],
    report: Reporter,
) -> list[_Reading]:
    """Every question answered, rows of like length together.

    kept: for each question the target positions whose log-probabilities stay in memory.
    """
    special = special_tokens(tokenizer)
    readings: dict[int, _Reading] = {}
    for batch in _batches(rows, len(tokenizer)):
        given = answers.answer([rows[index] for index in batch], max_new_tokens, end_tokens)
        for index, answer in zip(batch, given, strict=True):
            text = tokenizer.decode(answer.tokens, skip_special_tokens=True) if answer.text is None else answer.text
            said = bare(tokenizer.decode(answer.tokens), rows[index].example, special)
            reading = _read(answer.logits, rows[index].target, kept[index], text, said)
            readings[index] = replace(reading, prompt=answer.prompt)
        report.progress(len(readings), len(rows))
    return [readings[index] for index in range(len(rows))]


def _read(
    logits: "npt.NDArray[np.float32]", target: Sequence[int], kept: Sequence[int], text: str, answer: str
) -> _Reading:
    from olivine.kernels.divergence import log_softmax

    log_probabilities = log_softmax(logits)
    losses = -log_probabilities[np.arange(len(target)), list(target)].astype(np.float64)
    # A flat row is one where no token stands out: its best is within a tenth of a nat of uniform.
    flat = log_probabilities.max(axis=-1) < 0.1 - np.log(logits.shape[-1])
    return _Reading(
        token_losses=losses,
        kept=log_probabilities[list(kept)].astype(np.float16),
        text=text,
        answer=answer,
        is_flat=bool(flat.all()),
        is_nan=bool(np.isnan(logits).any()),
    )


def _batches(rows: Sequence[Question], n_vocabulary: int) -> Iterator[list[int]]:
    """Indices of rows of like length, few enough that the logits of all their tokens fit."""
    batch: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: rows[index].length):
        n_bytes = 4 * n_vocabulary * rows[index].length * (len(batch) + 1)
        if batch and (len(batch) == MAX_BATCH or n_bytes > LOGIT_BYTES):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _samples(rows: Sequence[Question], generated: Sequence[str]) -> list[dict[str, str]]:
    return [
        {"prompt": row.example.prompt, "expected": row.example.label, "generated": text}
        for row, text in list(zip(rows, generated, strict=True))[:N_SAMPLES]
    ]


def _answers(
    rows: Sequence[Question], readings: Sequence[_Reading], *, on_text: bool, metrics: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What is shown beside the answers of other models; of passages that are gone on with, none is right or wrong."""
    ignore_case = bool(metrics.get("label_accuracy", {}).get("ignore_case", True))
    return [
        {
            "prompt": shortened(row.example.prompt, from_end=True),
            "expected": shortened(row.example.label),
            "text": shortened(reading.text),
            "right": None if on_text else matches(row.example.label, reading.answer, ignore_case=ignore_case),
        }
        for row, reading in list(zip(rows, readings, strict=True))[:N_ANSWERS]
    ]

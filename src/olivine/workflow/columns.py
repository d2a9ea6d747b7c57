"""The table of the seams: which scores it shows, how they are written, and what it does not say of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from olivine.workflow.units import readable_bytes

# column of the table -> key of a score, and how it is written; perplexity only says once more what the loss does
COLUMNS = (
    ("accuracy", "label_accuracy", "{:.1%}"),
    ("change", "change", "{:+.1%}"),
    ("WER", "wer", "{:.1%}"),
    ("CER", "cer", "{:.1%}"),
    ("loss", "loss", "{:.3f}"),
    ("KL", "kl", "{:.4f}"),
    ("same top", "top1_agreement", "{:.1%}"),
    ("cosine", "cosine", "{:.4f}"),
    ("largest diff.", "largest_difference", "{:.3g}"),
    ("size", "size_bytes", "{}"),
)
WIDTH = 80  # of a terminal
_NOTE_ON_KL = (
    "KL: divergence from the model before, in nats a token: 0 after a merge, below 0.05 good after rounding to 4 bits, "
    "above 0.15 look at the answers."
)
_NOTE_ON_TOKENS = "Same top: how often both put the same token first."
_NOTE_ON_CLASSES = "Same top: how often both rank one class first."
# columns that a narrow terminal does without, the first one first: the report has them all
_SPARED = ("CER", "same top", "largest diff.", "change", "KL")
_NAME = 8  # letters of a model's name that a table has room for in any case


def note_on(rows: Iterable[Mapping[str, Any]], width: int = WIDTH) -> str:
    """What the columns mean that a table of several models has in that width; empty where all speak for themselves."""
    rows = list(with_parts(rows))
    titles = [title for title, _, _ in _columns(rows, width)[0]]
    outputs = [title for title in ("cosine", "largest diff.") if title in titles]
    told = []
    if "KL" in titles:
        told.append(_NOTE_ON_KL)
    if outputs:
        told.append(f"{', '.join(outputs).capitalize()}: of the outputs to those of the model before.")
    if "same top" in titles:
        told.append(_NOTE_ON_CLASSES if outputs else _NOTE_ON_TOKENS)
    return " ".join(told)


def cell(row: Mapping[str, Any], key: str, form: str) -> str:
    """A score as the table shows it; empty where there is none."""
    value = 0.0 - row["drop"] if key == "change" and row.get("drop") is not None else row.get(key)
    if value is None:
        return "none" if key in row.get("no_number", ()) else ""
    return readable_bytes(value) if key == "size_bytes" else form.format(value)


def with_parts(rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The rows of a table, each followed by those of the parts that its model has."""
    for row in rows:
        yield row
        for name, numbers in (row.get("parts") or {}).items():
            yield {"model": f"- {name}", **numbers}


def score_table(rows: Iterable[Mapping[str, Any]], width: int = WIDTH) -> list[str]:
    """The seams as lines of a Markdown table, at most `width` wide: it can be pasted into a README.

    A column without a number is left out, a name that is too long is cut, and a narrow table spares some columns.
    """
    rows = list(with_parts(rows))
    columns, room = _columns(rows, width)
    names = ["model", *(str(row["model"]) for row in rows)]
    cells = [[title for title, _, _ in columns], *([cell(row, *column[1:]) for column in columns] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(columns))]
    written = [
        f"| {' | '.join([_cut(name, room), *(text.rjust(w) for text, w in zip(line, widths, strict=True))])} |"
        for name, line in zip(names, cells, strict=True)
    ]
    rule = f"|{'-' * (room + 2)}|{''.join('-' * (width + 1) + ':|' for width in widths)}"
    return [written[0], rule, *written[1:]]


def _columns(rows: Sequence[Mapping[str, Any]], width: int) -> tuple[list[tuple[str, str, str]], int]:
    """The columns that fit the width, of those with a number, and what they leave to the names."""
    columns = [column for column in COLUMNS if any(cell(row, *column[1:]) for row in rows)]
    longest = max(len(name) for name in ("model", *(str(row["model"]) for row in rows)))
    room = 0
    for spared in ("", *_SPARED):
        columns = [column for column in columns if column[0] != spared]
        widths = [max(len(title), *(len(cell(row, key, form)) for row in rows)) for title, key, form in columns]
        room = width - 4 - sum(one + 3 for one in widths)
        if room >= min(longest, _NAME):
            break
    return columns, max(1, min(longest, room))


def _cut(name: str, room: int) -> str:
    return name.ljust(room) if len(name) <= room else f"{name[: room - 1]}…"


def table_notes(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the table does not say of the models and the rows that were scored, one line each."""
    rows = list(rows)
    return [*_chance(rows), *_of_plugins(rows), *_told(rows)]


def _of_plugins(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The numbers of metrics that the table has no column for, a line each."""
    numbers: dict[str, list[str]] = {}
    for row in rows:
        for name in row.get("of_plugins", ()):
            value = row.get(name)
            numbers.setdefault(name, []).append(f"{row['model']} {'none' if value is None else f'{value:.4g}'}")
    return [f"{name}: {', '.join(values)}" for name, values in numbers.items()]


def none_right(rows: Sequence[Mapping[str, Any]]) -> str:
    """That accuracy says nothing of these models, since no row is answered right by any; empty where one is."""
    shares = [row["label_accuracy"] for row in rows if row.get("label_accuracy") is not None]
    if not shares or any(shares):
        return ""
    instead = "the loss" if any(row.get("loss") is not None for row in rows) else "the other numbers"
    return f"no row is answered right, so that it cannot tell what a step costs; look at {instead} and the answers"


def _chance(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How much of an accuracy may be chance: the largest standard error of the table, so that one line serves all."""
    known = [(row["label_accuracy_standard_error"], row["n_rows"]) for row in rows if _has_error(row)]
    if not known:
        return []
    error, n_rows = max(known)
    if told := none_right(rows):
        return [f"Accuracy: {told}."]
    return [f"Accuracy: ± {100 * error:.1f} points ({n_rows} rows), one standard error."]


def _has_error(row: Mapping[str, Any]) -> bool:
    return row.get("label_accuracy_standard_error") is not None


def _told(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    told = (
        ("n_left_out", "{} rows are longer than the model reads, and left out"),
        ("n_empty", "{} answers are empty"),
        ("token_ids_only", "asked in token ids: onnxruntime-genai reads no tokenizer of it"),
        ("n_other_tokens", "{} prompts have other tokens in onnxruntime-genai"),
    )
    return [f"{row['model']}: {text.format(row[key])}" for row in rows for key, text in told if row.get(key)]

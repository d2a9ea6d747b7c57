"""What training would see of a data set: samples, lengths, what is cut, what is doubled. JSON values throughout."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from olivine import lazy
from olivine.data._answers import doubled_sentence
from olivine.data._prepare import Prepared
from olivine.data._samples import SampleSet

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]
else:
    np = lazy.module("numpy")

N_SAMPLES = 3
N_PLACES = 5  # pairs of places that are named
N_LOOKED_AT = 2000  # rows whose begin and end are looked at, spread evenly
N_BARS = 10


def examine(prepared: Prepared, rows: Sequence[int] | None = None, n_samples: int = N_SAMPLES) -> dict[str, Any]:
    """Numbers and samples of some rows, all by default.

    problem: why training would refuse them, or None. warnings: sentences on what would hardly be meant. samples: as
    many as asked for, spread evenly, as pieces of text that are trained on or not. Raises DataError when no row has a
    text.
    """
    chosen = np.arange(len(prepared)) if rows is None else np.asarray(rows, np.int64)
    found, problem = prepared.samples_with_fault(chosen)
    numbers = found.statistics
    lengths = prepared.store.lengths(chosen)
    full = chosen[lengths > 0]
    result = {
        **numbers.to_json(),
        "share_truncated": (numbers.n_truncated + numbers.n_lost) / max(1, numbers.n_samples + numbers.n_lost),
        "share_trained": numbers.n_trained_tokens / max(1, numbers.n_tokens),
        "row_lengths": _lengths(lengths[lengths > 0]),
        "sample_lengths": _lengths(found.lengths) if len(found) else None,
        "begin": _begin(prepared, _spread(full, N_LOOKED_AT)),
        "end": _end(prepared, _spread(full, N_LOOKED_AT), found.cut_rows()),
        "duplicates": _duplicates(prepared, full),
        "samples": [_sample(found, prepared, index) for index in _spread(np.arange(len(found)), n_samples).tolist()],
        "problem": problem,
    }
    return result | {"warnings": list(_warnings(result))}


def shared_rows(train: Prepared, rows: Sequence[int] | None, other: Prepared, held_out: Sequence[int] | None) -> Any:
    """How many of the held-out rows have the text of a row that is trained on, and where the first of them stand."""
    left, right = _texts(train, rows), _texts(other, held_out)
    common = np.intersect1d(left[0], right[0])
    is_shared = np.isin(right[0], common)
    places = []
    for index in np.flatnonzero(is_shared)[:N_PLACES].tolist():
        twin = int(np.flatnonzero(left[0] == right[0][index])[0])
        places.append([train.where(int(left[1][twin])), other.where(int(right[1][index]))])
    return {"n": int(is_shared.sum()), "places": places}


def _texts(prepared: Prepared, rows: Sequence[int] | None) -> "tuple[npt.NDArray[np.uint64], Integers]":
    """Hashes of the texts that are not blank, and their rows."""
    chosen = np.arange(len(prepared)) if rows is None else np.asarray(rows, np.int64)
    full = chosen[prepared.store.lengths(chosen) > 0]
    return prepared.store.texts[full], full


def _spread(values: "Integers", n_most: int) -> "Integers":
    """At most `n_most` of the values, spread evenly."""
    if len(values) <= n_most:
        return values
    if not n_most:
        return values[:0]
    return values[np.arange(n_most) * len(values) // n_most]


def _lengths(lengths: "Integers") -> dict[str, Any]:
    top = int(lengths.max(initial=1))
    step = _round_step(top / N_BARS)
    counts = np.bincount((lengths - 1) // step, minlength=1)
    bars = [{"from": i * step + 1, "to": (i + 1) * step, "n": int(count)} for i, count in enumerate(counts)]
    middle, most = (int(np.quantile(lengths, share, method="higher")) for share in (0.5, 0.95))
    return {"shortest": int(lengths.min()), "median": middle, "p95": most, "longest": top, "histogram": bars}


def _round_step(least: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    scale = 1
    while True:
        for factor in (1, 2, 5):
            if factor * scale >= least:
                return factor * scale
        scale *= 10


def _begin(prepared: Prepared, rows: "Integers") -> dict[str, Any]:
    """The begin token that is put before rows, and the share of rows that have it exactly once, at their start."""
    token = prepared.encoder.begin
    if token is None:
        return {"token": None, "share_once": 0.0}
    is_end = token == prepared.tokenizer.eos_token_id  # some models have one token for both
    n_once = 0
    for row in rows.tolist():
        ids = _ids(prepared, row)
        n_once += int(ids[0] == token and (ids[1:2] != token).all() and (is_end or int((ids == token).sum()) == 1))
    return {"token": prepared.tokenizer.bos_token, "share_once": n_once / max(1, len(rows))}


def _end(prepared: Prepared, rows: "Integers", cut: set[int]) -> dict[str, Any]:
    """The end token, and the share of rows whose last trained token ends a text or a turn: before and after the cut."""
    tokenizer, store = prepared.tokenizer, prepared.store
    ends = {tokenizer.eos_token_id, *tokenizer.all_special_ids} - {tokenizer.bos_token_id, None}
    ends |= {tokenizer.eos_token_id} - {None}
    ends |= {number for number, token in tokenizer.added_tokens_decoder.items() if token.special} - {
        tokenizer.bos_token_id
    }
    everything = prepared.config.pre_process_data_config.train_on == "all"
    n_ended, n_trained = 0, 0
    for row in rows.tolist():
        ids = _ids(prepared, row)
        stop = int(store.stops[row])
        if everything or store.trained is None:
            marks = np.ones(len(ids), bool)
        else:
            marks = np.asarray(store.trained[stop - len(ids) : stop]) > 0
        last = np.flatnonzero(marks)[-1:]
        has_end = len(last) > 0 and int(ids[last[0]]) in ends
        n_ended += has_end
        n_trained += has_end and row not in cut
    n_rows = max(1, len(rows))
    return {"token": tokenizer.eos_token, "share_ended": n_ended / n_rows, "share_trained": n_trained / n_rows}


def _ids(prepared: Prepared, row: int) -> Any:
    start = int(prepared.store.stops[row - 1]) if row else 0
    return np.asarray(prepared.store.ids[start : int(prepared.store.stops[row])])


def _duplicates(prepared: Prepared, rows: "Integers") -> dict[str, Any]:
    """Rows with the text of an earlier one, and where the first of them stand."""
    texts = prepared.store.texts[rows]
    _, first, back = np.unique(texts, return_index=True, return_inverse=True)
    earliest = first[back]
    again = np.flatnonzero(earliest != np.arange(len(rows)))
    places = [
        [prepared.where(int(rows[earliest[index]])), prepared.where(int(rows[index]))]
        for index in again[:N_PLACES].tolist()
    ]
    return {"n": len(again), "places": places}


def _sample(found: SampleSet, prepared: Prepared, index: int) -> dict[str, Any]:
    ids, labels = found.arrays(index)
    row = found.row(index)
    pieces = [
        {"text": prepared.tokenizer.decode(ids[start:stop].tolist()), "trained": bool(labels[start] >= 0)}
        for start, stop in _runs(labels >= 0)
    ]
    return {"where": prepared.where(row) if row is not None else None, "n_tokens": len(ids), "pieces": pieces}


def _runs(flags: "npt.NDArray[np.bool_]") -> Iterable[tuple[int, int]]:
    """Where stretches of equal flags begin and end."""
    borders = [0, *(np.flatnonzero(flags[1:] != flags[:-1]) + 1).tolist(), len(flags)]
    return pairwise(borders)


def _warnings(result: dict[str, Any]) -> Iterable[str]:
    n_rows = result["n_rows"]
    begin, end = result["begin"], result["end"]
    if begin["token"] is not None and begin["share_once"] < 1:
        yield f"{1 - begin['share_once']:.0%} of the rows do not begin with {begin['token']} exactly once"
    if end["share_ended"] < 1:
        yield (
            f"{1 - end['share_ended']:.0%} of the rows do not end in a trained end token: the model learns to go on "
            "there instead of to stop"
        )
    if result["n_truncated"]:
        yield f"{result['n_truncated']:,} samples are cut, and with their end token lose where to stop"
    if (sentence := doubled_sentence(result["duplicates"]["n"], n_rows)) is not None:
        yield sentence
    if result["n_empty_rows"]:
        yield f"{result['n_empty_rows']:,} rows have no text"

"""Windows of token ids that both models read: of the user's text, or sampled from the reference itself."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from olivine.config.schema import DataConfig, PreProcess
from olivine.data import Encoder, answered, check, read_rows, resolved, template_of, texts
from olivine.errors import DataError, Unsupported
from olivine.evaluate.parity._file import TextFile
from olivine.models import Model
from olivine.models.loading import load_tokenizer
from olivine.runtimes.process import RuntimeProcess

Windows = list[list[int]]
_SHORTEST = 2  # tokens of a window: one to read and one to predict


def read_windows(source: Path | TextFile | DataConfig, tokenizer: Any, n_tokens: int, length: int) -> Windows:
    """At most `n_tokens` ids in windows of at most `length`, from a file or a data config.

    A text file (.txt, .md) is one text, cut into windows; of rows (JSON, JSONL, CSV, Parquet; their form is told by
    their columns) and of a config's data, each is a text of its own. A text begins as the tokenizer begins one, a chat
    as its template says.
    Raises DataError with the place when there is nothing to read.
    """
    file = TextFile(source) if isinstance(source, Path) else source
    place = f"data config '{file.name}'" if isinstance(file, DataConfig) else str(file.path)
    if isinstance(file, TextFile):
        file.check()
    if isinstance(file, TextFile) and file.is_one_text:
        pieces, settings = [file.whole()], PreProcess()
    else:
        config = file.config() if isinstance(file, TextFile) else file
        for problem in check(config):
            raise DataError(str(problem))
        pieces = texts(config, answered(config, read_rows(config), tokenizer), tokenizer)
        settings = resolved(config, template=template_of(tokenizer)).pre_process_data_config
    windows = list(_cut(pieces, Encoder.of(tokenizer, settings), n_tokens, length))
    if not windows:
        raise DataError(f"{place}: no text of at least {_SHORTEST} tokens to compare the models on")
    return windows


def _cut(pieces: Sequence[str], encoder: Encoder, n_tokens: int, length: int) -> Iterator[list[int]]:
    """The texts in windows until the tokens are enough."""
    left = n_tokens
    for encoded in encoder.encode([text for text in pieces if text.strip()]):
        ids = encoded.ids.tolist()
        for start in range(0, len(ids), length):
            window = ids[start : start + min(length, left)]
            if len(window) >= _SHORTEST:
                yield window
                left -= len(window)
            if left < _SHORTEST:
                return


def sample_windows(
    process: RuntimeProcess,
    tokenizer: Any,
    n_tokens: int,
    length: int,
    seed: int,
    n_vocabulary: int,
    report: Any = None,
) -> Windows:
    """Text that the reference writes itself: windows of `length` ids, sampled at temperature 1, the same for a seed.

    It needs no data, and it is what the model will be near in use. Each window begins with the begin token (the end
    token where there is none); after an end token that is drawn, another text begins.
    """
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if begin is None:
        raise Unsupported(
            "the tokenizer has neither a begin nor an end token to start a text with; name one with --data"
        )
    n_windows = max(1, n_tokens // length)
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    return process.sample(n_windows, length, seed, int(begin), end, n_vocabulary, report)


def same_vocabulary(reference: Model, candidate: Model) -> tuple[Any, str | None]:
    """The reference's tokenizer, after a look at both; a note when one has added tokens that the other has not.

    Raises Unsupported, with an example, when an id means different tokens: probabilities could not be compared.
    """
    ours, theirs = load_tokenizer(reference), load_tokenizer(candidate)
    by_id, by_other_id = ({token_id: token for token, token_id in one.get_vocab().items()} for one in (ours, theirs))
    added = {*ours.get_added_vocab().values(), *theirs.get_added_vocab().values()}
    differing = sorted(
        token_id
        for token_id in by_id.keys() | by_other_id.keys()
        if by_id.get(token_id) != by_other_id.get(token_id)
        and not (token_id in added and (token_id not in by_id or token_id not in by_other_id))
    )
    if differing:
        first = differing[0]
        raise Unsupported(
            f"the models do not share a vocabulary, so their probabilities cannot be compared: {len(differing)} of "
            f"{len(by_id.keys() | by_other_id.keys())} ids differ, e.g. {first} is {json.dumps(by_id.get(first))} in "
            f"'{reference.path}' and {json.dumps(by_other_id.get(first))} in '{candidate.path}'"
        )
    extra = len(by_id.keys() ^ by_other_id.keys())
    return ours, f"{extra} added tokens are known to one of the tokenizers only" if extra else None

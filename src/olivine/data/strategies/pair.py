"""`pair`: a prompt and a target a row; only the target is trained on."""

from collections.abc import Iterator, Sequence

from olivine.config.schema import PreProcess
from olivine.data._encoder import Encoder
from olivine.data.strategies._block import Block, longest


def blocks(texts: Sequence[str], settings: PreProcess, encoder: Encoder) -> Iterator[Block]:
    """One block for each text, in order.

    `source_max_len` and `target_max_len` cut the end of the prompt and of the target; without them, `max_seq_len` cuts
    the end of the whole. With `ignore_source_in_labels: false` the prompt is trained on too.
    """
    n_source = settings.source_max_len or settings.max_seq_len
    n_target = settings.target_max_len or settings.max_seq_len
    limit = longest(settings)
    for tokens in encoder.encode(texts):
        prompt, target = tokens.ids[: tokens.n_prompt][:n_source], tokens.ids[tokens.n_prompt :][:n_target]
        ids = (prompt + target)[:limit]
        n_masked = min(len(prompt), len(ids)) if settings.ignore_source_in_labels else 0
        yield Block(ids, n_masked, is_truncated=len(ids) < len(tokens.ids))

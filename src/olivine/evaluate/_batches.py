"""How large a batch of rows is that a model answers at once; a plan asks for it too."""

MAX_BATCH = 16  # rows answered at once
LOGIT_BYTES = 512 * 2**20  # of the logits of a batch
PASSAGE_TOKENS = 128  # of a passage that are read


def batch_bytes(n_vocabulary: int, n_rows: int) -> int:
    """Logits in float32 of the rows that are answered at once, of which each is as long as a passage."""
    return min(LOGIT_BYTES, 4 * n_vocabulary * min(n_rows, MAX_BATCH) * PASSAGE_TOKENS)

"""Sizes that kernels keep to and a plan counts with; apart, so that planning needs no torch.

How much of a head's output exists at a time while its loss is computed, and the highest rank of LoRA in fused layers.
"""

# Logits of one chunk, counted in float32: a smaller chunk repeats reading the head, a larger one gains no speed. Where
# one kernel works on the chunk ("kernel"), its logits lie there once in 16 bits, and a longer product is a faster one.
CHUNK_BYTES = {"kernel": 1024 * 2**20, "cuda": 256 * 2**20, "cpu": 64 * 2**20}
# What a CPU works on at a time of a chunk, in float32 (SmolLM2's head, two cores: 1 MB takes 7 % longer, 4 MB no less).
PART_BYTES = 2 * 2**20
HIGHEST_FUSED_RANK = 64  # of the small product within a kernel


def chunk_rows(n_vocabulary: int, device: str) -> int:
    """Positions whose float32 logits fill one chunk; a multiple of 128, and no less. device: a key of CHUNK_BYTES.

    A plan may not know the vocabulary (a GGUF file need not say it): n_vocabulary is 0 then.
    """
    return max(128, CHUNK_BYTES.get(device, CHUNK_BYTES["cpu"]) // (4 * max(1, n_vocabulary)) // 128 * 128)

"""Sizes that decide what calibrating takes: a plan counts with them before anything is read."""

GROUPS_4, GROUPS_8 = (16, 32, 64, 128), (32, 128)  # weights that share a scale, in 4 and in 8 bits
SCALE_BYTES = 2
# Tokens in one forward pass: enough to fill the matrix units, few enough that attention and the MLP stay small.
BATCH_TOKENS = {"cpu": 2048, "cuda": 8192}
# From this many weights on, products dominate and bfloat16 pays where the processor has it.
BF16_FROM = 1_000_000_000

"""What calibrates and the sizes that decide what it takes: a plan counts with them before anything is read."""

from pathlib import Path
from typing import Final, Literal

# What to calibrate with where no data is: pages that come with olivine, text that the model writes, or a file.
Text = Literal["general", "own"] | Path
GENERAL: Final = "general"
OWN: Final = "own"

N_TOKENS = 8192
# Products of a weight and a token that pass through a model on two cores in a minute or two.
N_PRODUCTS = 16e12
# Below this, most inputs of a wide layer were hardly ever seen, and their importance is noise.
FEWEST = 512
GROUPS_4, GROUPS_8 = (16, 32, 64, 128), (32, 128)  # weights that share a scale, in 4 and in 8 bits
SCALE_BYTES = 2
# Tokens in one forward pass: enough to fill the matrix units, few enough that attention and the MLP stay small.
BATCH_TOKENS = {"cpu": 2048, "cuda": 8192}
# From this many weights on, products dominate and bfloat16 pays where the processor has it.
BF16_FROM = 1_000_000_000


def tokens_for(n_parameters: int) -> int:
    """How many tokens to calibrate a model of that size with: all of 8,192 up to two billion weights, then fewer.

    The size alone decides: the same model gives the same codes on any machine.
    """
    steps = int(N_PRODUCTS / max(1, n_parameters) / FEWEST)
    return min(N_TOKENS, max(FEWEST, steps * FEWEST))


def in_words(text: Text) -> str:
    """Whose text that is, as it is told to the user."""
    return {GENERAL: "general text", OWN: "text that the model wrote"}.get(str(text), str(text))

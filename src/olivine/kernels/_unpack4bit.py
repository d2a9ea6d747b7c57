"""The inner loops that turn 4-bit floats (nf4, fp4) into weights.

A weight is table[code] * magnitude, with one magnitude a block of `models.nf4.BLOCK` weights. Each loop takes whole
blocks and writes into an array that the caller made. A block has its 16 values worked out once and looks them up, so
that nothing is multiplied or rounded per weight.
"""

import numpy as np
import numpy.typing as npt

from olivine.kernels._compiled import exact

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]


@exact
def to_float32(codes: Codes, magnitudes: Floats, table: Floats, values: Floats) -> None:
    """Write values [n_blocks * block], float32.

    codes: [n_blocks * block / 2], two a byte, the first in the low half. magnitudes: [n_blocks]. table: [16].
    """
    n_bytes = len(codes) // len(magnitudes)
    of_code = np.empty(16, np.float32)
    for block in range(len(magnitudes)):
        for code in range(16):
            of_code[code] = table[code] * magnitudes[block]
        pairs = codes[block * n_bytes : (block + 1) * n_bytes]
        of_block = values[2 * block * n_bytes : 2 * (block + 1) * n_bytes]
        for k in range(n_bytes):
            of_block[2 * k] = of_code[pairs[k] & 15]
            of_block[2 * k + 1] = of_code[pairs[k] >> 4]


@exact
def to_bfloat16(codes: Codes, magnitudes: Floats, table: Floats, values: npt.NDArray[np.uint16]) -> None:
    """Write the same weights as the bits of bfloat16: the upper half of a float32, rounded, ties to even."""
    n_bytes = len(codes) // len(magnitudes)
    exact_values = np.empty(16, np.float32)
    bits = exact_values.view(np.uint32)
    of_code = np.empty(16, np.uint16)
    for block in range(len(magnitudes)):
        for code in range(16):
            exact_values[code] = table[code] * magnitudes[block]
        for code in range(16):
            # Half of the last kept bit less one carries every value above the tie upwards; one more, where that bit is
            # odd, carries the tie itself to the even neighbour.
            odd = (bits[code] >> np.uint32(16)) & np.uint32(1)
            nearest = (bits[code] + np.uint32(0x7FFF) + odd) >> np.uint32(16)
            # a NaN's bits would carry over into the sign
            of_code[code] = np.uint16(0x7FC0 if np.isnan(exact_values[code]) else nearest)
        pairs = codes[block * n_bytes : (block + 1) * n_bytes]
        of_block = values[2 * block * n_bytes : 2 * (block + 1) * n_bytes]
        for k in range(n_bytes):
            of_block[2 * k] = of_code[pairs[k] & 15]
            of_block[2 * k + 1] = of_code[pairs[k] >> 4]

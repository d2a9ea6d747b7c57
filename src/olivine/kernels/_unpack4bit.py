"""The inner loops that turn 4-bit floats into weights, compiled by numba on first use and kept in its cache.

Each takes whole blocks and writes into an array that the caller made, without the interpreter's lock. A block has its
16 values worked out once and looks them up, so that nothing is multiplied or rounded per weight.
"""

import numpy as np

from olivine.kernels._blocks import _exact


@_exact
def to_float32(codes, magnitudes, table, values):  # type: ignore[no-untyped-def]
    """Values [n * block] of codes [n * block / 2] (the first in the low half), magnitudes [n] and a table [16]."""
    n_bytes = len(codes) // len(magnitudes)
    of_block = np.empty(16, np.float32)
    for block in range(len(magnitudes)):
        for code in range(16):
            of_block[code] = table[code] * magnitudes[block]
        pairs = codes[block * n_bytes : (block + 1) * n_bytes]
        found = values[2 * block * n_bytes : 2 * (block + 1) * n_bytes]
        for k in range(n_bytes):
            found[2 * k] = of_block[pairs[k] & 15]
            found[2 * k + 1] = of_block[pairs[k] >> 4]


@_exact
def to_bfloat16(codes, magnitudes, table, values):  # type: ignore[no-untyped-def]
    """The same as the bits of bfloat16 in uint16: the upper half of a float32, rounded to the nearest, ties to even."""
    n_bytes = len(codes) // len(magnitudes)
    exact = np.empty(16, np.float32)
    bits = exact.view(np.uint32)
    of_block = np.empty(16, np.uint16)
    for block in range(len(magnitudes)):
        for code in range(16):
            exact[code] = table[code] * magnitudes[block]
        for code in range(16):
            odd = (bits[code] >> np.uint32(16)) & np.uint32(1)
            nearest = (bits[code] + np.uint32(0x7FFF) + odd) >> np.uint32(16)
            # a NaN's bits would carry over into the sign
            of_block[code] = np.uint16(0x7FC0 if np.isnan(exact[code]) else nearest)
        pairs = codes[block * n_bytes : (block + 1) * n_bytes]
        found = values[2 * block * n_bytes : 2 * (block + 1) * n_bytes]
        for k in range(n_bytes):
            found[2 * k] = of_block[pairs[k] & 15]
            found[2 * k + 1] = of_block[pairs[k] >> 4]

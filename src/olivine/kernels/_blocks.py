"""The inner loops of block-wise quantization, compiled by numba on first use and kept in its cache.

Every function works on whole rows of a float32 matrix [n, K] and writes into arrays that the caller made; they release
the interpreter's lock, so that tiles of rows run on all cores. K is a multiple of `group`.
Blocks are sliced before they are walked through: an index that starts anywhere is checked for being negative each time,
and such a loop stays scalar.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np


def _jit(*fastmath: str, inlined: bool = False) -> Callable[[Any], Any]:
    options: dict[str, Any] = {"nogil": True, "forceinline": inlined, "fastmath": set(fastmath), "error_model": "numpy"}

    def decorate(function: Any) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # neither beside this file nor in the user's folder is a place for the cache
            return numba.njit(**options)(function)

    return decorate


# Parts of a kernel are inlined: a call would count the references of its arrays, which takes longer than the part.
_FAST = ("nnan", "nsz", "contract", "arcp", "reassoc")
_compiled, _part = _jit(*_FAST), _jit(*_FAST, inlined=True)
# products and sums rounded one by one: the bytes must be those of ONNX Runtime's own quantizer
_exact, _exact_part = _jit(), _jit(inlined=True)
# minima and maxima are the same in any order, as long as no NaN is among them
_any_order_part = _jit("nnan", "nsz", inlined=True)

# candidates that are tried at once: as many as fit in a register
LANES = 16
# less than the sum of any candidate that has a code but zero: importances are at least 1e-4
TINY = np.float32(1e-20)
_LANES = np.arange(LANES)
# What of a block's range each candidate of the first round spans; symmetric: with either sign of the scale.
_FIRST = (0.5 + 0.0375 * _LANES).astype(np.float32)
_FIRST_SYMMETRIC = ((0.62 + 0.06 * (_LANES // 2)) * np.where(_LANES % 2, 1, -1)).astype(np.float32)
# The second round, around the best of the first: a factor and a summand of its range, and a step of its zero point.
_ONES, _ZEROS = np.ones(LANES, np.float32), np.zeros(LANES, np.float32)
_FACTORS_SYMMETRIC = (1 + 0.008 * (_LANES - 8)).astype(np.float32)
_SUMMANDS = (0.0125 * (_LANES // 3 - 2)).astype(np.float32)
_STEPS = (_LANES % 3 - 1).astype(np.float32)


@_exact
def round_to_nearest(weight, group, bits, symmetric, codes, scales, zeros):  # type: ignore[no-untyped-def]
    """Codes of each block's range: symmetric, largest magnitude / -2**(bits-1); else (max - min) / (2**bits - 1)."""
    n_rows, width = weight.shape
    highest = np.float32((1 << bits) - 1)
    middle = np.float32(1 << (bits - 1))
    for row in range(n_rows):
        for block in range(width // group):
            first = block * group
            values = weight[row, first : first + group]
            low, high = _range(values)
            zero = middle
            if symmetric:
                scale = (high if high > -low else low) / -middle
            else:
                scale = (high - low) / highest
                if scale != np.float32(0.0):
                    zero = min(max(_half_away(-low / scale), np.float32(0.0)), highest)
                else:
                    zero = np.float32(0.0)
            inverse = np.float32(1.0) / scale if scale != np.float32(0.0) else np.float32(0.0)
            found = codes[row, first : first + group]
            for k in range(len(values)):
                # the zero point is added before the rounding, so that halves go up on either side of it
                value = np.floor(values[k] * inverse + zero + np.float32(0.5))
                found[k] = np.uint8(np.int32(min(max(value, np.float32(0.0)), highest)))
            scales[row, block] = scale
            zeros[row, block] = np.uint8(zero)


@_exact_part
def _range(values):  # type: ignore[no-untyped-def]
    """The least and the largest value, and zero; a zero has no sign, which would reach the scale of an empty block."""
    low, high = _extremes(values)
    return low + np.float32(0.0), high + np.float32(0.0)


@_any_order_part
def _extremes(values):  # type: ignore[no-untyped-def]
    low = np.float32(0.0)
    high = np.float32(0.0)
    for value in values:
        low = min(low, value)
        high = max(high, value)
    return low, high


@_exact_part
def _half_away(value):  # type: ignore[no-untyped-def]
    """C's roundf."""
    return np.floor(abs(value) + np.float32(0.5)) * (np.float32(-1.0) if value < np.float32(0.0) else np.float32(1.0))


@_part
def _nearest(value, inverse, low, high):  # type: ignore[no-untyped-def]
    """The code of a value, counted from the zero point."""
    return min(max(np.floor(value * inverse + np.float32(0.5)), low), high)


@_part
def _fit(values, shares, inverse, low, high, cross, square):  # type: ignore[no-untyped-def]
    """For every candidate (a lane of the arrays): sums of importance * weight * code and importance * code**2.

    Codes are counted from the zero point, between `low` and `high`. Candidates are the inner loop: they are
    independent, so that it runs in vector registers without a reduction; four weights at a time, so that the sums are
    loaded and stored a quarter as often.
    """
    for lane in range(LANES):
        cross[lane] = np.float32(0.0)
        square[lane] = np.float32(0.0)
    for k in range(0, len(values), 4):
        value0, value1, value2, value3 = values[k], values[k + 1], values[k + 2], values[k + 3]
        share0, share1, share2, share3 = shares[k], shares[k + 1], shares[k + 2], shares[k + 3]
        part0, part1, part2, part3 = share0 * value0, share1 * value1, share2 * value2, share3 * value3
        for lane in range(LANES):
            turned, least, most = inverse[lane], low[lane], high[lane]
            code0 = _nearest(value0, turned, least, most)
            code1 = _nearest(value1, turned, least, most)
            code2 = _nearest(value2, turned, least, most)
            code3 = _nearest(value3, turned, least, most)
            cross[lane] += part0 * code0 + part1 * code1 + part2 * code2 + part3 * code3
            square[lane] += (
                share0 * code0 * code0 + share1 * code1 * code1 + share2 * code2 * code2 + share3 * code3 * code3
            )


@_part
def _refined(values, shares, scale, low, high):  # type: ignore[no-untyped-def]
    """The weighted least-squares scale of the codes that `scale` gives; twice, as each may change the other."""
    for _ in range(2):
        inverse = np.float32(1.0) / scale
        cross = np.float32(0.0)
        square = np.float32(0.0)
        for k in range(len(values)):
            code = _nearest(values[k], inverse, low, high)
            part = shares[k] * code
            cross += part * values[k]
            square += part * code
        if square > np.float32(0.0) and cross != np.float32(0.0):
            scale = cross / square
    return scale


@_part
def _place(reach, around, factors, summands, near, steps, highest, inverse, low, high):  # type: ignore[no-untyped-def]
    """Make every lane the candidate of a range `around` * factor + summand times the block's, a step from `near`.

    reach: codes that the whole range of the block spans, a unit of weight.
    """
    for lane in range(len(inverse)):
        inverse[lane] = reach / (around * factors[lane] + summands[lane])
        zero = min(max(near + steps[lane], np.float32(0.0)), highest)
        low[lane] = -zero
        high[lane] = highest - zero


@_part
def _winner(symmetric, cross, square, gain):  # type: ignore[no-untyped-def]
    """The candidate whose codes, at their best scale, leave the least error; -1 when none has a code but zero."""
    least = np.float32(-np.inf) if symmetric else np.float32(0.0)  # of the scale
    best = np.float32(0.0)
    for lane in range(len(gain)):
        product = max(cross[lane], least)
        gain[lane] = product * product / max(square[lane], TINY)
        best = max(best, gain[lane])
    if best > np.float32(0.0):
        for lane in range(len(cross)):
            if gain[lane] == best:
                return lane
    return -1


@_compiled
def search(weight, importance, group, bits, symmetric, codes, scales, zeros):  # type: ignore[no-untyped-def]
    """Scale and integer zero point of each block with the least importance-weighted squared error.

    Candidates are shrunken ranges of the block: first 16 between 0.5 and 1.06 with the zero point of the range
    (symmetric: 8 with either sign of the scale, as the side of the negative codes has one more); then 16 near the best
    of them, with three zero points. The best scale of a candidate's codes is the weighted least-squares one, and its
    error follows from two sums; the winner's codes are rounded anew with its scale.
    """
    n_rows, width = weight.shape
    highest = np.float32((1 << bits) - 1)
    middle = np.float32(1 << (bits - 1))
    one = np.float32(1.0)
    inverse = np.empty(LANES, np.float32)
    low = np.empty(LANES, np.float32)
    high = np.empty(LANES, np.float32)
    cross = np.empty(LANES, np.float32)
    square = np.empty(LANES, np.float32)
    gain = np.empty(LANES, np.float32)
    ranges, factors, summands, steps = _FIRST, _ONES, _SUMMANDS, _STEPS
    if symmetric:
        ranges, factors, summands, steps = _FIRST_SYMMETRIC, _FACTORS_SYMMETRIC, _ZEROS, _ZEROS
    for row in range(n_rows):
        for block in range(width // group):
            first = block * group
            values = weight[row, first : first + group]
            shares = importance[first : first + group]
            smallest, largest = _range(values)
            span = max(-smallest, largest) if symmetric else largest - smallest
            scale = np.float32(0.0)
            zero = middle
            if span > np.float32(0.0):
                reach = (middle if symmetric else highest) / span
                near = middle if symmetric else np.floor(-smallest * reach + np.float32(0.5))
                _place(reach, one, ranges, _ZEROS, near, _ZEROS, highest, inverse, low, high)
                _fit(values, shares, inverse, low, high, cross, square)
                winner = _winner(symmetric, cross, square, gain)
                if winner >= 0:
                    scale = cross[winner] / square[winner]
                    zero = -low[winner]
                    _place(reach, ranges[winner], factors, summands, zero, steps, highest, inverse, low, high)
                    _fit(values, shares, inverse, low, high, cross, square)
                    winner = _winner(symmetric, cross, square, gain)
                    zero = -low[winner]
                    scale = _refined(values, shares, cross[winner] / square[winner], low[winner], high[winner])
            scales[row, block] = scale
            zeros[row, block] = np.uint8(zero)
    round_codes(weight, group, bits, scales, zeros, codes)


@_compiled
def round_codes(weight, group, bits, scales, zeros, codes):  # type: ignore[no-untyped-def]
    """The nearest codes for scales and zero points that are given."""
    n_rows, width = weight.shape
    highest = np.float32((1 << bits) - 1)
    for row in range(n_rows):
        for block in range(width // group):
            scale = scales[row, block]
            zero = np.float32(zeros[row, block])
            turned = np.float32(1.0) / scale if scale != np.float32(0.0) else np.float32(0.0)
            first = block * group
            values = weight[row, first : first + group]
            found = codes[row, first : first + group]
            for k in range(len(values)):
                code = np.floor(values[k] * turned + np.float32(0.5)) + zero
                found[k] = np.uint8(np.int32(min(max(code, np.float32(0.0)), highest)))


@_compiled
def pack_nibbles(codes, packed):  # type: ignore[no-untyped-def]
    """Two 4-bit codes a byte, the first in the low half; codes uint8 [n, K] -> packed uint8 [n, ceil(K / 2)]."""
    n_rows, width = codes.shape
    for row in range(n_rows):
        for k in range(width // 2):
            packed[row, k] = codes[row, 2 * k] | (codes[row, 2 * k + 1] << 4)
        if width % 2:
            packed[row, width // 2] = codes[row, width - 1]


@_exact
def sweep_columns(upper, groups, highest, columns, scale, shift, codes, errors):  # type: ignore[no-untyped-def]
    """GPTQ's loop over some columns: round each, and let the later ones of them make up for its error.

    upper: float32 [B, B], the rows and columns of the inverse's factor that belong to them. groups: int64 [B], the row
    of each one's scales. columns: float32 [B, n], a column of the weight a row, changed in place. scale, shift: float32
    [groups, n]. codes: uint8 [B, n]. errors: float32 [B, n], each over its pivot, for the columns behind these.
    """
    n_columns, n_rows = columns.shape
    for k in range(n_columns):
        pivot = upper[k, k]
        group = groups[k]
        for row in range(n_rows):
            step = scale[group, row]
            zero = shift[group, row]
            value = columns[k, row]
            code = np.float32(math.floor(value / step + np.float32(0.5))) + zero
            code = min(max(code, np.float32(0.0)), highest)
            codes[k, row] = np.uint8(code)
            errors[k, row] = (value - (code - zero) * step) / pivot
        for later in range(k + 1, n_columns):
            factor = upper[k, later]
            for row in range(n_rows):
                columns[later, row] -= factor * errors[k, row]

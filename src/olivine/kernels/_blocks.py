"""The inner loops of block-wise quantization, compiled by numba on first use and kept in its cache.

Every function works on whole rows of a float32 matrix [n, K] and writes into arrays that the caller made; they release
the interpreter's lock, so that tiles of rows run on all cores. K is a multiple of `group`.
"""

import math

import numba
import numpy as np

_compiled = numba.njit(
    nogil=True, cache=True, fastmath={"nnan", "nsz", "contract", "arcp", "reassoc"}, error_model="numpy"
)
# products and sums rounded one by one: the bytes must be those of ONNX Runtime's own quantizer
_exact = numba.njit(nogil=True, cache=True, error_model="numpy")


# candidates that are tried at once: as many as fit in a register
LANES = 16


@_exact
def round_to_nearest(weight, group, bits, symmetric, codes, scales, zeros):  # type: ignore[no-untyped-def]
    """Codes of each block's range: symmetric, largest magnitude / -2**(bits-1); else (max - min) / (2**bits - 1)."""
    n_rows, width = weight.shape
    highest = np.float32((1 << bits) - 1)
    middle = np.float32(1 << (bits - 1))
    for row in range(n_rows):
        for block in range(width // group):
            first = block * group
            low = np.float32(0.0)
            high = np.float32(0.0)
            for k in range(first, first + group):
                low = min(low, weight[row, k])
                high = max(high, weight[row, k])
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
            for k in range(first, first + group):
                # the zero point is added before the rounding, so that halves go up on either side of it
                value = math.floor(weight[row, k] * inverse + zero + np.float32(0.5))
                codes[row, k] = np.uint8(min(max(np.float32(value), np.float32(0.0)), highest))
            scales[row, block] = scale
            zeros[row, block] = np.uint8(zero)


@_exact
def _half_away(value):  # type: ignore[no-untyped-def]
    """C's roundf."""
    return np.float32(math.floor(abs(value) + np.float32(0.5))) * (
        np.float32(-1.0) if value < np.float32(0.0) else np.float32(1.0)
    )


@_compiled
def _nearest(value, inverse, low, high):  # type: ignore[no-untyped-def]
    """The code of a value, counted from the zero point."""
    return min(max(np.float32(math.floor(value * inverse + np.float32(0.5))), low), high)


@_compiled
def _fit(weight, importance, row, first, group, inverse, low, high, cross, square):  # type: ignore[no-untyped-def]
    """For every candidate (a lane of the arrays): sums of importance * weight * code and importance * code**2.

    Codes are counted from the zero point, between `low` and `high`. Candidates are the inner loop: they are
    independent, so that it runs in vector registers without a reduction.
    """
    for lane in range(LANES):
        cross[lane] = np.float32(0.0)
        square[lane] = np.float32(0.0)
    for k in range(first, first + group):
        value = weight[row, k]
        share = importance[k]
        shared_value = share * value
        for lane in range(LANES):
            code = _nearest(value, inverse[lane], low[lane], high[lane])
            cross[lane] += shared_value * code
            square[lane] += share * code * code


@_compiled
def _refined(weight, importance, row, first, group, scale, low, high):  # type: ignore[no-untyped-def]
    """The weighted least-squares scale of the codes that `scale` gives; twice, as each may change the other."""
    for _ in range(2):
        inverse = np.float32(1.0) / scale
        cross = np.float32(0.0)
        square = np.float32(0.0)
        for k in range(first, first + group):
            value = weight[row, k]
            code = _nearest(value, inverse, low, high)
            part = importance[k] * code
            cross += part * value
            square += part * code
        if square > np.float32(0.0) and cross != np.float32(0.0):
            scale = cross / square
    return scale


@_compiled
def _place(lane, symmetric, shrink, near, span, bits, inverse, low, high):  # type: ignore[no-untyped-def]
    """Make `lane` the candidate of a range `shrink` times the block's and the zero point `near`."""
    highest = np.float32((1 << bits) - 1)
    if symmetric:
        inverse[lane] = np.float32(1 << (bits - 1)) / (span * shrink)
    else:
        inverse[lane] = highest / (span * shrink)
    near = min(max(near, np.float32(0.0)), highest)
    low[lane] = -near
    high[lane] = highest - near


@_compiled
def _winner(symmetric, cross, square):  # type: ignore[no-untyped-def]
    """The candidate whose codes, at their best scale, leave the least error; -1 when none has a code but zero."""
    best = np.float32(0.0)
    winner = -1
    for lane in range(len(cross)):
        if square[lane] > np.float32(0.0) and (symmetric or cross[lane] > np.float32(0.0)):
            gain = cross[lane] * cross[lane] / square[lane]
            if gain > best:
                best = gain
                winner = lane
    return winner


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
    inverse = np.empty(LANES, np.float32)
    low = np.empty(LANES, np.float32)
    high = np.empty(LANES, np.float32)
    cross = np.empty(LANES, np.float32)
    square = np.empty(LANES, np.float32)
    for row in range(n_rows):
        for block in range(width // group):
            first = block * group
            smallest = np.float32(0.0)
            largest = np.float32(0.0)
            for k in range(first, first + group):
                smallest = min(smallest, weight[row, k])
                largest = max(largest, weight[row, k])
            span = max(-smallest, largest) if symmetric else largest - smallest
            scale = np.float32(0.0)
            zero = middle
            if span > np.float32(0.0):
                near = middle
                if not symmetric:
                    near = np.float32(math.floor(-smallest * highest / span + np.float32(0.5)))
                for lane in range(LANES):
                    if symmetric:
                        shrink = np.float32(0.62) + np.float32(0.06) * np.float32(lane // 2)
                        shrink = shrink if lane % 2 else -shrink
                    else:
                        shrink = np.float32(0.5) + np.float32(0.0375) * np.float32(lane)
                    _place(lane, symmetric, shrink, near, span, bits, inverse, low, high)
                _fit(weight, importance, row, first, group, inverse, low, high, cross, square)
                winner = _winner(symmetric, cross, square)
                if winner >= 0:
                    scale = cross[winner] / square[winner]
                    zero = -low[winner]
                    if symmetric:
                        around = middle / (inverse[winner] * span)
                    else:
                        around = highest / (inverse[winner] * span)
                    for lane in range(LANES):
                        if symmetric:
                            shrink = around * (np.float32(1.0) + np.float32(0.008) * np.float32(lane - 8))
                            _place(lane, symmetric, shrink, middle, span, bits, inverse, low, high)
                        else:
                            shrink = around + np.float32(0.0125) * np.float32(lane // 3 - 2)
                            _place(lane, symmetric, shrink, zero + lane % 3 - 1, span, bits, inverse, low, high)
                    _fit(weight, importance, row, first, group, inverse, low, high, cross, square)
                    winner = _winner(symmetric, cross, square)
                    zero = -low[winner]
                    scale = cross[winner] / square[winner]
                    scale = _refined(weight, importance, row, first, group, scale, low[winner], high[winner])
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
            for k in range(block * group, (block + 1) * group):
                code = np.float32(math.floor(weight[row, k] * turned + np.float32(0.5))) + zero
                codes[row, k] = np.uint8(min(max(code, np.float32(0.0)), highest))


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

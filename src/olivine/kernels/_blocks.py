"""The inner loops of block-wise quantization.

Every function works on whole rows of a float32 matrix [n_rows, n_columns] and writes into arrays that the caller made.
`group` columns that lie together are a block of a row; it divides n_columns. A block has one scale s and one zero point
z (a code): code q stands for s (q - z), with 0 <= q <= 2**bits - 1.
Blocks are sliced before they are walked through: an index that starts anywhere is checked for being negative each time,
and such a loop stays scalar.
"""

import math

import numpy as np
import numpy.typing as npt

from olivine.kernels._compiled import any_order_part, exact, exact_part, fast, fast_part

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]

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


@exact
def round_to_nearest(
    weight: Floats, group: int, bits: int, symmetric: bool, codes: Codes, scales: Floats, zeros: Codes
) -> None:
    """Codes of each block's own range: symmetric, s = largest magnitude / -2**(bits-1); else (max - min) / (2**bits-1).

    weight: [n_rows, n_columns]. Written: codes [n_rows, n_columns], scales and zeros [n_rows, n_columns / group], the
    bytes of ONNX Runtime's own quantizer (`quantize_matmul_4bits`). A block of zeros gets the scale 0.
    """
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
                # negative when the largest magnitude is positive: that side of the codes has one more, 0 - middle
                scale = (high if high > -low else low) / -middle
            else:
                scale = (high - low) / highest
                if scale != np.float32(0.0):
                    zero = min(max(_half_away(-low / scale), np.float32(0.0)), highest)
                else:
                    zero = np.float32(0.0)
            inverse = np.float32(1.0) / scale if scale != np.float32(0.0) else np.float32(0.0)
            of_block = codes[row, first : first + group]
            for k in range(len(values)):
                # the zero point is added before the rounding, so that halves go up on either side of it
                value = np.floor(values[k] * inverse + zero + np.float32(0.5))
                of_block[k] = np.uint8(np.int32(min(max(value, np.float32(0.0)), highest)))
            scales[row, block] = scale
            zeros[row, block] = np.uint8(zero)


@exact_part
def _range(values: Floats) -> tuple[np.float32, np.float32]:
    """The least and the largest of the values and zero; minus zero becomes zero, as its sign would reach the scale."""
    low, high = _extremes(values)
    return low + np.float32(0.0), high + np.float32(0.0)


@any_order_part
def _extremes(values: Floats) -> tuple[np.float32, np.float32]:
    low = np.float32(0.0)
    high = np.float32(0.0)
    for value in values:
        low = min(low, value)
        high = max(high, value)
    return low, high


@exact_part
def _half_away(value: np.float32) -> np.float32:
    """The nearest whole number, halves away from zero: C's roundf. numpy's rounds halves to even."""
    sign = np.float32(-1.0) if value < np.float32(0.0) else np.float32(1.0)
    return np.float32(np.floor(abs(value) + np.float32(0.5)) * sign)


@fast_part
def _nearest(value: np.float32, inverse: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """The code of a value, counted from the zero point: value / s, rounded, between low = -z and high = 2**bits-1-z."""
    return min(max(np.floor(value * inverse + np.float32(0.5)), low), high)


@fast_part
def _fit(
    values: Floats, importance: Floats, inverse: Floats, low: Floats, high: Floats, cross: Floats, square: Floats
) -> None:
    """For every candidate c: cross[c] = sum_k a_k w_k q_k(c) and square[c] = sum_k a_k q_k(c)**2.

    values w, importance a: [group]. inverse (1 / s), low and high (see `_nearest`), cross, square: [LANES], one
    candidate each; cross and square are written. Codes q are counted from the zero point.
    Candidates are the inner loop: they are independent, so that it runs in vector registers without a reduction; four
    weights at a time, so that the sums are loaded and stored a quarter as often.
    """
    for lane in range(LANES):
        cross[lane] = np.float32(0.0)
        square[lane] = np.float32(0.0)
    for k in range(0, len(values), 4):
        value0, value1, value2, value3 = values[k], values[k + 1], values[k + 2], values[k + 3]
        share0, share1, share2, share3 = importance[k], importance[k + 1], importance[k + 2], importance[k + 3]
        part0, part1, part2, part3 = share0 * value0, share1 * value1, share2 * value2, share3 * value3
        for lane in range(LANES):
            per_step, least, most = inverse[lane], low[lane], high[lane]
            code0 = _nearest(value0, per_step, least, most)
            code1 = _nearest(value1, per_step, least, most)
            code2 = _nearest(value2, per_step, least, most)
            code3 = _nearest(value3, per_step, least, most)
            cross[lane] += part0 * code0 + part1 * code1 + part2 * code2 + part3 * code3
            square[lane] += (
                share0 * code0 * code0 + share1 * code1 * code1 + share2 * code2 * code2 + share3 * code3 * code3
            )


@fast_part
def _refined(values: Floats, importance: Floats, scale: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """The least-squares scale of the codes that `scale` gives; twice, as a new scale may give new codes.

    d/ds sum_k a_k (w_k - s q_k)**2 = 0 at s = sum a w q / sum a q**2. Where all codes are zero the scale stays.
    """
    for _ in range(2):
        inverse = np.float32(1.0) / scale
        cross = np.float32(0.0)
        square = np.float32(0.0)
        for k in range(len(values)):
            code = _nearest(values[k], inverse, low, high)
            part = importance[k] * code
            cross += part * values[k]
            square += part * code
        if square > np.float32(0.0) and cross != np.float32(0.0):
            scale = cross / square
    return scale


@fast_part
def _set_candidates(
    reach: np.float32,
    around: np.float32,
    factors: Floats,
    summands: Floats,
    near: np.float32,
    steps: Floats,
    highest: np.float32,
    inverse: Floats,
    low: Floats,
    high: Floats,
) -> None:
    """Make lane c the candidate that spans `around` * factors[c] + summands[c] of the block's range.

    reach: codes that the whole range of the block spans, a unit of weight: 1 / s of the candidate that spans all of it.
    near, steps: its zero point is near + steps[c], kept among the codes 0 to `highest`. Written, all [LANES]: inverse,
    low and high, as `_fit` takes them.
    """
    for lane in range(len(inverse)):
        inverse[lane] = reach / (around * factors[lane] + summands[lane])
        zero = min(max(near + steps[lane], np.float32(0.0)), highest)
        low[lane] = -zero
        high[lane] = highest - zero


@fast_part
def _winner(symmetric: bool, cross: Floats, square: Floats, gain: Floats) -> int:
    """The candidate whose codes, at their best scale, leave the least error; -1 when none has a code but zero.

    At s = cross / square the error is sum a w**2 - cross**2 / square: the least error is the largest gain, which is
    written, [LANES]. A negative scale is no candidate, unless the format is symmetric.
    """
    least = np.float32(-np.inf) if symmetric else np.float32(0.0)
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


@fast
def search(
    weight: Floats,
    importance: Floats,
    group: int,
    bits: int,
    symmetric: bool,
    codes: Codes,
    scales: Floats,
    zeros: Codes,
) -> None:
    """Scale and integer zero point of each block with the least error sum_k a_k (w_k - s (q_k - z))**2.

    weight w: [n_rows, n_columns]. importance a: [n_columns], at least 1e-4. Written: as by `round_to_nearest`.
    Candidates are shrunken ranges of the block: first 16 between 0.5 and 1.06 with the zero point of the range
    (symmetric: 8 with either sign of the scale, as the side of the negative codes has one more); then 16 near the best
    of them, with three zero points. The best scale of a candidate's codes is the weighted least-squares one, and its
    error follows from two sums; the winner's codes are rounded anew with its scale.
    """
    n_rows, width = weight.shape
    highest = np.float32((1 << bits) - 1)
    middle = np.float32(1 << (bits - 1))
    one = np.float32(1.0)
    # of the candidates of one block: 1 / s, the codes -z and 2**bits-1-z that bound them, the two sums, and the gain
    inverse = np.empty(LANES, np.float32)
    low = np.empty(LANES, np.float32)
    high = np.empty(LANES, np.float32)
    cross = np.empty(LANES, np.float32)
    square = np.empty(LANES, np.float32)
    gain = np.empty(LANES, np.float32)
    ranges, factors, summands, steps = _FIRST, _ONES, _SUMMANDS, _STEPS
    if symmetric:  # the zero point is fixed: the range is scaled, and its sign tried, instead
        ranges, factors, summands, steps = _FIRST_SYMMETRIC, _FACTORS_SYMMETRIC, _ZEROS, _ZEROS
    for row in range(n_rows):
        for block in range(width // group):
            first = block * group
            values = weight[row, first : first + group]
            of_inputs = importance[first : first + group]
            smallest, largest = _range(values)
            span = max(-smallest, largest) if symmetric else largest - smallest
            scale = np.float32(0.0)
            zero = middle
            if span > np.float32(0.0):
                # Round 1: shrunken ranges. A few large weights are clipped, and all others get finer steps.
                reach = (middle if symmetric else highest) / span
                near = middle if symmetric else np.floor(-smallest * reach + np.float32(0.5))
                _set_candidates(reach, one, ranges, _ZEROS, near, _ZEROS, highest, inverse, low, high)
                _fit(values, of_inputs, inverse, low, high, cross, square)
                winner = _winner(symmetric, cross, square, gain)
                # Round 2: finer, around the winner. Without one (products that underflow) the scale stays 0.
                if winner >= 0:
                    scale = cross[winner] / square[winner]
                    zero = -low[winner]
                    _set_candidates(reach, ranges[winner], factors, summands, zero, steps, highest, inverse, low, high)
                    _fit(values, of_inputs, inverse, low, high, cross, square)
                    # never -1: the winner of the first round is among these candidates
                    winner = _winner(symmetric, cross, square, gain)
                    zero = -low[winner]
                    scale = _refined(values, of_inputs, cross[winner] / square[winner], low[winner], high[winner])
            scales[row, block] = scale
            zeros[row, block] = np.uint8(zero)
    round_codes(weight, group, bits, scales, zeros, codes)


@fast
def round_codes(weight: Floats, group: int, bits: int, scales: Floats, zeros: Codes, codes: Codes) -> None:
    """The nearest codes for given scales and zero points [n_rows, n_columns / group]; z where the scale is 0.

    weight: [n_rows, n_columns]. Written: codes, as large.
    """
    n_rows, width = weight.shape
    highest = np.float32((1 << bits) - 1)
    for row in range(n_rows):
        for block in range(width // group):
            scale = scales[row, block]
            zero = np.float32(zeros[row, block])
            inverse = np.float32(1.0) / scale if scale != np.float32(0.0) else np.float32(0.0)
            first = block * group
            values = weight[row, first : first + group]
            of_block = codes[row, first : first + group]
            for k in range(len(values)):
                code = np.floor(values[k] * inverse + np.float32(0.5)) + zero
                of_block[k] = np.uint8(np.int32(min(max(code, np.float32(0.0)), highest)))


@fast
def pack_nibbles(codes: Codes, packed: Codes) -> None:
    """Two 4-bit codes a byte, the first in the low half: codes [n_rows, n_columns] to packed [n_rows, n_columns / 2].

    Half a byte is left over, and zero, when n_columns is odd.
    """
    n_rows, width = codes.shape
    for row in range(n_rows):
        for k in range(width // 2):
            packed[row, k] = codes[row, 2 * k] | (codes[row, 2 * k + 1] << 4)
        if width % 2:
            packed[row, width // 2] = codes[row, width - 1]


@exact
def sweep_columns(
    upper: Floats,
    groups: Numbers,
    highest: np.float32,
    columns: Floats,
    scale: Floats,
    shift: Floats,
    codes: Codes,
    errors: Floats,
) -> None:
    """GPTQ's loop over n columns of the weight: round each, and let the later ones of them make up for its error.

    All arrays hold the weight's columns as their rows: a column lies in one run of memory.
    upper: [n, n], the rows and columns of the inverse's factor that belong to these columns. groups: [n], the row of
    each one's scales. highest: the largest code. columns: [n, n_rows], changed in place. scale s, shift z: [n_groups,
    n_rows]. Written: codes [n, n_rows], and errors [n, n_rows], each over its pivot, for the columns behind these.
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
            # e_k = (w_k - s (q_k - z)) / U_kk, and w_j -= U_kj e_k for j > k, with U'U the inverse of the Hessian
            # (algorithm 1 of Frantar et al. 2022, arXiv:2210.17323)
            errors[k, row] = (value - (code - zero) * step) / pivot
        for later in range(k + 1, n_columns):
            factor = upper[k, later]
            for row in range(n_rows):
                columns[later, row] -= factor * errors[k, row]


@fast
def descend_columns(
    hessian: Floats,
    groups: Numbers,
    highest: np.float32,
    slope: Floats,
    scale: Floats,
    codes: Codes,
    moved: Floats,
) -> None:
    """Move the code of each of n columns to where the error of the whole row is least, the others being as they are.

    All arrays hold the weight's columns as their rows. hessian H: [n, n], of these columns. groups: [n], the row of
    each one's scales. slope: [n, n_rows], H d for the errors d of whole rows; kept up to date for these columns. scale
    s: [n_groups, n_rows]. Written: codes [n, n_rows], and moved [n, n_rows], the change of the weights.
    """
    n_columns, n_rows = codes.shape
    for k in range(n_columns):
        curve = hessian[k, k]
        group = groups[k]
        for row in range(n_rows):
            step = scale[group, row]
            # d'H d changes by 2 c s (H d)_k + c^2 s^2 H_kk with c codes: least at c = -(H d)_k / (s H_kk), rounded
            per_code = step * curve
            aim = slope[k, row] / per_code if per_code != np.float32(0.0) else np.float32(0.0)
            before = np.float32(codes[k, row])
            after = min(max(np.floor(before - aim + np.float32(0.5)), np.float32(0.0)), highest)
            codes[k, row] = np.uint8(np.int32(after))
            moved[k, row] = (after - before) * step
        for other in range(n_columns):
            factor = hessian[k, other]
            for row in range(n_rows):
                slope[other, row] += factor * moved[k, row]

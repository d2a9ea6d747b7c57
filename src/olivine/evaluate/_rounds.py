"""Requests of several models in turns, until their medians are known well enough: what drifts, drifts for all."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from olivine.evaluate._base import TimingParams

Made = TypeVar("Made")


def in_turns(
    requests: Mapping[str, Callable[[], Made]],
    seconds_of: Callable[[Made], float],
    params: TimingParams,
    *,
    clock: Callable[[], float] = time.monotonic,
    report: Callable[[int], None] = lambda _n: None,
) -> dict[str, list[Made]]:
    """What each model's requests gave: one of each in a round, every other round the other way round.

    seconds_of: the time of a request that decides whether enough are made: when the interval of every median is
    `params.spread` of it or less to each side, after `repeat_test_num` rounds at least; or when, after as many,
    `max_requests` or `max_seconds` are over.
    """
    for request in requests.values():
        for _ in range(params.warmup_num):
            request()
    results: dict[str, list[Made]] = {name: [] for name in requests}
    began = clock()
    for number, order in enumerate(_orders(list(requests)), 1):
        for name in order:
            results[name].append(requests[name]())
            if params.sleep_num:
                time.sleep(params.sleep_num)
        report(number)
        known = all(spread([seconds_of(one) for one in made]) <= params.spread for made in results.values())
        is_over = number >= params.max_requests or clock() - began >= params.max_seconds
        if number >= params.repeat_test_num and (known or is_over):
            return results
    return results


def _orders(names: Sequence[str]) -> Iterator[Sequence[str]]:
    while True:
        yield names
        yield names[::-1]


def seconds_of(request: Callable[[], object]) -> float:
    """How long a request takes."""
    began = time.perf_counter()
    request()
    return time.perf_counter() - began


def spread(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the median, as a share of it; infinite where so few values tell none.

    By the ranks n/2 ± 0.98 sqrt(n) of the sorted values, whatever their distribution (binomial; Conover 1999).
    """
    ordered, n = sorted(values), len(values)
    n_outside = math.floor(n / 2 - 0.98 * math.sqrt(n)) - 1  # values on each side
    if n_outside < 0 or ordered[n // 2] <= 0:
        return math.inf
    return (ordered[n - 1 - n_outside] - ordered[n_outside]) / 2 / ordered[n // 2]

"""What can be chosen: dimensions by name, some of them only under a choice made before.

    Space({
        "quantizer": Categorical(("rtn", "gptq")),
        "group_size": Categorical((32, 64, 128)),
        "damping": Float(0.001, 0.1, log=True, when={"quantizer": ("gptq",)}),
    })

A point holds a value for every dimension that is active in it, and for no other.
"""

import json
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

from olivine.errors import RequestError

Point = Mapping[str, Any]
"""A value, as JSON has them, for each active dimension by its name."""


@dataclass(frozen=True)
class Trial:
    """A point and what was measured there: numbers by the name of the objective; None: the point could not be run."""

    point: Point
    values: Mapping[str, float] | None

    @property
    def key(self) -> str:
        """The same text for the same point."""
        return key_of(self.point)


def key_of(point: Point) -> str:
    """One text for each point, whatever the order of its names; true is not 1."""
    return json.dumps(point, sort_keys=True)


def shares(seed: int) -> Iterator[float]:
    """Numbers in 0..1 (1 not included), the same ones for a seed in every version of Python."""
    source = random.Random(seed)  # noqa: S311 - no secret is drawn
    while True:
        yield source.random()


class Dimension(ABC):
    """The values that one name can have.

    when: the values of earlier dimensions under which this one is chosen at all; without it, it always is.
    """

    when: Mapping[str, tuple[Any, ...]]

    @property
    @abstractmethod
    def size(self) -> int | None:
        """How many values there are; None: no list holds them."""

    @abstractmethod
    def value(self, index: int) -> Any:
        """The value of that number, from 0, where they can be numbered."""

    @abstractmethod
    def at(self, share: float) -> Any:
        """The value that lies at a share in 0..1 (1 not included) of the range; equal shares are equally likely."""

    @abstractmethod
    def index(self, value: Any) -> int | None:
        """The number of a value; None when it is not among those that can be numbered."""

    @abstractmethod
    def __contains__(self, value: object) -> bool: ...


@dataclass(frozen=True)
class Categorical(Dimension):
    """One of some values, in no order; any that JSON has."""

    choices: Sequence[Any]
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keys = [json.dumps(choice, sort_keys=True) for choice in self.choices]
        if not keys or len(set(keys)) < len(keys):
            raise RequestError(f"choices must be there and differ, but got {list(self.choices)!r}")

    @property
    def size(self) -> int:
        """How many choices there are."""
        return len(self.choices)

    def value(self, index: int) -> Any:
        """The choice of that number."""
        return self.choices[index]

    def at(self, share: float) -> Any:
        """Each choice with the same width."""
        return self.choices[int(share * len(self.choices))]

    def index(self, value: Any) -> int | None:
        """The number of a choice among all of them; None where it is none."""
        return next((index for index, choice in enumerate(self.choices) if _same(choice, value)), None)

    def __contains__(self, value: object) -> bool:
        return self.index(value) is not None


@dataclass(frozen=True)
class Int(Dimension):
    """Whole numbers from low to high, both included, `step` apart.

    log: small numbers are looked at as closely as large ones; then the step is 1.
    """

    low: int
    high: int
    step: int = 1
    log: bool = False
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, is_log=self.log)
        if self.step < 1 or (self.log and self.step != 1):
            raise RequestError(f"step must be 1 or more, and 1 with log, but got (step={self.step}, log={self.log})")

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return (self.high - self.low) // self.step + 1

    def value(self, index: int) -> int:
        """Low plus as many steps."""
        return self.low + index * self.step

    def at(self, share: float) -> int:
        """Each number with the same width, or with the width of its logarithm."""
        if not self.log:
            return self.value(int(share * self.size))
        low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
        return min(self.high, max(self.low, round(math.exp(low + share * (high - low)))))

    def index(self, value: Any) -> int | None:
        """How many steps a number is above low."""
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            return None
        return None if (value - self.low) % self.step else (value - self.low) // self.step

    def __contains__(self, value: object) -> bool:
        return self.index(value) is not None


@dataclass(frozen=True)
class Float(Dimension):
    """Numbers from low to high, both included.

    step: only those that are low plus a multiple of it, so that they can be counted. log: see Int; then without a step.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, is_log=self.log)
        if self.step is not None and (not 0 < self.step < math.inf or self.log):
            raise RequestError(f"step must be above 0, and absent with log, but got (step={self.step}, log={self.log})")

    @property
    def size(self) -> int | None:
        """How many steps there are; one value where low is high."""
        if self.low == self.high:
            return 1
        return None if self.step is None else math.floor((self.high - self.low) / self.step + 1e-9) + 1

    def value(self, index: int) -> float:
        """Low plus as many steps."""
        return float(self.low) if self.step is None else min(self.high, self.low + index * self.step)

    def at(self, share: float) -> float:
        """In equal widths of the number, or of its logarithm."""
        if (size := self.size) is not None:
            return self.value(int(share * size))
        if not self.log:
            return self.low + share * (self.high - self.low)
        low, high = math.log(self.low), math.log(self.high)
        return min(self.high, max(self.low, math.exp(low + share * (high - low))))

    def index(self, value: Any) -> int | None:
        """How many steps a number is above low."""
        if not _is_number(value) or (size := self.size) is None:
            return None
        index = round((value - self.low) / self.step) if self.step else 0
        is_it = 0 <= index < size and math.isclose(self.value(index), value, rel_tol=1e-9, abs_tol=1e-12)
        return index if is_it else None

    def __contains__(self, value: object) -> bool:
        if self.size is not None:
            return self.index(value) is not None
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True)
class Space:
    """Dimensions by name; one that depends on another stands after it.

    Raises RequestError, with the offending names and values, for a condition that could never hold.
    """

    dimensions: Mapping[str, Dimension]

    def __post_init__(self) -> None:
        names = list(self.dimensions)
        for number, (name, dimension) in enumerate(self.dimensions.items()):
            for parent, values in dimension.when.items():
                if parent not in names[:number]:
                    raise RequestError(
                        f"'{name}' depends on '{parent}', which must be a dimension that stands before it"
                    )
                for value in values:
                    if value not in self.dimensions[parent]:
                        raise RequestError(f"'{name}' depends on {parent} = {value!r}, which '{parent}' never is")

    def is_active(self, name: str, point: Point) -> bool:
        """Whether the dimension is chosen at all, given the values that stand before it."""
        conditions = self.dimensions[name].when.items()
        return all(
            parent in point and any(_same(point[parent], value) for value in values) for parent, values in conditions
        )

    def check(self, point: Point) -> None:
        """Raise RequestError unless the point holds a value of every active dimension, and nothing else."""
        for name, dimension in self.dimensions.items():
            if not self.is_active(name, point):
                if name in point:
                    raise RequestError(
                        f"the point has '{name}', which is not chosen beside {_beside(dimension, point)}"
                    )
            elif name not in point:
                raise RequestError(f"the point lacks '{name}'")
            elif point[name] not in dimension:
                raise RequestError(f"the point has {name} = {point[name]!r}, which is not in {dimension}")
        if strange := [name for name in point if name not in self.dimensions]:
            raise RequestError(f"the point has '{strange[0]}', which is no dimension of the space")

    @cached_property
    def size(self) -> int | None:
        """How many points there are; None where a dimension that can be active holds more than a list."""
        return self._count(0, {}, {})

    def points(self) -> Iterator[Point]:
        """Every point once; the last dimension changes fastest. RequestError where there are more than a list holds."""
        for name, dimension in self.dimensions.items():
            if dimension.size is None:
                raise RequestError(f"the values of '{name}' cannot be listed: give it a step, or some values")
        return self._points(0, {})

    def point_at(self, shares: Iterator[float]) -> Point:
        """The point where each active dimension, in turn, takes the next share in 0..1 of its range."""
        point: dict[str, Any] = {}
        for name, dimension in self.dimensions.items():
            if self.is_active(name, point):
                point[name] = dimension.at(next(shares))
        return point

    def _points(self, number: int, point: Point) -> Iterator[Point]:
        pair = next(islice(self.dimensions.items(), number, None), None)
        if pair is None:
            yield point
            return
        name, dimension = pair
        if not self.is_active(name, point):
            yield from self._points(number + 1, point)
            return
        for index in range(dimension.size or 0):
            yield from self._points(number + 1, {**point, name: dimension.value(index)})

    def _count(self, number: int, point: Point, known: dict[tuple[int, str], int | None]) -> int | None:
        """Points below a choice of the first dimensions; `point` holds only what later conditions ask for."""
        if number == len(self.dimensions):
            return 1
        key = (number, key_of(point))
        if key not in known:
            known[key] = self._count_here(number, point, known)
        return known[key]

    def _count_here(self, number: int, point: Point, known: dict[tuple[int, str], int | None]) -> int | None:
        name, dimension = next(islice(self.dimensions.items(), number, None))
        if not self.is_active(name, point):
            return self._count(number + 1, point, known)
        if dimension.size is None:
            return None
        if not any(name in other.when for other in self.dimensions.values()):
            below = self._count(number + 1, point, known)
            return None if below is None else dimension.size * below
        total = 0
        for index in range(dimension.size):
            below = self._count(number + 1, {**point, name: dimension.value(index)}, known)
            if below is None:
                return None
            total += below
        return total


def _check_range(low: float, high: float, *, is_log: bool) -> None:
    if not -math.inf < low <= high < math.inf:
        raise RequestError(f"low <= high must hold for two numbers, but got (low={low}, high={high})")
    if is_log and low <= 0:
        raise RequestError(f"low must be above 0 with log, but got low={low}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 is 1.0, and true is neither."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


def _beside(dimension: Dimension, point: Point) -> str:
    return " and ".join(f"{name} = {point.get(name)!r}" for name in dimension.when)

"""Drawings as SVG: text is escaped, colours and fonts are those of the page's style sheet."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

Place = tuple[float, float]

_ARROW = Markup(
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path class="head" d="M0,0 L8,4 L0,8 z"/></marker></defs>'
)


@dataclass(frozen=True)
class Scale:
    """Numbers from `low` to `high` on a line from `start` to `end`, in pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a number lies."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    @classmethod
    def around(cls, values: Iterable[float], start: float, end: float) -> "Scale":
        """A scale that has all of the numbers well inside."""
        values = list(values)
        low, high = min(values), max(values)
        room = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
        return cls(low - room, high + room, start, end)

    def ticks(self, n_most: int = 6) -> list[float]:
        """Round numbers on it: 1, 2 or 5 times a power of ten apart."""
        rough = (self.high - self.low) / n_most
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first = math.ceil(self.low / step)
        return [round(n * step, 12) for n in range(first, math.floor(self.high / step) + 1)]


@dataclass(frozen=True)
class Dot:
    """A point of a scatter plot. label: what a reader hears of it. kind: a class of the style sheet."""

    x: float
    y: float
    label: str
    kind: str
    target: str
    is_on_line: bool = False


@dataclass(frozen=True)
class Axis:
    """name: what it shows. write: how its numbers are written."""

    name: str
    write: Callable[[float], str]


def scatter(dots: Sequence[Dot], x: Axis, y: Axis, title: str) -> Markup:
    """Points in a plane; those of a line, the Pareto front, are joined by steps and can be reached by keyboard."""
    width, height, left, bottom = 640, 360, 76, 46
    to_x = Scale.around((dot.x for dot in dots), left, width - 16)
    to_y = Scale.around((dot.y for dot in dots), height - bottom, 14)
    parts = [_grid(to_x, to_y, x, y, (width, height, left, bottom))]
    front = sorted((dot for dot in dots if dot.is_on_line), key=lambda dot: dot.x)
    if len(front) > 1:
        points = " ".join(f"{to_x(dot.x)},{to_y(dot.y)}" for dot in front)
        parts.append(Markup('<polyline class="front" points="{}"/>').format(points))
    # the few that matter are drawn last, above the others
    parts += [_dot(dot, to_x(dot.x), to_y(dot.y)) for dot in sorted(dots, key=lambda dot: dot.kind != "other")]
    return _drawing("scatter", width, height, title, parts, role="group")


def _told_apart(scale: Scale, axis: Axis) -> list[float]:
    """Ticks, as many as the way in which the axis writes numbers tells apart."""
    for n_most in range(6, 1, -1):
        ticks = scale.ticks(n_most)
        if len({axis.write(value) for value in ticks}) == len(ticks):
            return ticks
    return scale.ticks(1)[:1]


def _grid(to_x: Scale, to_y: Scale, x: Axis, y: Axis, frame: tuple[int, int, int, int]) -> Markup:
    width, height, left, bottom = frame
    parts = []
    for value in _told_apart(to_x, x):
        line = Markup(
            '<line class="grid" x1="{0}" x2="{0}" y1="14" y2="{1}"/><text x="{0}" y="{2}" class="middle">{3}</text>'
        )
        parts.append(line.format(to_x(value), height - bottom, height - bottom + 17, x.write(value)))
    for value in _told_apart(to_y, y):
        line = Markup(
            '<line class="grid" y1="{0}" y2="{0}" x1="{1}" x2="{2}"/><text x="{3}" y="{4}" class="end">{5}</text>'
        )
        at = to_y(value)
        parts.append(line.format(at, left, width - 16, left - 6, at + 4, y.write(value)))
    names = Markup(
        '<text class="middle name" x="{}" y="{}">{}</text>'
        '<text class="middle name" transform="translate(14,{}) rotate(-90)">{}</text>'
    )
    parts.append(names.format((left + width) / 2, height - 8, x.name, (height - bottom) / 2, y.name))
    return Markup("").join(parts)


def _dot(dot: Dot, x: float, y: float) -> Markup:
    focus = "0" if dot.kind != "other" else "-1"
    form = Markup(
        '<circle class="dot {}" cx="{}" cy="{}" r="{}" tabindex="{}" role="button" data-target="{}" aria-label="{}"/>'
    )
    return form.format(dot.kind, x, y, 5 if dot.kind == "other" else 7, focus, dot.target, dot.label)


@dataclass(frozen=True)
class Line:
    """A line through parallel axes. values: a place for each axis, None where it has none."""

    values: Sequence[Any]
    label: str
    kind: str


def parallel(names: Sequence[str], lines: Sequence[Line], write: Sequence[Callable[[Any], str]], title: str) -> Markup:
    """Parallel coordinates: an axis for each name; values that are no numbers lie apart in the order of their text."""
    gap, height = 128, 280
    width = gap * len(names)
    places = [_positions([line.values[n] for line in lines], 40, height - 28) for n in range(len(names))]
    parts = []
    for line in sorted(lines, key=lambda line: line.kind != "other"):
        points = [
            f"{gap * n + gap // 2},{places[n][line.values[n]]}" for n in range(len(names)) if line.values[n] is not None
        ]
        form = Markup('<polyline class="line {}" points="{}"><title>{}</title></polyline>')
        parts.append(form.format(line.kind, " ".join(points), line.label))
    for n, name in enumerate(names):
        at = gap * n + gap // 2
        form = Markup(
            '<line class="axis" x1="{0}" x2="{0}" y1="34" y2="{1}"/><text class="middle name" x="{0}" y="18">{2}</text>'
        )
        parts.append(form.format(at, height - 22, _short(name, 18)))
        for value in _shown(places[n]):
            label = _short(write[n](value), 16)
            parts.append(
                Markup('<text class="halo" x="{}" y="{}">{}</text>').format(at + 5, places[n][value] + 4, label)
            )
    return _drawing("parallel", width, height, title, parts)


def _positions(values: Iterable[Any], top: float, bottom: float) -> dict[Any, float]:
    known = list(dict.fromkeys(value for value in values if value is not None))
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known) and len(known) > 1:
        scale = Scale(min(known), max(known), bottom, top)
        return {value: scale(value) for value in known}
    ordered = sorted(known, key=str)
    if len(ordered) == 1:
        return {ordered[0]: (top + bottom) / 2}
    return {value: round(bottom + (top - bottom) * n / (len(ordered) - 1), 1) for n, value in enumerate(ordered)}


def _shown(places: Mapping[Any, float], n_most: int = 6) -> list[Any]:
    """Values that are written beside an axis; of many the ends."""
    ordered = sorted(places, key=lambda value: places[value])
    return ordered if len(ordered) <= n_most else [ordered[0], ordered[-1]]


@dataclass(frozen=True)
class Node:
    """A box of the lineage. lines: below its name. parent: the name of the box it comes from. kind: a class."""

    name: str
    lines: Sequence[str]
    parent: str | None
    kind: str = ""


def tree(nodes: Sequence[Node], title: str) -> Markup:
    """Boxes from left to right, each joined to its parent; what has one parent stands below each other."""
    box_width, box_height, gap_x, gap_y = 164, 84, 34, 16
    places: dict[str, tuple[int, int]] = {}
    used: dict[int, int] = {}
    for node in nodes:
        column, row = places.get(node.parent or "", (-1, 0))
        column += 1
        row = max(row, used.get(column, 0))
        places[node.name] = (column, row)
        used[column] = row + 1
    parts = []
    for node in nodes:
        x, y = _corner(places[node.name], box_width + gap_x, box_height + gap_y)
        if node.parent in places:
            start = _corner(places[node.parent or ""], box_width + gap_x, box_height + gap_y)
            parts.append(_edge((start[0] + box_width, start[1] + box_height / 2), (x, y + box_height / 2)))
        parts.append(_box(node, x, y, box_width, box_height))
    n_columns, n_rows = max(used) + 1, max(used.values())
    return _drawing(
        "tree", n_columns * (box_width + gap_x) - gap_x + 4, n_rows * (box_height + gap_y) - gap_y + 4, title, parts
    )


def _corner(place: tuple[int, int], width: int, height: int) -> Place:
    return place[0] * width + 2.0, place[1] * height + 2.0


def _edge(start: Place, end: Place) -> Markup:
    middle = (start[0] + end[0]) / 2
    form = Markup('<path class="edge" marker-end="url(#arrow)" d="M{},{} C{},{} {},{} {},{}"/>')
    return form.format(*start, middle, start[1], middle, end[1], end[0] - 2, end[1])


def _box(node: Node, x: float, y: float, width: int, height: int) -> Markup:
    form = Markup(
        '<g class="node {}"><rect x="{}" y="{}" width="{}" height="{}" rx="8"/>'
        '<text class="strong" x="{}" y="{}">{}</text>'
    )
    parts = [form.format(node.kind, x, y, width, height, x + 10, y + 22, _short(node.name, 22))]
    for n, line in enumerate(node.lines):
        parts.append(Markup('<text x="{}" y="{}">{}</text>').format(x + 10, y + 42 + 17 * n, _short(line, 25)))
    return Markup("").join([*parts, Markup("</g>")])


def _short(text: str, n_most: int) -> str:
    return text if len(text) <= n_most else f"{text[: n_most - 1]}…"


def _drawing(kind: str, width: int, height: int, title: str, parts: Iterable[Markup], role: str = "img") -> Markup:
    form = Markup('<svg class="{0}" viewBox="0 0 {1} {2}" width="{1}" height="{2}" role="{3}" aria-label="{4}">')
    arrow = _ARROW if kind == "tree" else Markup("")
    return form.format(kind, width, height, role, title) + arrow + Markup("").join(parts) + Markup("</svg>")

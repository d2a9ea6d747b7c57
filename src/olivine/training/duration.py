"""Durations in words, as a plan tells them: a range in one unit."""

_LONGEST = 365 * 24 * 3600
_UNITS = ((3600 * 24, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def range_in_words(least: float, most: float) -> str:
    """Two durations in seconds, told in the unit of the longer one: "about 1 to 4 minutes"."""
    if not most < _LONGEST:
        return "longer than a year"
    size, unit = next((pair for pair in _UNITS if most >= 2 * pair[0]), _UNITS[-1])
    low, high = max(1, round(least / size)), max(1, round(most / size))
    if most < 1:
        return "less than a second"
    return f"about {low:,} to {high:,} {unit}s" if low < high else f"about {high:,} {unit}{'s' * (high > 1)}"

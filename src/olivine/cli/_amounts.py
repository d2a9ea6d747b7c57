"""What people write for shares, sizes, times and multiples."""

import math
import re

import click

_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def share(text: str, flag: str) -> float:
    """0.01, "1%", "1pp": a share of 1."""
    from olivine.errors import RequestError
    from olivine.workflow.verdict import drop_allowed

    try:
        value = drop_allowed(float(text) if re.fullmatch(r"[\d.]+(e-?\d+)?", text) else text)
    except (RequestError, ValueError):
        value = None
    if value is None:
        raise click.UsageError(f"{flag} '{text}' is no share between 0 and 1; write 0.01, 1% or 1pp")
    return value


def n_bytes(text: str, flag: str) -> float:
    """Bytes of "90MB", "1.5GiB" or a number."""
    from olivine.workflow.accelerators import memory_bytes

    value = memory_bytes(text)
    if value is None:
        raise click.UsageError(f"{flag} '{text}' is no size; write 90MB or 90000000")
    return value


def seconds(text: str, flag: str) -> float:
    """Seconds, above 0, of "20m", "1h30m" or a number."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    is_whole = "".join(number + unit for number, unit in parts) == re.sub(r"\s", "", text.lower())
    total = sum(float(number) * _SECONDS.get(unit, math.nan) for number, unit in parts)
    if not parts or not is_whole or not math.isfinite(total):
        raise click.UsageError(f"{flag} '{text}' is no time; write 20m, 1h30m or 90s")
    if total <= 0:
        raise click.UsageError(f"{flag} is {text}, which leaves no time for anything; write 20m, say")
    return total


def number(text: str, flag: str, unit: str = "") -> float:
    """A number above 0, without its unit: 2.0 of "2x"."""
    try:
        value = float(text.lower().removesuffix(unit))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise click.UsageError(f"{flag} '{text}' is no number above 0")
    return value

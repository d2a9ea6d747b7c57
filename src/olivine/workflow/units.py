"""Measured numbers for a person, in their units."""


def in_unit(value: float, unit: str) -> str:
    """A number in the unit of `olivine.evaluate.Number`: "91.8%", "1.2 GB", "12.3 ms", "41.5 /s"."""
    match unit:
        case "share":
            return f"{value:.1%}"
        case "bytes":
            return readable_bytes(value)
        case "ms" | "/s":
            return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.4g} {unit}"
    return f"{value:.4g}"


def distance(value: float, unit: str) -> str:
    """How far two numbers are apart: shares are so by points."""
    return f"{100 * value:.1f} points" if unit == "share" else in_unit(value, unit)


def readable_bytes(n_bytes: float) -> str:
    """Bytes in the unit that a person would choose."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"


def duration(seconds: float) -> str:
    """A time as a person tells it."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"

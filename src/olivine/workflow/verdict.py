"""What a config allows a model to lose."""

from olivine.errors import RequestError


def drop_allowed(value: float | str | None) -> float | None:
    """quality.max_drop as a share of 1: 0.03, "3pp" and "3%" are three points; None when there is no goal."""
    if value is None:
        return None
    if isinstance(value, str):
        number = value.strip().removesuffix("pp").removesuffix("%").strip()
        try:
            share = float(number) / 100 if number != value.strip() else float(number)
        except ValueError:
            raise RequestError(f"quality.max_drop '{value}' is no number; write 0.03, '3pp' or '3%'") from None
    else:
        share = value
    if not 0 <= share <= 1:
        raise RequestError(f"quality.max_drop {value} is not between 0 and 1; 0.03 and '3pp' are three points")
    return share

"""Broken output, by name: a model that scores badly because it is broken should say so."""

from collections import Counter
from collections.abc import Sequence


def degenerate(is_nan: Sequence[bool], is_flat: Sequence[bool], generated: Sequence[str]) -> str | None:
    """One sentence naming what is broken, or None.

    is_nan, is_flat: per row, whether its logits hold NaN, and whether they are flat at every target position.
    """
    if any(is_nan):
        return f"NaN logits in {sum(is_nan)} of {len(is_nan)} rows"
    if is_flat and all(is_flat):
        return "flat logits: every token is as likely as any other"
    repeating = [text for text in generated if repeats(text)]
    if generated and len(repeating) > len(generated) / 2:
        return f"repetition: {len(repeating)} of {len(generated)} texts repeat one word"
    return None


def repeats(text: str) -> bool:
    """Whether the text is one word over and over: at least six words, nine tenths of them the same."""
    words = text.split()
    return len(words) >= 6 and Counter(words).most_common(1)[0][1] >= 0.9 * len(words)

"""Wounds of files, and what is asked of whoever reads them: for every test that fuzzes a reader.

`OLIVINE_FUZZ_EXAMPLES=20000 pytest tests/...` looks longer, with other examples each time, and asks of each that it
takes less than a second.
"""

import os
import re
import struct
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

LONG = int(os.environ.get("OLIVINE_FUZZ_EXAMPLES", "0"))
fuzzed = settings(
    max_examples=LONG or 150,
    derandomize=not LONG,
    deadline=timedelta(seconds=1) if LONG else None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
BORDERS = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**63, 2**64 - 1]


@st.composite
def damaged(draw, data, first=0, last=None):
    """The data with one to four wounds between `first` and `last`."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        at = draw(st.integers(min(first, len(data) - 1), min(last or len(data), len(data)) - 1))
        kind = draw(st.sampled_from(["flip", "byte", "number", "cut", "remove", "repeat", "random"]))
        length = draw(st.integers(1, 12))
        if kind == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte":
            data[at] = draw(st.integers(0, 255))
        elif kind == "number":
            form = draw(st.sampled_from(["<I", "<Q"]))
            value = draw(st.sampled_from(BORDERS)) % 2 ** (8 * struct.calcsize(form))
            data[at : at + struct.calcsize(form)] = struct.pack(form, value)
        elif kind == "cut":
            del data[at:]
        elif kind == "remove":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        else:
            data[at:at] = draw(st.binary(max_size=12))
    return bytes(data)


@st.composite
def damaged_json(draw, text):
    """JSON text with some of its words, numbers and signs replaced by others."""
    words = re.findall(r'"[^"]*"|-?\d+|[^\s\w"]|\w+', text)
    others = [
        *map(str, BORDERS),
        "-1",
        "-0",
        "1.0",
        "1e400",
        "NaN",
        "null",
        "true",
        '""',
        "[]",
        "{}",
        '"\\ud800"',
        '"x"',
    ]
    others += ["[" * 2000, '{"a":' * 2000, "9" * 5000]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(words) - 1))
        kind = draw(st.sampled_from(["other", "own", "remove", "repeat"]))
        if kind == "other":
            words[at] = draw(st.sampled_from(others))
        elif kind == "own":
            words[at] = draw(st.sampled_from(words))
        elif kind == "remove" and len(words) > 1:
            del words[at]
        else:
            words.insert(at, words[at])
    return "".join(words).encode("utf-8", "surrogatepass")


def assert_is_sentence(refusal, *, names=""):
    """One line for a person; names: what it tells of, word for word."""
    text = str(refusal)
    assert names in text
    assert 0 < len(text) < 2000
    assert "\n" not in text

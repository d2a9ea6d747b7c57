"""A hash taken in any order of writing is that of the file, and reads back only what it could not keep."""

import itertools
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from olivine.exporting.ordered_hash import OrderedHash


class File:
    """Bytes, and how many of them were read back."""

    def __init__(self, content):
        self.content, self.n_read = content, 0

    def read(self, place, n_bytes):
        piece = self.content[place : place + n_bytes]
        self.n_read += len(piece)
        return piece


def cut(content, places):
    ends = sorted({0, len(content), *(place % (len(content) + 1) for place in places)})
    return [(start, content[start:end]) for start, end in itertools.pairwise(ends)]


@given(st.binary(max_size=200), st.lists(st.integers(0, 1000), max_size=12), st.integers(0, 300), st.randoms())
def test_pieces_in_any_order_give_the_hash_of_the_file(content, places, kept_bytes, chance):
    file, pieces = File(content), cut(content, places)
    chance.shuffle(pieces)
    hashed = OrderedHash(file.read, kept_bytes)
    for place, piece in pieces:
        hashed.add(place, memoryview(piece))
    assert hashed.hexdigest(len(content)) == blake3(content).hexdigest()
    if kept_bytes >= len(content):
        assert file.n_read == 0


def test_what_nobody_wrote_is_read_back():
    file = File(b"abc" + bytes(5) + b"xyz")
    hashed = OrderedHash(file.read)
    hashed.add(8, memoryview(b"xyz"))
    hashed.add(0, memoryview(b"abc"))
    assert hashed.hexdigest(11) == blake3(file.content).hexdigest()
    assert file.n_read == 5


def test_a_file_that_is_shorter_than_it_should_be_is_an_error():
    with pytest.raises(OSError, match="before it was written"):
        OrderedHash(File(b"").read).hexdigest(1)


def test_threads_may_add_at_once():
    content = random.Random(0).randbytes(1 << 20)
    pieces = [(place, content[place : place + 4096]) for place in range(0, len(content), 4096)]
    random.Random(1).shuffle(pieces)
    file = File(content)
    hashed = OrderedHash(file.read, 1 << 18)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda piece: hashed.add(piece[0], memoryview(piece[1])), pieces))
    assert hashed.hexdigest(len(content)) == blake3(content).hexdigest()

"""The two loops of this folder, shortened; see kills.py and failing_writes.py for the whole."""

import os
import sys

import pytest
from failing_writes import COMPILER, fail_everywhere
from kills import kill_often

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills with signals")


@pytest.mark.slow
def test_run_that_was_killed_at_random_moments_gives_the_bytes_of_an_undisturbed_one(tiny_llama, tmp_path):
    kill_often(tmp_path, "fake", n_kills=4, model=tiny_llama)


@pytest.mark.slow
def test_whole_workflow_that_was_killed_gives_the_bytes_of_an_undisturbed_one(tiny_llama, tmp_path):
    kill_often(tmp_path, "real", n_kills=2, model=tiny_llama)


@pytest.mark.slow
@pytest.mark.skipif(not (sys.platform == "linux" and COMPILER), reason="stands before the C library of Linux")
def test_write_that_fails_is_named_loses_nothing_and_the_next_run_is_right(tiny_llama, tmp_path):
    fail_everywhere(tmp_path, "fake", every=60, first=20, model=tiny_llama)

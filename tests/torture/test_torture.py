"""The two loops of this folder, shortened; see kills.py and failing_writes.py for the whole."""

import sys

import pytest
from failing_writes import COMPILER, fail_everywhere
from kills import kill_often

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, kills, and stands before the C library")


@pytest.mark.slow
@pytest.mark.parametrize(("workflow", "n_kills"), [("fake", 12), ("real", 6)])
def test_run_that_was_killed_at_random_moments_gives_the_bytes_of_an_undisturbed_one(
    workflow, n_kills, tiny_llama, tmp_path
):
    kill_often(tmp_path, workflow, n_kills, model=tiny_llama)


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="needs a C compiler")
@pytest.mark.parametrize(("workflow", "every"), [("fake", 20), ("real", 80)])
def test_write_that_fails_is_named_loses_nothing_and_the_next_run_is_right(workflow, every, tiny_llama, tmp_path):
    fail_everywhere(tmp_path, workflow, every=every, first=every // 2, model=tiny_llama)

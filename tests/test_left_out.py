"""What the end of a run says of the systems that it could not test."""

from types import SimpleNamespace

from left_out import lines


def skipped(nodeid, reason):
    return SimpleNamespace(nodeid=nodeid, longrepr=("file.py", 1, f"Skipped: {reason}"))


def test_left_out_tests_of_systems_are_counted_by_system_and_reason():
    told = lines(
        [
            skipped("tests/systems/test_ray.py", "make test-ray"),
            skipped("tests/systems/test_contract.py::TestLocal::test_line", "no line"),
            skipped("tests/systems/test_contract.py::TestLocal::test_other", "no line"),
            skipped("tests/kernels/test_gpu.py::test_speed", "no GPU"),
        ]
    )
    assert told[0] == "contract TestLocal: 2 left out: no line"
    assert told[1].startswith("ray: ")
    assert told[1].endswith(" left out: make test-ray")
    assert int(told[1].split()[1]) > 20  # those of the contract are among them
    assert len(told) == 2

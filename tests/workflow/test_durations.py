"""What steps took before, and what is foreseen from that."""

from olivine.workflow.durations import FILE, Durations, note_duration


def test_nothing_is_known_of_what_never_ran(tmp_path):
    assert Durations.of(tmp_path).seconds("gptq", {}, 100) is None
    note_duration(tmp_path / "gone", "gptq", {}, 100, 5.0)  # a folder that is not there is no reason to fail


def test_same_params_count_before_others_and_a_larger_model_takes_longer(tmp_path):
    for bits, seconds in ((4, 10.0), (4, 12.0), (4, 50.0), (8, 3.0)):
        note_duration(tmp_path, "gptq", {"bits": bits}, 1000, seconds)
    known = Durations.of(tmp_path)
    assert known.seconds("gptq", {"bits": 4}, 1000) == 12.0
    assert known.seconds("gptq", {"bits": 4}, 3000) == 36.0
    assert known.seconds("gptq", {"bits": 4}, 10) == 12.0
    assert known.seconds("gptq", {"bits": 2}, 1000) == 11.0  # of all that were made, the median
    assert known.seconds("rtn", {"bits": 4}, 1000) is None


def test_lines_that_are_damaged_are_passed_over(tmp_path):
    note_duration(tmp_path, "rtn", {}, 10, 1.0)
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"kind": "rtn"}\n\xff\xfe\n[1]\n{"kind": "rtn", "par')
    assert Durations.of(tmp_path).seconds("rtn", {}, 10) == 1.0

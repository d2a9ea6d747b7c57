import pytest

from olivine.workflow.names import FileNames, name_problem


@pytest.mark.parametrize(
    "name", ["base", "input", "", "  ", "score:lora", "fetch:x", "time:lora", "prepare:x", "data", "prove"]
)
def test_name_that_the_program_uses_itself_is_refused_in_a_sentence(name):
    assert name_problem(name).endswith(".")


@pytest.mark.parametrize("name", ["lora", "Base", "model", "adapter", "logs", "../up", "fetch", "score", "x" * 300])
def test_any_other_name_is_the_users(name):
    assert name_problem(name) is None


def test_file_names_are_never_alike_even_where_case_does_not_count():
    files = FileNames()
    names = [
        "lora",
        "LoRA",
        "score:lora",
        "score-lora",
        "../up",
        "/up",
        "NUL",
        "качество",
        "质量",
        "x" * 300,
        "x" * 301,
    ]
    spelt = [files.of(name) for name in names]
    assert len({one.casefold() for one in spelt}) == len(names)
    assert [files.of(name) for name in names] == spelt
    assert spelt[:2] == ["lora", "LoRA-2"]
    assert all(len(one) < 120 and one.casefold() != "nul" and not {"/", ".", ":"} & set(one) for one in spelt)

"""Every data form of ours keeps the contract that third parties' inherit; one that a config names is found by name."""

import sys
from typing import ClassVar

import pytest
from data_tools import config, word_tokenizer, write_jsonl

from olivine.data import check, describe, prepare, resolved, texts
from olivine.data.forms import Form, Parts, forms
from olivine.errors import DataError
from olivine.testing.data_form import DataFormContract

TURNS = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "joy"}]


class TestTemplate(DataFormContract):
    form = forms.own["template"]
    rows: ClassVar = [{"q": "a b", "tone": "joy"}, {"q": "c", "tone": "fear"}]
    settings: ClassVar = {"text_template": "Text: {q} Tone: {tone} |"}


class TestColumns(DataFormContract):
    form = forms.own["template"]
    rows: ClassVar = [{"q": "a b", "tone": "joy"}]
    settings: ClassVar = {"text_cols": ["q", "tone"]}


class TestPair(DataFormContract):
    form = forms.own["pair"]
    rows: ClassVar = [{"instruction": "a b", "input": "c", "output": "joy"}, {"instruction": "a", "output": "fear"}]
    settings: ClassVar = {"pair_format": "alpaca"}


class TestChat(DataFormContract):
    form = forms.own["chat"]
    rows: ClassVar = [{"messages": TURNS}, {"messages": [*TURNS, *TURNS]}]
    settings: ClassVar = {"chat_template": True}

    def tokenizer(self):
        tokenizer = word_tokenizer()
        tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} |\n{% endfor %}"
        return tokenizer


ECHO = '''
from pydantic import Field
from olivine.data.forms import Form, FormParams, Parts, value_of

class Echo(Form):
    """A word, and the same word again."""

    class Params(FormParams):
        column: str = Field("word", description="column of the word")
        times: int = Field(1, ge=1, description="how often it is said")

    @property
    def columns(self):
        return (self.params.column,)

    @property
    def target(self):
        return self.params.column

    def parts(self, row, target=None):
        word = str(value_of(row, self.params.column))
        return Parts(f"{word} | ", " ".join([word] * self.params.times), word)
'''


@pytest.fixture
def echo(tmp_path, monkeypatch):
    """A distribution that brings a form, one that is broken and one that takes a name of ours."""
    info = tmp_path / "echo-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: echo\nVersion: 1.0\n")
    points = "echo = echo_form:Echo\nbroken = echo_form:Nothing\nChat = echo_form:Echo\n"
    (info / "entry_points.txt").write_text(f"[olivine.data.forms]\n{points}")
    (tmp_path / "echo_form.py").write_text(ECHO)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "echo_form", raising=False)
    forms.forget()
    write_jsonl(tmp_path / "train.jsonl", [{"word": "joy"}, {"word": "fear"}])
    yield tmp_path
    forms.forget()


def test_form_of_a_third_party_is_used_where_a_config_names_it(echo):
    named = config(echo, form="echo", form_params={"times": 2})
    assert list(check(named)) == []
    assert describe(named) == ("the rows of 'tones' are of the form 'echo'; the completion alone is trained on, 'word'")
    with pytest.raises(DataError, match="no data form 'ecko'"):  # and no word on rows of a form that is none
        describe(config(echo, form="ecko"))
    settings = resolved(named).pre_process_data_config
    assert (settings.strategy, settings.train_on) == ("line-by-line", "completion")
    prepared = prepare(named, word_tokenizer())
    (first, _) = [prepared.samples()[index] for index in range(2)]
    tokenizer = word_tokenizer()
    assert tokenizer.decode(first["input_ids"]) == "<s> joy | joy joy </s>"
    assert tokenizer.decode([label for label in first["labels"] if label >= 0]) == "joy joy </s>"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"form": "ecko"}, "there is no data form 'ecko'; did you mean 'echo'?"),
        ({"form": "broken"}, "'broken' of the package 'echo' does not load (AttributeError"),
        ({"form": "echo", "form_params": {"times": 0}}, "'form_params' of the form 'echo': times: input should be"),
        ({"form": "echo", "form_params": {"tines": 2}}, "tines: extra inputs are not permitted"),
        ({"form": "echo", "form_params": {"column": "wort"}}, "needs the column 'wort'"),
        ({"form": "echo", "text_cols": "word"}, "'form' and 'text_cols' both say how a row becomes text."),
        ({"form_params": {"times": 2}}, "'form_params' are those of a 'form', which is not named."),
    ],
)
def test_wrong_form_is_one_sentence_of_the_plan(echo, settings, says):
    problems = [str(problem) for problem in check(config(echo, **settings))]
    assert len(problems) == 1
    assert says in problems[0]
    assert "?." not in problems[0]


@pytest.mark.parametrize(
    ("settings", "key"), [({"form": "ecko"}, "form"), ({"form": "echo", "form_params": {"times": 0}}, "form_params")]
)
def test_problem_of_a_form_stands_at_its_key(echo, settings, key):
    (problem,) = check(config(echo, **settings))
    assert problem.key == ("pre_process_data_config", key)


def test_third_party_takes_no_name_of_ours_and_its_code_is_part_of_what_is_kept(echo):
    assert forms.find("chat").__module__ == "olivine.data.forms.chat"
    named = config(echo, form="echo")
    first = prepare(named, word_tokenizer(), echo / "cache")
    (echo / "echo_form.py").write_text(ECHO.replace("{word} | ", "{word} fear "))
    second = prepare(named, word_tokenizer(), echo / "cache")
    assert first.store is not second.store
    assert len(list((echo / "cache").glob("tokens-*/"))) == 2


def test_rows_of_a_broken_form_are_not_read(echo):
    from olivine.data import read_rows

    named = config(echo, form="broken")
    with pytest.raises(DataError, match="does not load"):
        texts(named, read_rows(named), word_tokenizer())


def test_doctor_names_forms_that_do_not_load(echo):
    from olivine.workflow.doctor import diagnose

    findings = [finding for finding in diagnose() if finding.name == "data form"]
    assert [finding.message for finding in findings if finding.ok] == ["'echo' of echo_form"]
    (broken, taken) = sorted(finding.message for finding in findings if not finding.ok)
    assert "'Chat' of the package 'echo' does not load (ValueError: another plugin has that name)" in broken
    assert "'broken' of the package 'echo' does not load" in taken


class Thread(Form):
    """What was said in turns, the last one the answer."""

    columns = ("turns",)
    target = "turns"

    def parts(self, row, target=None):
        *before, last = row["turns"]
        return Parts(prompt=" ".join(before), target=last, label=last)


class Strict(Thread):
    """A thread that has to have turns of its own kind."""

    def parts(self, row, target=None):
        raise DataError("no thread")


def test_row_whose_nested_answer_is_empty_is_not_answered():
    thread = Thread(None)
    answered = [thread.is_answered({"turns": turns}) for turns in (["a", "b"], ["a", " "], [], None)]
    assert answered == [True, False, False, False]
    assert Strict(None).is_answered({"turns": ["a"]})  # what does not fit is refused, and not left out

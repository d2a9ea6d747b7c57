"""What every data form keeps to, as tests that a form's own test class inherits."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from olivine.config.schema import PreProcess
from olivine.data.forms import Form
from olivine.testing._plugin import check_help, check_params, give_name, refusal

_TRAINABLE = ("all", "completion", "assistant")


class DataFormContract:
    """Set `form` to the class and `rows` to some that fit it.

    settings: what a config says to get the form; without it, its name as `form`.
    """

    form: ClassVar[type[Form]]
    rows: ClassVar[Sequence[Mapping[str, Any]]]
    settings: ClassVar[Mapping[str, Any] | None] = None

    def tokenizer(self) -> Any:
        """The tokenizer of a model, for a form that renders by its template."""
        return None

    def make(self) -> Form:
        """The form, as a config asks for it."""
        give_name(self.form)
        given = self.settings if self.settings is not None else {"form": "the form of this test"}
        return self.form.of(PreProcess.model_validate(given), self.tokenizer())

    def test_docstring_and_params_can_be_shown_and_written(self) -> None:
        """The help of the plugin is the first line of its docstring."""
        check_help(self.form)
        check_params(self.form.Params)
        assert self.form.trains_on in _TRAINABLE

    def test_rows_have_the_columns_that_the_form_names(self) -> None:
        """The target is one of them."""
        form = self.make()
        assert form.columns
        assert form.key
        assert form.target in form.columns
        for row in self.rows:
            assert set(form.columns) <= set(row)

    def test_prompt_and_target_are_the_whole_text(self) -> None:
        """What a model is trained on is what it is asked."""
        form = self.make()
        for row in self.rows:
            form.check(row)
            parts = form.parts(row)
            assert parts.target
            assert parts.label in parts.target
            assert form.text(row).startswith(parts.prompt + parts.target)

    def test_spans_lie_in_the_text_in_order(self) -> None:
        """What is trained on is a part of the text."""
        form = self.make()
        for row in self.rows:
            text = form.marked(row, form.trains_on)
            assert str(text) == form.text(row)
            ends = [0, *(end for span in text.spans or () for end in span), len(text)]
            assert ends == sorted(ends)

    def test_same_row_gives_the_same_text(self) -> None:
        """Nothing is drawn, and no row changes the next."""
        first, second = self.make(), self.make()
        texts = [first.text(row) for row in self.rows]
        assert texts == [second.text(row) for row in reversed(self.rows)][::-1]

    def test_rows_that_do_not_fit_are_refused_in_a_sentence_without_a_place(self) -> None:
        """Who knows the file and line adds them."""
        form = self.make()
        row = dict(self.rows[0])
        for wrong in ({}, {name: value for name, value in row.items() if name != form.target}):
            assert refusal(partial(form.check, wrong))

"""The answer in what a model wrote: what a template puts round it is no part of it."""

import json

import pytest

from olivine.config.schema import DataConfig
from olivine.data import Example
from olivine.evaluate import bare
from olivine.evaluate.label_accuracy import matches
from tiny import VOCABULARY

THINK = ("<think>\n\n</think>\n\n", "")
SPECIAL = ["<|end|>", "<|channel|>", "<|message|>"]


@pytest.mark.parametrize(
    ("around", "generated"),
    [
        (THINK, "<think>\n\n</think>\n\njoy<|end|>"),
        (THINK, "<think>\nit was sunny\n</think>\n\njoy"),
        (THINK, "joy"),
        (("Answer: ", ""), "Answer: Joy."),
        (("Answer: ", " (end)<|end|>\n"), "Answer: joy (end)<|end|>"),
        (("<|channel|>final<|message|>", "<|end|>"), "<|channel|>analysis<|message|>a<|channel|>final<|message|>joy"),
        (("\n", ""), "\njoy\nfear"),
        (("", ""), "joy<|end|>"),
    ],
)
def test_answer_is_found_in_what_was_generated(around, generated):
    example = Example("", "", "joy", "", *around)
    assert matches("joy", bare(generated, example, SPECIAL))


@pytest.mark.parametrize("generated", ["<think>\njoy", "<think>\n\n</think>\n\nfear", "<think>joy</think>fear", ""])
def test_thought_is_no_answer(generated):
    assert not matches("joy", bare(generated, Example("", "", "joy", "", *THINK), SPECIAL))


def test_tail_that_the_label_holds_too_cuts_nothing():
    example = Example("", "", "3.14", "", "", ".")
    assert matches("3.14", bare("3.14.", example, ()))


def test_perfect_answers_through_a_template_that_thinks_score_one(tiny_llama, tmp_path):
    """The model answers with each row's own target: whatever the template writes, accuracy is that of the answer."""
    from olivine.evaluate import Answer, score
    from olivine.models import Model
    from olivine.work import Machine, Silent

    class Perfect:
        context_length, untyped = 256, None

        def answer(self, questions, max_new_tokens, end_tokens):
            import numpy as np

            return [Answer(np.zeros((len(q.target), VOCABULARY), np.float32), list(q.target)) for q in questions]

    rows = [{"messages": [{"role": "user", "content": f"day {i}"}, {"role": "assistant", "content": w}]}
            for i, w in enumerate(["joy", "fear", "a\nb"])]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    jinja = (
        "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    config = DataConfig.model_validate(
        {
            "name": "rows",
            "load_dataset_config": {"data_files": str(tmp_path / "rows.jsonl")},
            "pre_process_data_config": {"chat_template": jinja},
        }
    )
    params = {"data": config.model_dump(mode="json"), "part": "all", "eval_size": None, "seed": 0, "target": ""}
    machine = Machine("cpu", "CPUExecutionProvider", 8 * 10**9, 10**12, 2)
    params |= {"max_rows": 9, "previous": None}
    result = score(Model("hf", tiny_llama), params, tmp_path, machine, Silent(), answers=Perfect())
    assert result["scores"]["label_accuracy"] == 1.0

"""What only the tokenizer tells of rows is told before a run begins, and once."""

import json
import shutil
from dataclasses import replace

import pytest

from olivine.cli import exit_code
from olivine.config import load
from olivine.systems import SystemParams
from olivine.systems.local import Local
from olivine.workflow.engine import run
from olivine.workflow.journal import read_journal
from olivine.workflow.plan import make_plan
from olivine.workflow.survey import first_look
from olivine.workflow.workers import Workers

pytestmark = pytest.mark.usefixtures("warm")

ROWS = [{"prompt": f"the quick fox {index}", "completion": "joy"} for index in range(20)]


class NoWorkers:
    """Workers that nobody may ask."""

    def run(self, job, listen, host=None):
        pytest.fail(f"a worker was asked for '{job.kind}'")


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, model, rows=ROWS, *, passes=None, quality=None, **text):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    workflow = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "data_configs": [
            {
                "name": "rows",
                "load_dataset_config": {"data_name": "json", "data_files": "rows.jsonl"},
                "pre_process_data_config": {"max_seq_len": 64, **text},
            }
        ],
        "passes": passes or {"lora": {"type": "lora", "train_data_config": "rows", "eval_dataset_size": 4}},
        "quality": quality or {},
        "cache_dir": "cache",
        "output_dir": "out",
    }
    (folder / "config.json").write_text(json.dumps(workflow, indent=1))
    return "config.json"


def refused(capsys, *arguments):
    """What a command says of a request that is wrong; nothing lies in the output folder."""
    code = exit_code([*arguments, "--config", "config.json"])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "change", "fault"),
    [
        (["run"], {"max_seq_len": 4}, "rows lose every token that is to be trained at a maximum of 4 tokens"),
        (["run"], {"chat_template": "{{ raise_exception('no') }}"}, "the chat template refuses the messages"),
        (["plan", "--prove"], {"max_seq_len": 4}, "rows lose every token that is to be trained"),
    ],
)
def test_rows_that_the_tokenizer_shows_to_be_useless_are_refused_before_anything_is_written(
    there, tiny_llama, capsys, command, change, fault
):
    write(there, tiny_llama, **change, prompt_col="prompt", answer_col="completion")
    code, told = refused(capsys, *command)
    assert code == 2
    assert fault in told
    assert "config.json:" in told
    assert told.count(fault) == 1
    assert not (there / "out").exists()
    assert command == ["run"] or not (there / "cache").exists()


def test_tokens_that_were_added_to_the_tokenizer_alone_are_refused_where_rows_have_them(
    there, tiny_llama, tmp_path, capsys
):
    model = shutil.copytree(tiny_llama, tmp_path / "model")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    number = json.loads((model / "config.json").read_text())["vocab_size"]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    tokenizer["added_tokens"].append({"id": number, "content": "<new>", **flags})
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    write(there, model, [*ROWS, {"prompt": "a <new> one", "completion": "joy"}])
    code, told = refused(capsys, "run")
    assert code == 2
    assert f"rows.jsonl:21: the token '<new>' has the number {number}, but the model has {number} embeddings" in told


def test_data_that_only_calibrates_says_which_step_takes_more_and_what_to_do(there, tiny_llama, capsys):
    quantizer = {"kq": {"type": "kquant", "data_config": "rows", "group_size": 32}}
    write(there, tiny_llama, ROWS[:3], passes=quantizer, quality={"enabled": False})
    code, told = refused(capsys, "run")
    assert code == 2
    assert "step 'kq' calibrates on 'rows': 'rows' gives " in told
    assert "Add rows, or remove 'data_config' of that step: general text is then used." in told


@pytest.mark.slow
def test_too_little_to_calibrate_with_after_a_training_is_told_before_it_and_its_rows_are_looked_at_once(
    there, tiny_llama
):
    lora = {"type": "lora", "train_data_config": "rows", "eval_dataset_size": 4, "training_args": {"max_steps": 1}}
    passes = {"lora": lora, "merge": {"type": "merge"}, "kq": {"type": "kquant", "group_size": 32}}
    write(there, tiny_llama, passes=passes, quality={"enabled": False})
    plan = make_plan(load(there / "config.json"))
    heard = []
    run(plan, heard.append)
    told = [event for event in read_journal(there / "out") if event.kind == "warning"]
    assert told[0].step == "data"
    assert "step 'kq' does not calibrate on the rows of the training: 'rows' gives " in told[0].message
    kinds = [(event.kind, getattr(event, "step", "")) for event in heard]
    assert kinds.index(("step_done", "data")) < kinds.index(("run_started", ""))
    again = make_plan(load(there / "config.json"))
    assert again.cached >= {"lora", "kq"}
    assert first_look(again, NoWorkers(), None) is None  # nothing is to be made of the rows
    for cached in ((), ("lora",)):  # the answer is kept, for a run that goes on too
        assert first_look(replace(plan, cached=frozenset(cached)), NoWorkers(), None) == [told[0].message]


def test_rows_that_changed_are_looked_at_again(there, tiny_llama):
    write(there, tiny_llama)
    with Workers.of([(None, Local(SystemParams()))], there / "cache") as workers:
        assert first_look(make_plan(load(there / "config.json")), workers, None) == []
    assert first_look(make_plan(load(there / "config.json")), NoWorkers(), None) == []
    write(there, tiny_llama, ROWS[1:])
    with pytest.raises(pytest.fail.Exception, match="a worker was asked for 'survey'"):
        first_look(make_plan(load(there / "config.json")), NoWorkers(), None)

"""`olivine data`: what training would see, and why it would refuse it."""

import json

import pytest

from olivine.cli import exit_code
from olivine.data import examine, prepare, shared_rows

ROWS = [{"prompt": f"the quick {word} ", "completion": "joy"} for word in ("fox", "dog", "box", "jug", "day", "night")]


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_config(folder, model, *, more=(), step=None, **text):
    write = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "data_configs": [
            {
                "name": name,
                "load_dataset_config": {"data_name": "json", "data_files": f"{name}.jsonl"},
                "pre_process_data_config": {"max_seq_len": 64, **text},
            }
            for name in ("rows", *more)
        ],
        "passes": {"lora": {"type": "lora", "train_data_config": "rows", **(step or {})}},
        "cache_dir": "cache",
        "output_dir": "out",
    }
    (folder / "config.json").write_text(json.dumps(write))
    return "config.json"


def run(capsys, *arguments):
    code = exit_code(["data", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_samples_show_what_is_trained(there, tiny_llama, capsys):
    write_rows(there / "rows.jsonl", ROWS)
    code, text, _ = run(capsys, write_config(there, tiny_llama))
    assert code == 0
    assert (
        "chats in 'prompt' (user) and 'completion' (assistant), written by the model's chat template (told by" in text
    )
    assert "sample of rows.jsonl:1, " in text
    assert "<|user|>\n    the quick fox <|end|>\n    <|assistant|>\n    «joy<|end|>»" in text
    assert text.count("  sample of ") == 3
    assert "begin token: none" in text  # this tokenizer puts none before a text
    assert "end token: </s>, an end is trained in 100.0% of the rows" in text
    assert "!" not in text


def test_pairs_that_the_config_asks_for_are_no_chats_and_that_is_doubted(there, tiny_llama, capsys):
    write_rows(there / "rows.jsonl", ROWS)
    code, text, _ = run(capsys, write_config(there, tiny_llama, pair_format="self_instruct"))
    assert code == 0
    assert "pairs {prompt, completion}; the completion alone is trained on" in text
    assert "the quick fox« joy</s>»" in text  # the space belongs to the token of the answer
    assert "! the model has a chat template, and 'rows' trains it on other text" in text


def test_columns_that_the_template_does_not_use_are_named(there, tiny_llama, capsys):
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "joy"}]
    write_rows(there / "rows.jsonl", [{"messages": chat, "id": 7, "tools": [{"name": "f"}]}])
    code, text, _ = run(capsys, write_config(there, tiny_llama))
    assert code == 0
    assert "; not read: id\n" in text
    assert "! the column 'tools' of 'rows' is not read: the model's chat template does not use it" in text
    assert "the column 'id'" not in text
    exit_code(["plan", "--config", "config.json"])
    assert "\nwarning: the column 'tools' of 'rows' is not read" in capsys.readouterr().out


def test_rows_are_shown_where_no_result_could_be_written(there, tiny_llama, capsys):
    write_rows(there / "rows.jsonl", ROWS)
    config = write_config(there, tiny_llama)
    (there / "out").write_text("a file")
    code, text, _ = run(capsys, config)
    assert (code, "sample of rows.jsonl:1" in text) == (0, True)
    (there / "taken").write_text("where the tokens would be kept")
    code, _, error = run(capsys, config, "--set", "cache_dir=taken")
    assert (code, "cache_dir" in error, "output_dir" in error) == (2, True, False)


def test_json_has_every_number(there, tiny_llama, capsys):
    write_rows(there / "rows.jsonl", [*ROWS, ROWS[0], {"prompt": " ", "completion": " "}])
    code, text, _ = run(capsys, write_config(there, tiny_llama, pair_format="self_instruct"), "--json")
    (found,) = json.loads(text)
    assert code == 0
    assert (found["data"], found["part"], found["strategy"], found["train_on"]) == (
        "rows",
        "train",
        "line-by-line",
        "completion",
    )
    assert (found["n_rows"], found["n_samples"], found["n_empty_rows"], found["n_lost"]) == (7, 7, 0, 0)
    assert found["n_unanswered_rows"] == 1
    assert found["duplicates"] == {"n": 1, "places": [["rows.jsonl:1", "rows.jsonl:7"]]}
    assert sum(bar["n"] for bar in found["row_lengths"]["histogram"]) == 7
    assert 0 < found["share_trained"] < 0.5
    assert found["problem"] is None
    assert found["warnings"][0] == "1 of 7 rows has the text of an earlier one"
    assert found["warnings"][-1] == (
        "1 of 8 rows of 'rows' has no answer in 'completion' and is left out (first: rows.jsonl:8)"
    )


def test_rows_shared_by_train_and_eval_are_named(there, tiny_llama, capsys):
    write_rows(there / "rows.jsonl", ROWS)
    write_rows(there / "other.jsonl", [ROWS[3], {"prompt": "so ", "completion": "fear"}])
    name = write_config(there, tiny_llama, more=["other"], step={"eval_data_config": "other"})
    _, text, _ = run(capsys, name)
    assert "rows (train)" in text
    assert "other (eval)" in text
    assert "! 1 of the 2 held-out rows of 'other' (50%) is also among those that are trained on" in text
    lines = [line.strip() for line in text.splitlines()]
    told = next(n for n, line in enumerate(lines) if line.startswith("! 1 of the 2 held-out"))
    assert lines[told + 1] == "other.jsonl:1 is rows.jsonl:4"


def test_places_stand_below_the_sentence_that_they_are_about_and_lines_fit(there, tiny_llama, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    write_rows(there / "rows.jsonl", [*ROWS, ROWS[0], {"prompt": "so ", "completion": ""}])
    _, text, _ = run(capsys, write_config(there, tiny_llama))
    lines = text.splitlines()
    told = lines.index("  ! 1 of 7 rows has the text of an earlier one")
    assert lines[told + 1] == "    rows.jsonl:7 is rows.jsonl:1"
    assert lines[told + 2].startswith("  ! 1 of 8 rows")
    assert max(map(len, lines)) <= 60


def test_held_out_rows_are_looked_at_on_their_own(there, tiny_llama, capsys):
    write_rows(there / "rows.jsonl", [*ROWS, *ROWS])
    _, text, _ = run(capsys, write_config(there, tiny_llama, step={"eval_dataset_size": 4}), "--json")
    train, held_out = json.loads(text)
    assert (train["part"], train["n_rows"], held_out["part"], held_out["n_rows"]) == ("train", 8, "eval", 4)
    assert held_out["shared_with_train"]["n"] > 0


def test_rows_that_lose_everything_are_an_error_that_names_the_length(there, tiny_llama, capsys):
    write_rows(there / "rows.jsonl", ROWS)
    code, text, error = run(capsys, write_config(there, tiny_llama, max_seq_len=4))
    assert code == 2
    assert "6 of 6 rows lose every token that is to be trained at a maximum of 4 tokens; 'max_seq_len: " in error
    assert "tokens of a row: " in text
    length = int(error.split("max_seq_len: ")[1].split("'")[0])
    code, _, _ = run(capsys, write_config(there, tiny_llama, max_seq_len=length))
    assert code == 0


def test_run_refuses_the_same_rows_before_it_begins(there, tiny_llama, capsys):
    write_rows(there / "rows.jsonl", ROWS)
    name = write_config(there, tiny_llama, max_seq_len=4)
    code = exit_code(["run", "--config", name])
    assert code == 2
    assert "rows lose every token that is to be trained" in capsys.readouterr().err
    assert not (there / "out").exists()


def test_nothing_to_train_is_an_error(there, tiny_llama, capsys):
    write_rows(there / "rows.jsonl", [{"messages": [{"role": "user", "content": "hello"}]}] * 3)
    code, _, error = run(capsys, write_config(there, tiny_llama))
    assert code == 2
    assert "3 of 3 rows of 'rows' have no answer of the assistant in 'messages' (first: rows.jsonl:1)" in error


@pytest.mark.parametrize(
    ("rows", "text", "warning"),
    [
        ([{"text": "one two"}], {"add_special_tokens": False}, "do not end in a trained end token"),
        ([{"text": "one <s> two"}], {"begin_token": True}, "do not begin with <s> exactly once"),
        ([{"text": "one two three four"}], {"max_seq_len": 5, "strategy": "line-by-line"}, "1 samples are cut"),
    ],
)
def test_what_would_hardly_be_meant_is_a_warning(there, tiny_llama, capsys, rows, text, warning):
    write_rows(there / "rows.jsonl", rows)
    code, printed, _ = run(capsys, write_config(there, tiny_llama, **text))
    assert code == 0
    assert warning in printed


def test_length_is_advised_up_to_what_the_model_reads_and_told_once(there, tiny_llama, capsys):
    write_rows(there / "rows.jsonl", [{"prompt": f"{'x ' * 600}{index}", "completion": "joy"} for index in range(12)])
    name = write_config(there, tiny_llama, step={"eval_dataset_size": 4}, max_seq_len=1024)
    code, text, error = run(capsys, name)
    assert code == 2
    assert error.count("rows lose every token") == 1
    assert "but the model reads 256: shorten what stands before the answers" in error
    assert "'max_seq_len: " not in error
    assert "cut: 100.0% of the samples" in text


@pytest.mark.parametrize("n_samples", [0, 1])
def test_as_many_samples_as_asked_for_are_shown(there, tiny_llama, capsys, n_samples):
    write_rows(there / "rows.jsonl", ROWS)
    _, text, _ = run(capsys, write_config(there, tiny_llama), "--samples", str(n_samples))
    assert text.count("  sample of ") == n_samples


@pytest.mark.parametrize(
    ("line", "fault"), [("{}", "rows.jsonl:7: the row has no column 'prompt'"), ("no", "rows.jsonl:7: not JSON")]
)
def test_bad_row_is_named_and_nothing_is_looked_at(there, tiny_llama, capsys, line, fault):
    write_rows(there / "rows.jsonl", ROWS)
    with (there / "rows.jsonl").open("a") as file:
        file.write(line.replace("{}", '{"completion": "a"}') + "\n")
    code, text, error = run(capsys, write_config(there, tiny_llama))
    assert (code, text) == (2, "")
    assert fault in error


def test_plan_shows_the_form_and_what_is_trained_on(there, tiny_llama, capsys):
    write_rows(there / "rows.jsonl", ROWS)
    exit_code(["plan", "--config", write_config(there, tiny_llama)])
    text = capsys.readouterr().out
    assert "note: the rows of 'rows' are chats in 'prompt' (user) and 'completion' (assistant), written by" in text
    assert "the turns of the assistant are trained on" in text


@pytest.mark.parametrize("template", [{"text_template": "{prompt}{completion}"}, {"chat_template": True}])
def test_old_corpus_trains_on_everything_and_plan_says_what_the_completion_would_be(
    there, tiny_llama, capsys, template
):
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "joy"}]
    write_rows(there / "rows.jsonl", [row | {"messages": messages} for row in ROWS])
    old = {"dataset_type": "corpus", "corpus_strategy": "line-by-line", "source_max_len": 64}
    name = write_config(there, tiny_llama, **old, **template)
    config = json.loads((there / name).read_text())
    config["data_configs"][0]["pre_process_data_config"].pop("max_seq_len")
    (there / name).write_text(json.dumps(config))
    assert exit_code(["plan", "--config", name]) == 0
    text = capsys.readouterr().out
    assert "trained on every token, prompts included; that is written down: 'train_on: all'" in text
    assert "all of it is trained on; 'train_on: completion' would train on " in text
    _, told, _ = run(capsys, name, "--json")
    (found,) = json.loads(told)
    assert found["n_trained_tokens"] == found["n_tokens"] - found["n_samples"]


def test_config_that_is_not_there_is_one_sentence(there, capsys):
    code, _, error = run(capsys, "none.json")
    assert code == 2
    assert "none.json" in error


def test_blocks_of_joined_rows_are_shown_too(there, tiny_llama, capsys):
    write_rows(there / "rows.jsonl", [{"text": "the quick brown fox"}] * 9)
    code, text, _ = run(capsys, write_config(there, tiny_llama, strategy="join", max_seq_len=16))
    assert code == 0
    assert "  sample, 16 tokens:" in text


def test_numbers_are_those_counted_by_hand(there, tiny_llama):
    from transformers import AutoTokenizer

    from olivine.config.schema import DataConfig

    write_rows(there / "rows.jsonl", ROWS)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    text = {"pair_format": "self_instruct"}
    data = {"name": "rows", "load_dataset_config": {"data_files": "rows.jsonl"}, "pre_process_data_config": text}
    prepared = prepare(DataConfig.model_validate(data), tokenizer)
    found = examine(prepared)
    lengths = [len(tokenizer(row["prompt"] + row["completion"])["input_ids"]) + 1 for row in ROWS]
    n_trained = len(ROWS) * (len(tokenizer("joy")["input_ids"]) + 1)
    assert found["n_tokens"] == sum(lengths)
    assert found["share_trained"] == n_trained / sum(lengths)
    assert (found["row_lengths"]["shortest"], found["row_lengths"]["longest"]) == (min(lengths), max(lengths))
    assert shared_rows(prepared, [0, 1], prepared, [2, 3]) == {"n": 0, "places": []}


def test_end_that_the_cut_takes_is_not_said_to_be_trained(there, tiny_llama, capsys):
    write_rows(there / "rows.jsonl", [{"text": "one two three four"}, {"text": "a"}])
    _, text, _ = run(capsys, write_config(there, tiny_llama, max_seq_len=5, strategy="line-by-line"))
    assert "an end is trained in 50.0% of the rows" in text
    assert "1 samples are cut" in text
    assert "do not end in a trained end token" not in text  # they would, if they were not cut

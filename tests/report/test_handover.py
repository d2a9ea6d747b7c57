"""What lies beside a model: its card, a script that runs it, its numbers."""

import ast
import json
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

import journals
from olivine.report.handover import hand_over, handing_over
from olivine.workflow.events import RunDone, StepCached, StepDone, StepStarted

CHAT, TEXT = {"text_template": None, "chat_template": True}, {"text_template": "{phrase} {tone}", "chat_template": None}


def delivered(folder, files=("genai_config.json", "chat_template.jinja"), run="1" * 12, **more):
    """An output folder with a journal and a model; gives what was warned of."""
    journals.write(folder, journals.ordinary(folder, **more), run=run)
    (folder / "model").mkdir(exist_ok=True)
    for name in files:
        (folder / "model" / name).write_text("{}")
    warned = []
    hand_over(folder, warned.append)
    return warned


def test_card_is_one_that_the_hub_reads(tmp_path):
    assert delivered(tmp_path / "tone") == []
    card = ModelCard.load(tmp_path / "tone" / "README.md")
    data = card.data
    assert (data.base_model, data.license) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert (data.library_name, data.pipeline_tag, data.base_model_relation) == (
        "onnxruntime-genai",
        "text-generation",
        "finetune",
    )
    first = data.eval_results[0]
    assert (first.metric_type, first.metric_value, first.metric_name) == ("accuracy", 0.862, "label accuracy, build")
    assert len(data.eval_results) == 4 + 4 + 3
    assert "| build |    86.2% |" in card.text
    assert "4,884,480 parameters trained" in card.text


@pytest.mark.parametrize(("base", "call"), [("m/llama", "AutoPeftModel"), (None, "PeftModel.from_pretrained(base")])
def test_card_of_an_adapter_loads_the_base_that_it_names(base, call, tmp_path):
    (tmp_path / "model").mkdir(parents=True)
    (tmp_path / "model" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    journals.write(tmp_path, journals.ordinary(tmp_path))
    hand_over(tmp_path, lambda _: None)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "peft"
    assert call in card.text
    assert ("AutoPeft" in card.text) == (base is not None)


def test_base_that_lies_on_a_disk_is_named_and_no_repository(tmp_path):
    journals.write(tmp_path, journals.ordinary(tmp_path))
    text = (tmp_path / "journal.jsonl").read_text()
    changed = text.replace(
        '"base": "HuggingFaceTB/SmolLM2-135M-Instruct", "licence": "apache-2.0"',
        '"base": "phi.gguf", "licence": "phi terms"',
    )
    assert changed != text
    (tmp_path / "journal.jsonl").write_text(changed)
    (tmp_path / "model").mkdir()
    hand_over(tmp_path, lambda _: None)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model is None
    assert (card.data.license, card.data.license_name) == ("other", "phi terms")
    assert "Made from `phi.gguf`" in card.text
    assert not (tmp_path / "run.py").exists()  # a Hugging Face folder is not run by onnxruntime-genai


def test_markup_in_what_is_quoted_of_data_is_text_in_the_card(tmp_path):
    delivered(tmp_path, warning="e.g. <img src=x> [a](b) `c`\n# d")
    assert r"\<img src=x\> \[a\](b) \`c\` \# d" in (tmp_path / "README.md").read_text()


def test_numbers_are_there_for_machines(tmp_path):
    delivered(tmp_path, missed=("the loss is too high",))
    told = json.loads((tmp_path / "metrics.json").read_text())
    assert told["status"] == "goal missed"
    assert told["missed"] == ["the loss is too high"]
    assert [row["model"] for row in told["scores"]] == ["base", "lora", "merge", "build"]
    assert [step["step"] for step in told["steps"]] == ["lora", "merge", "build"]


@pytest.mark.parametrize(
    ("form", "files", "is_chat"),
    [
        (CHAT, ("genai_config.json", "chat_template.jinja"), True),
        (TEXT, ("genai_config.json", "chat_template.jinja"), False),
        (CHAT, ("genai_config.json",), False),
    ],
)
def test_script_asks_as_the_model_was_trained_and_needs_the_runtime_alone(form, files, is_chat, tmp_path):
    delivered(tmp_path, files, form=form)
    source = (tmp_path / "run.py").read_text()
    tree = ast.parse(source)
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert imported == {"sys", "onnxruntime_genai", *(["json"] if is_chat else [])}
    assert ("apply_chat_template" in source) == is_chat


def test_what_a_user_changed_or_had_there_stays_and_is_told(tmp_path):
    (tmp_path / "README.md").write_text("# my project")
    (warning,) = delivered(tmp_path)
    assert "README.md' is not as olivine wrote it, and stays as it is" in warning
    assert (tmp_path / "README.md").read_text() == "# my project"
    (tmp_path / "README.md").unlink()
    assert delivered(tmp_path, run="2") == []
    card = (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text(card + "my words")
    assert delivered(tmp_path, run="3") != []
    assert (tmp_path / "README.md").read_text() == card + "my words"


def test_files_of_an_earlier_run_are_replaced(tmp_path):
    delivered(tmp_path)
    before = (tmp_path / "metrics.json").read_text()
    assert delivered(tmp_path, run="2", missed=("too slow",)) == []
    assert (tmp_path / "metrics.json").read_text() != before
    assert "too slow" in (tmp_path / "README.md").read_text()


def test_run_that_was_killed_while_it_wrote_knows_its_own_files(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    delivered(tmp_path)
    card = (tmp_path / "README.md").read_text()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.fsync", stop_at(4, killed))
        delivered(tmp_path, run="2", missed=("too slow",))
    assert (tmp_path / "metrics.json").read_text().count("too slow") == 1
    assert (tmp_path / "README.md").read_text() == card
    assert delivered(tmp_path, run="3", missed=("too slow",)) == []
    assert "too slow" in (tmp_path / "README.md").read_text()


def stop_at(n_calls, stop):
    """A function that does nothing until it is called so often."""
    calls = iter(range(1, n_calls))

    def call(*arguments):
        if next(calls, None) is None:
            stop(*arguments)

    return call


def test_report_of_another_program_keeps_nothing_else_away(tmp_path):
    (tmp_path / "report.html").write_text("<p>coverage</p>")
    (warning,) = delivered(tmp_path)
    assert "is not a report of olivine" in warning
    assert (tmp_path / "README.md").is_file()


def test_same_run_again_imports_nothing_of_the_hub(tmp_path, monkeypatch):
    delivered(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert delivered(tmp_path, run="2") == []


def cached(folder, events, warned):
    """The same run once more, all of whose steps are in the cache."""
    shown = [one for one in events if not isinstance(one, StepStarted)]
    again = [StepCached(**vars(one)) if isinstance(one, StepDone) else one for one in shown]
    return told(folder, again, warned, run="2" * 12)


def told(folder, events, warned, run="1" * 12):
    """A run of which all is heard that stands in its journal; gives what lies in its folder."""
    (folder / "model").mkdir(exist_ok=True, parents=True)
    with handing_over(folder, lambda _: None, warned.append) as listen:
        journals.write(folder, events, run=run)
        for event in events:
            listen(event)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.suffix != ".jsonl"}


@pytest.fixture
def made(tmp_path):
    """Events of a run that worked, and what it left."""
    events = list(journals.ordinary(tmp_path))
    return events, told(tmp_path, events, [])


def test_run_in_which_no_step_works_leaves_what_the_run_before_wrote(made, tmp_path, monkeypatch):
    events, before = made
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    warned = []
    assert cached(tmp_path, events, warned) == before
    assert warned == []


@pytest.mark.parametrize("name", ["report.html", "README.md", "metrics.json", ".handed-over.json"])
def test_file_that_was_lost_is_drawn_again(name, made, tmp_path):
    events, before = made
    (tmp_path / name).unlink()
    after = cached(tmp_path, events, [])
    assert "cached" in after["report.html"].decode()
    assert (after["README.md"], after["metrics.json"]) == (before["README.md"], before["metrics.json"])


def test_torn_report_is_drawn_again(made, tmp_path):
    events, before = made
    (tmp_path / "report.html").write_bytes(before["report.html"][:2000])
    assert "</html>" in cached(tmp_path, events, [])["report.html"].decode()


def test_run_that_asks_for_more_is_drawn_though_all_was_cached(made, tmp_path):
    events, before = made
    changed = [replace(one, missed=("too slow",)) if isinstance(one, RunDone) else one for one in events]
    after = cached(tmp_path, changed, [])
    assert after["report.html"] != before["report.html"]
    assert "too slow" in after["README.md"].decode()


def test_report_of_another_program_is_told_again(tmp_path):
    events, warned = list(journals.ordinary(tmp_path)), []
    (tmp_path / "report.html").write_text("<p>coverage</p>")
    told(tmp_path, events, warned)
    cached(tmp_path, events, warned)
    assert len(warned) == 2


def test_failed_run_leaves_a_report_and_what_was_there(tmp_path):
    delivered(tmp_path)
    card = (tmp_path / "README.md").read_text()
    journals.write(tmp_path, journals.failing(tmp_path), run="9" * 12)
    hand_over(tmp_path, lambda _: None)
    assert (tmp_path / "README.md").read_text() == card
    assert "The run failed" in (tmp_path / "report.html").read_text()


def test_folder_that_takes_no_file_is_told_and_raises_nothing(tmp_path):
    journals.write(tmp_path, journals.ordinary(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / ".handed-over.json").mkdir()
    warned = []
    hand_over(tmp_path, warned.append)
    assert len(warned) == 1
    assert "what goes with the model is not written" in warned[0]


def test_folder_that_takes_no_lock_is_told_and_raises_nothing(tmp_path):
    journals.write(tmp_path, journals.ordinary(tmp_path))
    (tmp_path / ".delivery.lock").mkdir()
    warned = []
    hand_over(tmp_path, warned.append)
    assert len(warned) == 1
    assert "the report is not written: " in warned[0]
    assert ".delivery.lock" in warned[0]

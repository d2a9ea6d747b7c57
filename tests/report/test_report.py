"""The page of a run, drawn from its events alone."""

import json
import re
from dataclasses import fields, replace
from html.parser import HTMLParser

import pytest

import journals
from olivine.cli import exit_code
from olivine.errors import RequestError
from olivine.report import html_of, last_run, svg, write_report
from olivine.workflow.events import RunDone, StepCached, StepDone
from olivine.workflow.units import readable_bytes

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>{{7*7}}</pre>"
VOID = {"meta", "br", "wbr", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Every tag that is opened is closed; attributes, text and ids by the way."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.ids, self.text = [], [], [], [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data


def drawn(folder, *events):
    for n, run in enumerate(events):
        journals.write(folder, run, run=f"run{n}", start=journals.START + 1e5 * n)
    return html_of([last_run(folder)])


def test_page_holds_every_section_in_order_and_loads_nothing(tmp_path):
    html = drawn(tmp_path, journals.ordinary(tmp_path, r=8), journals.ordinary(tmp_path, n_trials=20))
    told = Page(html)
    sections = [name for name in told.ids if f"{name}-title" in told.ids]
    assert sections == [
        *(
            "verdict",
            "scores",
            "samples",
            "search",
            "lineage",
            "training",
            "parity",
            "cost",
            "contents",
            "change",
            "data",
        ),
        "environment",
    ]
    assert len(told.ids) == len(set(told.ids))
    links = {value for name, value in told.attributes if name in ("src", "href", "srcset", "action")}
    assert all(link.startswith("#") for link in links)
    assert "@import" not in html
    assert "url(" not in html.replace("url(#arrow)", "")
    assert len(html.encode()) < 300_000


def test_verdict_comes_first_and_says_what_was_missed(tmp_path):
    missed = ("accuracy of 'build' fell by 5.0 points",)
    goal = {"name": "speed", "unit": "ms", "higher_is_better": False, "baseline": 9.0, "value": 12.0, "bound": 10.0}
    told = Page(
        drawn(
            tmp_path, journals.ordinary(tmp_path, missed=missed, measured=({**goal, "margin": -2.0, "is_met": False},))
        )
    )
    assert "it misses a goal" in told.text
    assert missed[0] in told.text
    assert re.search(r"speed\s*9 ms\s*12 ms\s*≤ 10 ms\s*-2 ms\s*✗ no", told.text)
    assert told.text.index("it misses a goal") < told.text.index("Every model on the same rows", 400)


def test_verdict_tells_what_the_plan_warned_of(tmp_path):
    started, *others = journals.ordinary(tmp_path)
    told = Page(
        drawn(tmp_path, [replace(started, translated=("a note", "warning: half of them are trained on")), *others])
    )
    head = told.text[: told.text.index("Measured on")]
    assert "half of them are trained on" in head
    assert "a note" not in head


def test_verdict_says_that_an_accuracy_of_zero_tells_nothing(tmp_path):
    def events():
        for event in journals.ordinary(tmp_path):
            is_end = isinstance(event, RunDone)
            yield replace(event, scores=[{**row, "label_accuracy": 0.0} for row in event.scores]) if is_end else event

    told = Page(drawn(tmp_path, events()))
    assert "no row is answered right" in told.text[: told.text.index("Measured on")]
    assert "no row is answered right" not in Page(drawn(tmp_path / "right", journals.ordinary(tmp_path))).text


def test_ticks_of_an_axis_are_told_apart():
    dots = [svg.Dot(0.6, 143_100, "a", "best", "trial-1"), svg.Dot(0.7, 144_900, "b", "other", "trial-2")]
    drawn_dots = str(
        svg.scatter(dots, svg.Axis("accuracy", "{:.0%}".format), svg.Axis("size", readable_bytes), "Trials")
    )
    told = re.findall(r'class="(?:middle|end)">([^<]+)<', drawn_dots)
    assert len(told) > 3
    assert len(set(told)) == len(told)


def test_failed_run_says_cause_and_log(tmp_path):
    told = Page(drawn(tmp_path, journals.failing(tmp_path)))
    assert "The run failed." in told.text
    assert "lora: the GPU has no room" in told.text
    assert "logs/lora.log" in told.text


def test_run_that_was_killed_is_drawn_as_far_as_it_came(tmp_path):
    events = list(journals.ordinary(tmp_path))
    for n in range(1, len(events)):
        folder = tmp_path / str(n)
        journals.write(folder, events[:n])
        assert "has not come to its end" in Page(html_of([last_run(folder)])).text


def test_wrong_answers_are_marked_where_they_differ(tmp_path):
    html = drawn(tmp_path, journals.ordinary(tmp_path))
    assert "<mark>sadness, I am afraid</mark>" in html
    assert "wrong on 3 of these 20 rows" in html
    assert html.count('<article class="card wrong"') == 3
    assert html.index('class="card wrong"') < html.index('class="card"')


def hostile(value):
    """Every text of a record replaced by one that would break a page that does not escape."""
    if isinstance(value, dict):
        return {f"{key}{EVIL}" if key in ("joy", "lora.r") else key: hostile(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [hostile(item) for item in value]
    return EVIL if isinstance(value, str) else value


KEEP = {"event", "run", "status", "outcome", "unit", "pass"}


def test_text_of_data_configs_and_models_is_inert(tmp_path):
    journals.write(tmp_path, journals.ordinary(tmp_path, n_trials=6))
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    evil = [{key: value if key in KEEP else hostile(value) for key, value in line.items()} for line in lines]
    (tmp_path / "journal.jsonl").write_text("\n".join(map(json.dumps, evil)) + "\n")
    html = html_of([last_run(tmp_path)])
    told = Page(html)
    assert "img" not in told.tags
    assert not [name for name, _ in told.attributes if name.startswith("on")]
    assert told.tags.count("script") == html.count("<script")
    assert all("alert" not in script for script in re.findall(r"<script>(.*?)</script>", html, re.DOTALL))
    assert "{{7*7}}" in told.text
    assert EVIL in told.text


def test_what_the_trials_of_a_search_made_is_not_called_cached(tmp_path):
    """The end of a search finds its steps in the cache, where its own trials have put them."""
    made = [event for event in journals.of_steps({}) if type(event) is StepDone]
    (found,) = (event for event in journals.of_steps({}) if type(event) is StepCached)
    start, *others = journals.ordinary(tmp_path, n_trials=2)
    again = [
        StepCached(**{one.name: getattr(event, one.name) for one in fields(event)})
        if type(event) is StepDone
        else event
        for event in others
    ]
    journals.write(tmp_path, [start, *made, *again])
    run = last_run(tmp_path)
    assert [step.key for step in run.steps if run.is_earlier(step)] == [found.key]
    told = Page(html_of([run])).text
    assert f"1 of {len(run.steps)} steps from the cache, 2 trials" in told


def test_search_of_a_thousand_trials_has_a_row_and_a_dot_for_each(tmp_path):
    html = drawn(tmp_path, journals.ordinary(tmp_path, n_trials=1000))
    told = Page(html)
    assert len([name for name in told.ids if re.fullmatch(r"trial-\d+", name)]) == 1000
    n_failed = 1000 // 17
    assert html.count('class="dot ') == 1000 - n_failed
    assert html.count("the step ran out of memory") == n_failed
    assert len(html.encode()) < 1_500_000


def test_number_that_is_none_is_drawn_as_such(tmp_path):
    """NaN has no word in JSON: any score, loss or value of a trial may be null."""
    journals.write(tmp_path, journals.ordinary(tmp_path, n_trials=4))
    whole = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    for key in ("label_accuracy", "size_bytes", "loss", "kl", "kl_p99", "loss_curve", "drop"):
        lines = [without(line, key) for line in whole]
        assert lines != whole
        (tmp_path / "journal.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
        Page(html_of([last_run(tmp_path)]))
        Page(html_of([last_run(tmp_path)] * 2))


def without(value, key):
    """A record in which every number of that name is null; of a curve those of its first half."""
    if isinstance(value, dict):
        return {name: nothing(item) if name == key else without(item, key) for name, item in value.items()}
    return [without(item, key) for item in value] if isinstance(value, list) else value


def nothing(value):
    if isinstance(value, list):
        return [[step, None] for step, _ in value[:75]] + value[75:]
    return None


def test_check_that_makes_no_model_is_not_drawn_as_the_result(tmp_path):
    def events():
        for event in journals.ordinary(tmp_path):
            yield event
            if event.kind == "score" and event.model == "build":
                yield StepDone(
                    step="check", pass_name="parity_check", parent="build", facts={"parity": journals.parity_record()}
                )

    html = drawn(tmp_path, events())
    assert '<text class="strong"' in html.partition('class="node result"')[2]
    assert re.search(r'class="node result">.*?<text class="strong"[^>]*>(\w+)</text>', html)[1] == "build"


def test_difference_to_the_last_run_names_what_changed_in_the_config(tmp_path):
    told = Page(
        drawn(tmp_path, journals.ordinary(tmp_path, r=8), journals.failing(tmp_path), journals.ordinary(tmp_path, r=32))
    )
    assert re.search(r"passes\.lora\.r\s*8\s*32", told.text)


def test_runs_of_several_folders_are_compared(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, rank in (("a", 8), ("b", 16)):
        journals.write(tmp_path / name / "out", journals.ordinary(tmp_path / name / "out", r=rank), run=name)
    journals.write(tmp_path / "c", journals.failing(tmp_path / "c"), run="c")
    assert exit_code(["report", "a/out", "b/out/journal.jsonl", "c"]) == 0
    assert capsys.readouterr().out == "comparison.html\n"
    told = Page((tmp_path / "comparison.html").read_text())
    assert re.search(r"a/out.*b/out.*passes\.lora\.r\s*8\s*16", told.text, re.DOTALL)
    assert "failed" in told.text


def test_comparison_tells_a_cached_run_as_such_and_leaves_out_what_reads_the_same(tmp_path):
    """Its 0.0 s beside the minutes of another say nothing; nor does a divergence of 1e-9 beside one of 2e-9."""

    def events(kl, kind):
        for event in journals.ordinary(tmp_path):
            match event:
                case StepDone():
                    yield kind(**{one.name: getattr(event, one.name) for one in fields(event)})
                case RunDone():
                    yield replace(event, scores=[{**row, "kl": kl} for row in event.scores])
                case _:
                    yield event

    for name, kl, kind in (("made", 1e-9, StepDone), ("again", 2e-9, StepCached)):
        journals.write(tmp_path / name, events(kl, kind), run=name)
    told = Page(html_of([last_run(tmp_path / name) for name in ("made", "again")]))
    assert re.search(r"whole run\s*\d+.*? s\s*cached", told.text)
    assert "e-09" not in told.text
    assert "merge: kl" not in told.text


def test_report_is_made_again_from_the_journal(tmp_path, capsys):
    journals.write(tmp_path, journals.ordinary(tmp_path))
    for _ in range(2):
        assert exit_code(["report", str(tmp_path)]) == 0
        assert capsys.readouterr().out.split() == [str(tmp_path / "report.html")]
    assert exit_code(["report", str(tmp_path), "--output", str(tmp_path / "other.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "other.html")}
    assert (tmp_path / "other.html").read_bytes() == (tmp_path / "report.html").read_bytes()


def test_file_of_another_program_is_not_written_over(tmp_path):
    journals.write(tmp_path, journals.ordinary(tmp_path))
    (tmp_path / "report.html").write_text("<html>coverage</html>")
    with pytest.raises(RequestError, match=r"report.html' is not a report of olivine, and stays as it is"):
        write_report([last_run(tmp_path)], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "<html>coverage</html>"


@pytest.mark.parametrize(("journal", "says"), [(None, "no journal.jsonl that can be read"), ("", "holds no run")])
def test_folder_without_a_run_is_refused_in_a_sentence(journal, says, tmp_path, capsys):
    if journal is not None:
        (tmp_path / "journal.jsonl").write_text(journal)
    assert exit_code(["report", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.glob("*.html")) == []

"""A kind of file is a plugin by file, and may come from another package."""

import sys

import pytest
from data_tools import config

from olivine.data import check, data_files, read_rows
from olivine.data.sources import kinds, sources

BARS = '''
from olivine.data.sources import PLAIN, FileSource
from olivine.errors import DataError

class Bars(FileSource):
    """Cells between bars, the first line names the columns."""

    suffixes = (".bars",)

    def read(self, path, options=PLAIN):
        header, *lines = path.read_text(encoding="utf-8").splitlines()
        names = header.split("|")
        for number, line in enumerate(lines, 2):
            cells = line.split("|")
            wrong = DataError(f"{len(cells)} cells for {len(names)} columns")
            yield number, dict(zip(names, cells)) if len(cells) == len(names) else wrong
'''


@pytest.fixture
def bars(tmp_path, monkeypatch):
    info = tmp_path / "bars-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bars\nVersion: 1.0\n")
    points = "bars = barred:Bars\njson = barred:Bars\nbroken = barred:Nothing\n"
    (info / "entry_points.txt").write_text(f"[olivine.data.sources]\n{points}")
    (tmp_path / "barred.py").write_text(BARS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "barred", raising=False)
    sources.forget()
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.bars").write_text("phrase|tone\na b|joy\nc|fear\n")
    yield tmp_path
    sources.forget()


@pytest.mark.parametrize("name", ["bars", "rows"])
def test_source_of_a_third_party_reads_its_files_by_name_and_by_suffix(bars, name):
    files = "rows/train.bars" if name == "bars" else None
    given = config(bars, files, load={"data_name": name}, text_template="{phrase}: {tone}")
    assert list(check(given)) == []
    assert [path.name for path in data_files(given)] == ["train.bars"]
    rows = read_rows(given)
    assert list(rows) == [{"phrase": "a b", "tone": "joy"}, {"phrase": "c", "tone": "fear"}]
    assert rows.where(1) == "rows/train.bars:3"


def test_wrong_row_of_it_is_told_by_file_and_line(bars):
    (bars / "rows" / "train.bars").write_text("phrase|tone\na b\n")
    given = config(bars, "rows/train.bars", load={"data_name": "bars"}, text_template="{phrase}: {tone}")
    (problem,) = check(given)
    assert str(problem) == "rows/train.bars:2: 1 cells for 2 columns."


def test_third_party_takes_no_name_of_ours(bars):
    assert sources.find("json").__module__ == "olivine.data.sources.json"
    assert kinds() == {
        "audiofolder": (),
        "bars": (".bars",),
        "csv": (".csv", ".tsv"),
        "imagefolder": (),
        "json": (".json", ".jsonl", ".ndjson"),
        "parquet": (".parquet",),
        "text": (".txt",),
    }

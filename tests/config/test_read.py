"""The reader: lines, what it refuses, and that it agrees with the standard library."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from olivine.config import read
from olivine.config.json_text import SyntaxFault, parse_json
from olivine.config.nodes import plain
from olivine.config.yaml_text import parse_yaml
from olivine.errors import ConfigError

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as error:
        read(path)
    (problem,) = error.value.problems()
    assert "\n" not in str(problem)
    return str(problem)


def written(tmp_path: Path, content: str | bytes, name: str = "config.json") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("qa.csv", "question,answer\na,b\n"),
        ("rows.jsonl", '{"a": 1}\n{"a": 2}\n'),
        ("one.jsonl", '{"a": 1}\n'),
        ("rows.parquet", b"PAR1\xff"),
        ("a.txt", "joy"),
    ],
)
def test_file_of_rows_is_no_config_and_is_told_how_to_get_one(tmp_path, name, content):
    told = refused(written(tmp_path, content, name))
    assert f"'olivine init {name}' makes one, or name the config that reads '{name}'" in told


@given(JSON_VALUES, st.sampled_from([None, 0, 2, "\t"]), st.booleans())
def test_json_parser_reads_what_the_standard_library_writes(value, indent, ascii_only):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert plain(parse_json(text, "x")) == json.loads(text) == value


@given(st.text(alphabet='{}[]":,0123456789.eE+-truefalsn \n\\/"ab', max_size=30))
@settings(max_examples=400)
def test_json_parser_accepts_nothing_that_the_standard_library_refuses(text):
    try:
        value = plain(parse_json(text, "x"))
    except SyntaxFault:
        return
    assert value == json.loads(text)


@given(JSON_VALUES)
@settings(max_examples=50)
def test_yaml_parser_reads_what_pyyaml_writes(value):
    assert plain(parse_yaml(yaml.safe_dump({"value": value}), "x")) == {"value": value}


def test_every_key_and_value_knows_its_line(tmp_path):
    text = '{\n "passes": {\n  "lora":\n   {"r": 8,\n    "modules": ["a",\n     "b"]}\n }\n}'
    document = read(written(tmp_path, text))
    file = str(document.path)
    assert document.where(("passes",)) == f"{file}:2"
    assert document.where(("passes", "lora")) == f"{file}:3"
    assert document.where(("passes", "lora"), of_value=True) == f"{file}:4"
    assert document.where(("passes", "lora", "modules", 1)) == f"{file}:6"
    assert document.where(("passes", "lora", "missing")) == f"{file}:3"
    assert document.where() == f"{file}:1"


def test_yaml_knows_its_lines_too(tmp_path):
    document = read(written(tmp_path, "# a comment\npasses:\n  lora:\n    r: 8\n", "config.yaml"))
    assert document.where(("passes", "lora", "r")) == f"{document.path}:4"


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ('{\n "a": 1,\n}', "2:8", "trailing comma"),
        ('{\n "a": [1,]\n}', "2:9", "trailing comma"),
        ('{\n // why\n "a": 1}', "2:2", "comment"),
        ('{"a": 1 /* why */}', "1:9", "comment"),
        ('# why\n{"a": 1}', "1:1", "comment"),
        ("{'a': 1}", "1:2", "double quotes"),
        ('{"a": True}', "1:7", "JSON writes true"),
        ('{"a": NaN}', "1:7", "NaN"),
        ('{"a": 1e999}', "1:7", "too large"),
        ('{"a" 1}', "1:6", "':'"),
        ('{"a": 1\n "b": 2}', "2:2", "expected ','"),
        ('{"a": {"b": 1}', "1:15", "'{' of line 1 is not closed"),
        ('{"a": 1} x', "1:10", "after the end"),
        ('{"a": "x\ny"}', "1:9", "control character"),
        ('{"a": "\\ud800"}', "1:7", "surrogate"),
        ("not json at all", "1:1", "'not'"),
        ("[" * 100_000, "1:102", "levels deep"),
        (f'{{"a": {"9" * 5000}}}', "1:7", "5000 digits"),
    ],
)
def test_wrong_json_is_named_with_line_and_column(tmp_path, text, place, says):
    message = refused(written(tmp_path, text))
    assert f"config.json:{place}: not JSON: " in message
    assert says in message


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("a: !!python/object/apply:os.system [ls]", "1:4", "tag"),
        ("a: !mine 1", "1:4", "tag '!mine'"),
        ("a: &x [*x]", "1:8", "alias"),
        ("a: {\n", "2:1", "did not find"),
        ("a: 1\n---\nb: 2\n", "2:1", "second document"),
        ("a: .nan", "1:4", "not finite"),
        ("? [a]\n: b", "1:3", "key"),
        ("[" * 100_000, "1:102", "levels deep"),
        ("a: \x01", "1:1", "character"),
        ("<<: 3", "1:5", "mapping"),
    ],
)
def test_wrong_yaml_is_named_with_line_and_column(tmp_path, text, place, says):
    message = refused(written(tmp_path, text, "config.yaml"))
    assert f"config.yaml:{place}: not YAML: " in message
    assert says in message


def test_yaml_aliases_cannot_grow_without_bound(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "500,000 values" in refused(written(tmp_path, "\n".join(lines), "config.yaml"))
    chain = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 2000))]
    assert "levels deep" in refused(written(tmp_path, "\n".join(chain), "config.yaml"))


def test_yaml_reads_json_types_only():
    text = "rate: 1e-4\nday: 2024-01-01\nyes: no\n1: x\ntext: '1e-4'\nnothing: ~\n"
    expected = {"rate": 1e-4, "day": "2024-01-01", "yes": False, "1": "x", "text": "1e-4", "nothing": None}
    assert plain(parse_yaml(text, "x")) == expected


def test_yaml_merge_keys_and_aliases_are_read():
    text = "base: &b {x: 1, y: 2}\nhere:\n  y: 3\n  <<: *b\nthere: *b\n"
    expected = {"base": {"x": 1, "y": 2}, "here": {"y": 3, "x": 1}, "there": {"x": 1, "y": 2}}
    assert plain(parse_yaml(text, "x")) == expected


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    assert plain(read(written(tmp_path, b'\xef\xbb\xbf{"a": 1}')).root) == {"a": 1}


def test_unknown_suffix_is_read_as_json_or_yaml(tmp_path):
    assert plain(read(written(tmp_path, '{"a": 1}', "one.conf")).root) == {"a": 1}
    assert plain(read(written(tmp_path, "a: 1", "two")).root) == {"a": 1}
    assert "trailing comma" in refused(written(tmp_path, '{"a": 1,}', "three.conf"))


def test_a_100_mb_config_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.write(b"{")
        file.truncate(100_000_000)
    tracemalloc.start()
    message = refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "100 MB" in message
    assert peak < 1_000_000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_a_pipe_is_read_up_to_the_limit(tmp_path):
    import threading

    pipe = tmp_path / "config.json"
    os.mkfifo(pipe)

    def feed() -> None:
        try:
            with pipe.open("wb") as file:
                for _ in range(12):
                    file.write(b" " * 1024 * 1024)
        except BrokenPipeError:
            pass

    thread = threading.Thread(target=feed)
    thread.start()
    message = refused(pipe)
    thread.join()
    assert "larger than" in message


def test_bytes_that_are_not_utf_8_are_named_with_line_and_offset(tmp_path):
    message = refused(written(tmp_path, b'{\n "a": "caf\xe9"\n}'))
    assert "config.json:2" in message
    assert "0xe9 at offset 12" in message
    assert "UTF-16" in refused(written(tmp_path, '{"a": 1}'.encode("utf-16")))


@pytest.mark.parametrize(
    ("content", "says"),
    [("", "empty"), (" \n", "empty"), ("[1]", "this is a list"), ("null", "this is null"), ('"a"', "the value 'a'")],
)
def test_what_is_no_mapping_is_refused(tmp_path, content, says):
    assert says in refused(written(tmp_path, content))


def test_missing_files_and_folders_are_named(tmp_path):
    assert "no such file" in refused(tmp_path / "nowhere.json")
    assert "folder" in refused(tmp_path)
    with pytest.raises(ConfigError) as error:
        read(tmp_path / "nowhere.json")
    assert error.value.problems()[0].kind == "missing-file"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path):
    path = written(tmp_path, "{}")
    path.chmod(0)
    assert "cannot be read" in refused(path)


def test_reading_imports_no_pydantic_or_yaml():
    import subprocess
    import sys

    code = "import sys, olivine.config; print({'pydantic', 'yaml', 'torch', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "text", "place"), [("c.json", '{"a": 1,\n "a": 2}', "2:2"), ("c.yaml", "a: 1\na: 2\n", "2:1")]
)
def test_key_that_stands_twice_is_named_as_such(tmp_path, name, text, place):
    message = refused(written(tmp_path, text, name))
    assert message.endswith(f"{name}:{place}: the key 'a' stands twice (first on line 1); remove one of them.")

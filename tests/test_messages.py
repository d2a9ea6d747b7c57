"""Events arrive whole and in order, whatever carries them."""

import os
import socket

import pytest

from olivine.messages import EventFile, Events, Heard, sentence


def _say(stream):
    events = Events(stream)
    for done in range(3):
        events.send("progress", done=done)
    stream.write("a library printed this\n[1]\n")
    events.send("done", result="ü")


def _pipe():
    read, write = os.pipe()
    return os.fdopen(read, "r", encoding="utf-8"), os.fdopen(write, "w", encoding="utf-8")


def _socket():
    ours, theirs = socket.socketpair()
    with ours, theirs:  # the files hold them open
        return ours.makefile("r", encoding="utf-8"), theirs.makefile("w", encoding="utf-8")


SAID = [*({"event": "progress", "done": done} for done in range(3)), {"event": "done", "result": "ü"}]


@pytest.mark.parametrize("connect", [_pipe, _socket])
def test_events_of_a_stream_are_heard_until_it_ends(connect):
    ours, theirs = connect()
    with theirs:
        _say(theirs)
    assert list(Heard(ours).until(lambda: False)) == SAID


def test_stream_that_somebody_holds_open_ends_with_the_process():
    ours, theirs = _pipe()
    with theirs:
        _say(theirs)
        theirs.flush()
        assert list(Heard(ours).until(lambda: True)) == SAID


def test_line_of_a_file_is_an_event_once_it_is_whole(tmp_path):
    file = EventFile(tmp_path / "events.jsonl")
    assert list(file.new()) == []
    with (tmp_path / "events.jsonl").open("w", encoding="utf-8") as stream:
        _say(stream)
        stream.write('{"event": ')
        stream.flush()
        assert list(file.new()) == SAID
        stream.write('"late"}\n')
    assert list(file.new()) == [{"event": "late"}]
    assert list(file.new()) == []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device", "a.bin"), "the disk is full: No space left on device: a.bin"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"), "torch could not write or read a"),
        (RuntimeError("basic_ios::clear: iostream error"), "torch could not write or read a file: basic_ios"),
        (ValueError("a\nb"), "ValueError: a b"),
    ],
)
def test_what_went_wrong_is_one_line_with_its_cause(error, told):
    assert sentence(error).startswith(told)
    assert "\n" not in sentence(error)

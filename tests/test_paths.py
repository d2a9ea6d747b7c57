import pwd
from pathlib import Path

import pytest

from olivine import paths


@pytest.mark.parametrize("text", ["x" * 300, "x/" * 3000, "a\0b", "", "\ud800", "~", "C:\\x"])
def test_text_that_is_no_path_does_not_exist(text, tmp_path):
    for ask in (paths.exists, paths.is_file, paths.is_folder):
        assert not ask(tmp_path / "there" / text)


def test_circle_of_links_is_no_traceback(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "link")
    for path in (tmp_path / "link", tmp_path / "a\0b"):
        assert paths.real(path).name == path.name
        assert not paths.exists(path)


def test_what_is_there_is_told_apart(tmp_path):
    (tmp_path / "file").write_text("")
    assert (paths.exists(tmp_path), paths.is_file(tmp_path), paths.is_folder(tmp_path)) == (True, False, True)
    assert (paths.exists(tmp_path / "file"), paths.is_file(tmp_path / "file")) == (True, True)
    assert not paths.is_folder(tmp_path / "file")


@pytest.mark.parametrize(("text", "could"), [("x" * 300, True), ("ü/日本", True), ("a\0b", False), ("\ud800", False)])
def test_path_that_has_no_bytes_could_be_nowhere(text, could):
    assert paths.could_be(text) == could


@pytest.mark.parametrize("text", ["~nosuch/x", "~\0/x", "~\ud800/x", "x/~", ""])
def test_home_that_is_not_known_is_no_traceback(text):
    assert paths.of_user(text) == Path(text)


def test_home_of_nobody_is_no_traceback(monkeypatch):
    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)  # a container may run as a user that has no name
    monkeypatch.delenv("HOME")
    assert paths.hub_cache({}) == Path("~/.cache/huggingface/hub")


@pytest.mark.parametrize(
    ("environment", "cache"),
    [
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/xdg", "HF_HOME": "/home"}, "/home/hub"),
        ({"HF_HOME": "/home", "HUGGINGFACE_HUB_CACHE": "/older"}, "/older"),
        ({"HF_HOME": "/home", "HUGGINGFACE_HUB_CACHE": "/older", "HF_HUB_CACHE": "/cache"}, "/cache"),
    ],
)
def test_cache_of_the_hub_is_where_huggingface_hub_keeps_it(environment, cache):
    assert str(paths.hub_cache(environment)) == cache

"""Files go by content: once, whole, and checked."""

import pytest

from olivine.errors import OlivineError
from olivine.store.hashes import hash_file
from olivine.store.transfer import Files


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"some weights")
    return path


def test_file_that_was_put_is_got_back(tmp_path, file):
    files, hashed = Files(tmp_path / "store"), hash_file(file)
    assert files.missing([hashed]) == {hashed}
    files.put(file, hashed)
    assert files.missing([hashed]) == set()
    files.get(hashed, tmp_path / "sub" / "back")
    assert (tmp_path / "sub" / "back").read_bytes() == b"some weights"


def test_file_that_arrives_with_other_bytes_is_not_kept(tmp_path, file):
    files, hashed = Files(tmp_path / "store"), hash_file(file)
    file.write_bytes(b"other weights")
    with pytest.raises(OlivineError, match="other bytes than were sent"):
        files.put(file, hashed)
    assert files.missing([hashed]) == {hashed}
    assert list((tmp_path / "store" / "files").iterdir()) == []


def test_file_that_was_damaged_in_the_store_is_not_taken(tmp_path, file):
    files, hashed = Files(tmp_path / "store"), hash_file(file)
    files.put(file, hashed)
    files.path(hashed).chmod(0o600)
    files.path(hashed).write_bytes(b"rotten")
    with pytest.raises(OlivineError, match="other bytes"):
        files.get(hashed, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_tree_has_the_files_under_their_names(tmp_path, file):
    files, hashed = Files(tmp_path / "store"), hash_file(file)
    files.put(file, hashed)
    folder = files.tree({"a.bin": hashed, "sub/b.bin": hashed})
    assert (folder / "a.bin").read_bytes() == (folder / "sub" / "b.bin").read_bytes() == b"some weights"
    assert files.tree({"sub/b.bin": hashed, "a.bin": hashed}) == folder


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out"])
def test_name_that_leads_out_of_a_tree_is_refused(tmp_path, file, name):
    files, hashed = Files(tmp_path / "store"), hash_file(file)
    files.put(file, hashed)
    with pytest.raises(ValueError, match="no name of a file in a folder"):
        files.tree({name: hashed})
    assert not list(tmp_path.rglob("out"))

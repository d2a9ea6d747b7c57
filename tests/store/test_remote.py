"""Files by content at an address of fsspec: once, whole, checked, and going on where it stopped."""

import json
import threading
import uuid

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from olivine.errors import OlivineError
from olivine.store.hashes import hash_file
from olivine.store.remote import RemoteFiles, Tries


@pytest.fixture(params=["folder", "file", "memory"])
def url(request, tmp_path):
    """A place where files go."""
    folder = tmp_path / "far away"
    return {"folder": str(folder), "file": folder.as_uri(), "memory": f"memory://{uuid.uuid4().hex}"}[request.param]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 5)
    return path


class Counted(RemoteFiles):
    """Notes the bytes that are sent; the line may break after some."""

    def __init__(self, url, **options):
        super().__init__(url, **options)
        self.n_sent, self.n_left = 0, 10**9

    def _send(self, path, content):
        if self.n_left < len(content):
            raise OlivineError("the line broke")
        self.n_sent, self.n_left = self.n_sent + len(content), self.n_left - len(content)
        super()._send(path, content)


@pytest.mark.parametrize("part_bytes", [100, 256, 1280, 2**20])
def test_file_of_any_number_of_parts_is_got_back(url, file, tmp_path, part_bytes):
    there, hashed = RemoteFiles(url, part_bytes=part_bytes), hash_file(file)
    assert there.missing([hashed]) == {hashed}
    there.put(file, hashed)
    assert RemoteFiles(url).missing([hashed]) == set()
    RemoteFiles(url).get(hashed, tmp_path / "sub" / "back")
    assert (tmp_path / "sub" / "back").read_bytes() == file.read_bytes()
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["back"]


def test_empty_file_travels(url, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    hashed = hash_file(tmp_path / "empty")
    RemoteFiles(url).put(tmp_path / "empty", hashed)
    RemoteFiles(url).get(hashed, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b""


def test_what_was_sent_before_the_line_broke_is_not_sent_again(url, file):
    there, hashed = Counted(url, part_bytes=100), hash_file(file)
    there.n_left = 750
    with pytest.raises(OlivineError, match="the line broke"):
        there.put(file, hashed)
    assert there.missing([hashed]) == {hashed}
    before, there.n_left = there.n_sent, 10**9
    there.put(file, hashed)
    index = len(json.dumps({"bytes": 1280, "part_bytes": 100}))
    assert (before, there.n_sent) == (700, 1280 + index)


def test_what_was_fetched_before_the_line_broke_is_not_fetched_again(url, file, tmp_path):
    there, hashed = RemoteFiles(url, part_bytes=100), hash_file(file)
    there.put(file, hashed)
    (tmp_path / f".{hashed}.partial").write_bytes(file.read_bytes()[:1250])
    fs, root = fsspec.core.url_to_fs(url)
    fs.rm_file(f"{root.rstrip('/')}/files/{hashed}.0")  # whoever asked for it again would miss it
    there.get(hashed, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()


def test_file_that_was_damaged_there_is_not_taken_and_sent_anew(url, file, tmp_path):
    there, hashed = RemoteFiles(url, part_bytes=100), hash_file(file)
    there.put(file, hashed)
    fs, root = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{root.rstrip('/')}/files/{hashed}.3", b"x" * 100)
    with pytest.raises(OlivineError, match="other bytes than were sent"):
        there.get(hashed, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert there.missing([hashed]) == {hashed}
    there.put(file, hashed)
    there.get(hashed, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()


def test_file_that_was_edited_is_not_sent_under_its_old_hash(url, file):
    there, hashed = RemoteFiles(url, part_bytes=100), hash_file(file)
    file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(OlivineError, match="other bytes than were to be sent"):
        there.put(file, hashed)
    assert there.missing([hashed]) == {hashed}


def test_part_that_was_cut_short_is_sent_again(url, file, tmp_path):
    there, hashed = RemoteFiles(url, part_bytes=100), hash_file(file)
    fs, root = fsspec.core.url_to_fs(url)
    fs.makedirs(f"{root.rstrip('/')}/files", exist_ok=True)
    fs.pipe_file(f"{root.rstrip('/')}/files/{hashed}.0", b"x" * 99)
    there.put(file, hashed)
    there.get(hashed, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()


def test_hash_that_nobody_sent_is_named(url, tmp_path):
    with pytest.raises(OlivineError, match="has no file with the hash 0123"):
        RemoteFiles(url).get("0123", tmp_path / "back")


@pytest.mark.parametrize("url", ["nonsense://x", "s4://bucket/x"])
def test_address_that_nothing_serves_is_one_sentence(url):
    with pytest.raises(OlivineError, match=r"is no address of files: .*not known|cannot be reached"):
        RemoteFiles(url)


class AnsweredError(Exception):
    """What a client of HTTP raises."""

    def __init__(self, status):
        super().__init__(f"status {status}")
        self.status_code = status


class ServiceResponseError(Exception):
    """As azure-core calls a line that broke."""


class Busy(MemoryFileSystem):
    """A store whose server fails the first requests of each kind."""

    protocol = "busy"
    cachable = False
    store, faults, n_asked = {}, {}, {}

    def _asked(self, what):
        Busy.n_asked[what] = Busy.n_asked.get(what, 0) + 1
        if Busy.faults.get(what):
            raise Busy.faults[what].pop()

    def cat_file(self, *arguments, **options):
        self._asked("read")
        return super().cat_file(*arguments, **options)

    def pipe_file(self, *arguments, **options):
        self._asked("write")
        return super().pipe_file(*arguments, **options)

    def ls(self, *arguments, **options):
        self._asked("list")
        return super().ls(*arguments, **options)


@pytest.fixture
def busy():
    """Files at such a store."""
    fsspec.register_implementation("busy", Busy, clobber=True)
    Busy.faults, Busy.n_asked = {}, {}
    return RemoteFiles(f"busy://{uuid.uuid4().hex}", tries=Tries(3, 0.001))


def _wrapped(status):
    error = OSError("the back end says it otherwise")
    error.__cause__ = AnsweredError(status)
    return error


@pytest.mark.parametrize(
    "fault",
    [
        AnsweredError(429),
        AnsweredError(503),
        _wrapped(500),
        ConnectionResetError(),
        TimeoutError(),
        ServiceResponseError(),
    ],
)
def test_request_that_fails_for_a_moment_is_made_again(busy, file, tmp_path, fault):
    Busy.faults = {what: [fault] * 3 for what in ("read", "write", "list")}
    hashed = hash_file(file)
    assert busy.missing([hashed]) == {hashed}
    busy.put(file, hashed)
    busy.get(hashed, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == file.read_bytes()
    assert f"{hashed}.json" in busy.names("files")


@pytest.mark.parametrize(
    ("fault", "n_asked"), [(AnsweredError(429), 4), (AnsweredError(403), 1), (ValueError("no"), 1)]
)
def test_request_that_goes_on_failing_is_one_sentence(busy, fault, n_asked):
    Busy.faults = {"read": [fault] * 10}
    with pytest.raises(OlivineError, match=r"the files at 'busy://.*' cannot be reached: "):
        busy.read("name")
    assert Busy.n_asked == {"read": n_asked}


def test_several_files_are_asked_for_at_once(busy, file, monkeypatch):
    """Each is a round trip: one after the other, a model of many files would take as many."""
    busy.put(file, hash_file(file))
    together, read = threading.Barrier(4, timeout=60), Busy.cat_file

    def cat_file(self, *arguments, **options):
        together.wait()
        return read(self, *arguments, **options)

    monkeypatch.setattr(Busy, "cat_file", cat_file)
    assert busy.missing([hash_file(file), "a", "b", "c"]) == {"a", "b", "c"}

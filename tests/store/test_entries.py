import json
import os
import shutil
import time

import filelock
import pytest

from olivine.cli import exit_code
from olivine.errors import RequestError
from olivine.models import Model
from olivine.store.entries import Cache, Entry
from olivine.store.files import usable_folder
from olivine.store.hashes import Hashed, Stamp, hash_file
from olivine.store.packing import pack, unpack

KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def cache(tmp_path, warnings):
    made = Cache(tmp_path / "cache", warnings.append)
    made.prepare()
    return made


def _fill(content, text="x" * 100):
    (content / "sub").mkdir()
    (content / "sub" / "weights").write_text(text)
    (content / "config.json").write_text("{}")
    return {"n": 1}


def _never(content):
    raise AssertionError("was in the cache")


def test_entry_is_made_once_and_found_again(cache):
    entry, was_there = cache.obtain(KEY, "step", _fill)
    assert not was_there
    again, was_there = cache.obtain(KEY, "step", _never)
    assert was_there
    assert again.result == entry.result == {"n": 1}
    assert set(again.files) == {"config.json", "sub/weights"}
    assert again.size_bytes == 102
    assert cache.has(KEY)
    assert not cache.has(OTHER)


def test_a_file_that_its_writer_hashed_is_not_read_again_unless_it_was_changed(cache):
    def make(content):
        for name in ("hashed", "changed"):
            (content / name).write_text(name)
        written = {name: Hashed(Stamp.of(content / name), "0" * 64).to_json() for name in ("hashed", "changed")}
        (content / "changed").write_text("other bytes")
        return {"n": 1, "written": written}

    entry, _ = cache.obtain(KEY, "step", make)
    assert entry.result == {"n": 1}
    assert entry.files["hashed"]["blake3"] == "0" * 64
    assert entry.files["changed"]["blake3"] == hash_file(entry.content / "changed")


@pytest.mark.parametrize("error", [RuntimeError("no"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failure_keeps_nothing(cache, error):
    def fail(content):
        _fill(content)
        raise error

    with pytest.raises(type(error)):
        cache.obtain(KEY, "step", fail)
    assert not cache.has(KEY)
    assert not list((cache.folder / "building").iterdir())
    assert not cache.obtain(KEY, "step", _fill)[1]


def _truncate(entry):
    with (entry.content / "sub" / "weights").open("r+b") as file:
        file.truncate(50)


def _alter(entry):
    (entry.content / "sub" / "weights").write_text("y" * 100)


def _remove(entry):
    (entry.content / "config.json").unlink()


def _cut_manifest(entry):
    manifest = entry.folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-40])


def _lose_manifest(entry):
    (entry.folder / "manifest.json").unlink()


def _alter_manifest(entry):
    manifest = entry.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"n": 1', '"n": 2'))


def _nest_manifest(entry):
    (entry.folder / "manifest.json").write_text("[" * 100_000)


def _empty_manifest(entry):
    (entry.folder / "manifest.json").write_text(json.dumps({"files": None, "key": KEY, "digest": 1}))


def _add(entry):
    (entry.content / "sub" / "more.safetensors").write_text("")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_truncate, "'sub/weights' has 50 bytes, not 100"),
        (_alter, "'sub/weights' was altered"),
        (_remove, "'config.json' is missing"),
        (_cut_manifest, "its manifest is damaged"),
        (_lose_manifest, "its manifest is damaged"),
        (_alter_manifest, "its manifest is damaged"),
        (_nest_manifest, "its manifest is damaged"),
        (_empty_manifest, "its manifest is damaged"),
        (_add, "'sub/more.safetensors' was added"),
    ],
)
def test_damaged_entry_is_noticed_and_made_again(cache, warnings, damage, said):
    entry, _ = cache.obtain(KEY, "step", _fill)
    damage(entry)
    assert not cache.has(KEY)
    again, was_there = cache.obtain(KEY, "step", _fill)
    assert not was_there
    assert said in warnings[0]
    assert "'step'" in warnings[0]
    assert (again.content / "sub" / "weights").read_text() == "x" * 100
    assert not list((cache.folder / "building").iterdir())


def test_cache_that_was_copied_is_still_good(cache, tmp_path):
    cache.obtain(KEY, "step", _fill)
    shutil.copytree(cache.folder, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "steps" / KEY / "content" / "config.json")
    assert Cache(tmp_path / "copy").has(KEY)


def test_copied_cache_is_read_once_by_the_run_that_uses_it(cache, tmp_path):
    """And never by a plan, which touches nothing and so could not remember it."""
    cache.obtain(KEY, "step", _fill)
    shutil.copytree(cache.folder, tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*"):
        os.utime(path, (time.time() - 100, time.time() - 100))
    n_read = []

    def read(path):
        n_read.append(path)
        return hash_file(path)

    assert Cache(tmp_path / "copy", read=read).has(KEY)
    assert not n_read
    for _ in range(3):
        assert Cache(tmp_path / "copy", read=read).lookup(KEY)
    assert len(n_read) == 2
    assert Cache(tmp_path / "copy", read=read).has(KEY)
    assert len(n_read) == 2


def test_entry_is_read_only(cache):
    entry, _ = cache.obtain(KEY, "step", _fill)
    files = [path for path in entry.folder.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert not any(path.stat().st_mode & 0o222 for path in files)
    assert cache.remove(KEY)
    assert not entry.folder.exists()


def test_no_lock_is_left_by_who_held_it(cache):
    cache.obtain(KEY, "step", _fill)
    cache.close()
    assert not list((cache.folder / "locks").iterdir())


def test_next_run_removes_what_a_killed_one_left(cache):
    """Locks that nobody holds, and checkpoints of a step whose result was renamed into place just before the kill."""
    cache.obtain(KEY, "step", _fill)
    cache.close()
    for name in (f"{KEY}.lock", "run-1-dead.lock"):
        (cache.folder / "locks" / name).touch()
    (cache.scratch(KEY) / "checkpoint").write_text("x")
    (cache.scratch(OTHER) / "checkpoint").write_text("x")
    for key in (KEY, OTHER):
        (cache.folder / "scratch" / f"{key}.lock").touch()
    (cache.folder / "building" / "hashes").write_text("{}")
    Cache(cache.folder).prepare()
    assert not list((cache.folder / "locks").iterdir())
    assert not list((cache.folder / "building").iterdir())
    assert [path.name for path in (cache.folder / "scratch").iterdir()] == [OTHER]


def test_checkpoints_that_a_worker_is_at_stay(cache):
    cache.obtain(KEY, "step", _fill)
    scratch = cache.scratch(KEY)
    with filelock.FileLock(f"{scratch}.lock"):
        Cache(cache.folder).prepare()
        assert scratch.is_dir()


def test_verify_names_damaged_manifests_and_what_is_removed_is_made_again(cache, capsys):
    whole, broken = (cache.obtain(key, key[0], _fill)[0] for key in (KEY, OTHER))
    _alter_manifest(broken)
    cache.close()
    command = ["cache", "verify", "--cache-dir", str(cache.folder)]
    assert exit_code(command) == 1
    assert "its manifest is damaged" in capsys.readouterr().out
    _alter(whole)
    with cache.lock(KEY, "a"):  # a run is at work on it
        assert exit_code([*command, "--repair", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["removed"] == [OTHER]
    assert exit_code([*command, "--repair"]) == 0
    assert exit_code(command) == 0
    assert not cache.obtain(KEY, "a", _fill)[1]


def test_entry_with_a_damaged_manifest_is_garbage_when_it_is_old(cache):
    entry, _ = cache.obtain(KEY, "step", _fill)
    cache.close()
    _lose_manifest(entry)
    os.utime(entry.folder, (0, 0))
    assert [gone.key for gone in cache.collect_garbage(30)] == [KEY]
    assert not entry.folder.exists()


def test_verify_reads_every_byte(cache):
    """A change that left size and time as they were escapes the quick check."""
    entry, _ = cache.obtain(KEY, "step", _fill)
    cache.obtain(OTHER, "other", _fill)
    file = entry.content / "sub" / "weights"
    status = file.stat()
    with file.open("r+") as handle:
        handle.write("y")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache.has(KEY)
    assert {entry.key: damage for entry, damage in cache.verify()} == {KEY: "'sub/weights' was altered", OTHER: None}


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(cache):
    dead, alive = (cache.folder / "building" / f"{key}-123-abc" for key in (KEY, OTHER))
    for folder in (dead, alive):
        folder.mkdir()
    with filelock.FileLock(cache.folder / "locks" / f"{OTHER}.lock"):
        Cache(cache.folder).prepare()
        assert not dead.exists()
        assert alive.exists()
    Cache(cache.folder).prepare()
    assert not alive.exists()


def _age(entry: Entry, days: float):
    then = time.time() - days * 86_400
    os.utime(entry.folder / "manifest.json", (then, then))


def test_garbage_is_what_was_not_used_for_long(cache):
    for key, days in ((KEY, 40), (OTHER, 10)):
        _age(cache.obtain(key, key[0], _fill)[0], days)
    assert [entry.name for entry in cache.entries()] == ["a", "b"]
    cache.close()
    assert [entry.name for entry in cache.collect_garbage(30, dry_run=True)] == ["a"]
    assert cache.has(KEY)
    assert [entry.name for entry in cache.collect_garbage(30)] == ["a"]
    assert not cache.has(KEY)
    assert cache.has(OTHER)


def test_use_makes_an_entry_young(cache):
    entry, _ = cache.obtain(KEY, "step", _fill)
    _age(entry, 40)
    cache.lookup(KEY)
    assert not cache.collect_garbage(30)


def test_garbage_collection_leaves_what_a_run_uses(cache):
    _age(cache.obtain(OTHER, "old", _fill)[0], 1)
    with Cache(cache.folder) as running:
        cache.close()
        running.obtain(KEY, "step", _fill)
        assert [entry.name for entry in cache.collect_garbage(0)] == ["old"]
        assert cache.has(KEY)
    time.sleep(0.01)
    assert [entry.name for entry in cache.collect_garbage(0)] == ["step"]


def test_garbage_collection_leaves_an_entry_whose_key_is_held(cache):
    _age(cache.obtain(KEY, "step", _fill)[0], 40)
    cache.close()
    with cache.lock(KEY, "step"):
        assert not cache.collect_garbage(30)
    assert cache.has(KEY)


def test_old_checkpoints_are_garbage(cache):
    scratch = cache.scratch(KEY)
    os.utime(scratch, (0, 0))
    young = cache.scratch(OTHER)
    cache.collect_garbage(30)
    assert not scratch.exists()
    assert young.exists()


def test_record_is_bound_to_the_present_places(tmp_path):
    base = Model("gguf", tmp_path / "base.gguf")
    view = Model("hf", tmp_path / "view", base=base)
    output = tmp_path / "output"
    made = [
        Model("adapter", output, base=view),
        Model("hf", output / "merged", base=base, attributes={"files": [str(output / "a"), "b"]}),
        view,
        Model("hf", output),
    ]
    elsewhere = Model("hf", tmp_path / "other", base=Model("gguf", tmp_path / "moved.gguf"))
    for model in made:
        packed = pack(model.to_json(), output, view.to_json())
        assert str(tmp_path) not in json.dumps(packed)
        assert unpack(packed, output, view.to_json()) == model.to_json()
        assert str(tmp_path / "view") not in json.dumps(unpack(packed, output, elsewhere.to_json()))
    assert unpack(pack(view.to_json(), output, view.to_json()), output, elsewhere.to_json()) == elsewhere.to_json()


@pytest.mark.skipif(os.name != "posix", reason="needs users")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_read_only_folder_is_one_sentence_for_a_plain_user(tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir()
    for place in [folder, *folder.parents][:-2]:
        place.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        try:
            usable_folder(folder, "output_dir 'x'")
        except RequestError as error:
            os._exit(0 if "output_dir 'x' cannot be written to (Permission denied)" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_file_in_the_way_of_a_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RequestError, match="a file is in the way"):
            usable_folder(path, "cache_dir")

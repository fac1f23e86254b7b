"""What is on disk is bounded, least recently used first out, and nothing of anyone else's is touched."""

import errno
import os
import re
import time
from pathlib import Path

import pytest
import torch
from stored import KEY, ROW, file_of, names, row, same

from zvl_ext import folder
from zvl_ext.store import Disk


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def three(disk) -> Disk:
    """Room for three entries, with a, b and c used in this order."""
    for seconds, key in zip((30, 20, 10), "abc"):
        disk.put(key, row(ord(key)))
        age(file_of(disk, key), seconds)
    disk.limit = disk.size
    return disk


def held(disk: Disk) -> str:
    return "".join(key for key in "abcdef" if file_of(disk, key).exists())


def test_the_least_recently_put_goes_first(three):
    three.put("d", ROW)
    assert held(three) == "bcd"
    assert three.size <= three.limit


def test_a_hit_makes_an_entry_the_last_to_go(three):
    three.get("a")
    three.put("d", ROW)
    assert held(three) == "acd"
    assert same(three.get("a"), row(ord("a")))


def test_a_miss_is_no_use(three):
    whole = file_of(three, "a").read_bytes()
    file_of(three, "a").write_bytes(whole[:-1] + b"\1")
    age(file_of(three, "a"), 30)
    assert three.get("a") is None
    three.put("d", ROW)
    assert held(three) == "bcd"


def test_an_entry_that_fills_the_limit_drives_all_others_out_and_is_kept(three):
    large = row(1, 2500)
    other = Disk(three.folder + "2", 100_000)
    other.put("d", large)
    three.limit = other.size
    three.put("d", large)
    assert held(three) == "d"
    assert same(three.get("d"), large)


@pytest.mark.parametrize("by", ["its tensors", "its header"])
def test_an_entry_over_the_limit_is_not_written_and_drives_nothing_out(by, three):
    over = {"its tensors": 4, "its header": 0}[by]
    before = names(three)
    three.put("d", {"x": torch.zeros(three.limit + over, dtype=torch.uint8)})
    assert names(three) == before
    assert three.get("d") is None


def test_tensors_over_the_limit_are_not_even_written_to_a_temporary_file(disk):
    disk.limit = 3999
    disk.put(KEY, ROW)
    assert not os.path.exists(disk.folder)


@pytest.mark.parametrize("over", [0, 4])
def test_an_old_entry_does_not_survive_a_new_one_that_is_over_the_limit(over, three):
    three.put("b", {"x": torch.zeros(three.limit + over, dtype=torch.uint8)})
    assert held(three) == "ac"


def test_the_bytes_of_the_whole_file_count(disk):
    disk.put(KEY, ROW)
    exact = disk.size
    for limit, kept in ((exact, True), (exact - 1, False)):
        other = Disk(disk.folder + "2", limit)
        other.put(KEY, ROW)
        assert (other.get(KEY) is not None) == kept


def test_a_file_over_the_limit_is_not_read(disk):
    disk.put(KEY, ROW)
    assert Disk(disk.folder, disk.size).get(KEY) is not None
    assert Disk(disk.folder, disk.size - 1).get(KEY) is None


@pytest.mark.parametrize(("error", "stay"), [(PermissionError, "acd"), (FileNotFoundError, "bcd")])
def test_what_another_process_has_open_or_removed_first_does_not_trip_a_put(error, stay, three, monkeypatch):
    """Windows removes no file that is open: the next one has to go. One that is gone already makes room as well."""
    remove = os.remove

    def contended(path):
        if path == str(file_of(three, "a")):
            if error is FileNotFoundError:
                remove(path)
            raise error(path)
        remove(path)

    monkeypatch.setattr(os, "remove", contended)
    three.put("d", ROW)
    assert held(three) == stay


def test_a_lower_limit_holds_from_the_next_put(three):
    three.limit = 2 * three.limit // 3
    three.put("d", ROW)
    assert held(three) == "cd"
    three.limit = 0
    three.put("e", ROW)
    assert held(three) == ""


def test_what_was_just_put_stays_when_the_clock_was_set_back(three):
    for key in "abc":
        age(file_of(three, key), -5000)
    three.put("d", ROW)
    assert held(three) == "bcd"


OTHERS = (
    "mine.safetensors",
    "notes.zvl.safetensors",
    "x" * 64 + ".zvl.safetensors",
    "a" * 63 + ".zvl.safetensors",
    "a" * 64 + ".safetensors",
    "a" * 64 + ".zvl.safetensors.bak",
    "b" + "a" * 64 + ".zvl.safetensors",
    "a" * 32 + ".tmp",
    "note.zvl.tmp",
    "tmp1234.tmp",
    ".gitignore",
)


def test_files_of_others_are_neither_counted_nor_removed(disk):
    os.makedirs(disk.folder)
    for name in OTHERS:
        (Path(disk.folder) / name).write_bytes(bytes(50_000))
        age(Path(disk.folder) / name, 10_000_000)
    os.makedirs(Path(disk.folder) / ("c" * 32 + ".zvl.tmp"))
    age(Path(disk.folder) / ("c" * 32 + ".zvl.tmp"), 10_000_000)
    before = names(disk)
    for key in "abc":
        disk.put(key, ROW)
    assert held(disk) == "abc"
    assert disk.size < 15_000
    disk.limit = 0
    disk.put("d", ROW)
    assert names(disk) == before
    disk.put("a", ROW)
    disk.clear()
    assert names(disk) == before


def half(disk: Disk, name: str = "0123456789abcdef" * 2 + ".zvl.tmp", start: bytes = b"") -> Path:
    """What a killed writer leaves."""
    path = Path(disk.folder) / name
    path.write_bytes(start + bytes(50_000 - len(start)))
    return path


SAFETENSORS_OWN = b'\x80\0\0\0\0\0\0\0{"__metadata__":{"zvl_store":"1"'


@pytest.mark.parametrize("of", ["this module", "safetensors"])
@pytest.mark.parametrize("by", ["put", "clear"])
def test_what_a_killed_writer_left_is_counted_and_removed(by, of, disk):
    disk.put("a", ROW)
    whole = disk.size
    left = half(disk) if of == "this module" else half(disk, ".tmpA1b2C3", SAFETENSORS_OWN)
    assert disk.size == whole + 50_000
    if by == "put":
        disk.put("b", ROW)
        assert held(disk) == "ab"
    else:
        assert disk.clear() == 2
    assert not left.exists()


def test_another_programs_files_of_safetensors_names_stay(disk):
    disk.put("a", ROW)
    others = [
        half(disk, ".tmpA1b2C3"),
        half(disk, ".tmpA1b2C4", b"\x80\0\0\0\0\0\0\0{"),
        half(disk, ".tmpA1b2C", SAFETENSORS_OWN),
    ]
    disk.put("b", ROW)
    assert disk.size < 10_000
    assert disk.clear() == 2
    assert all(other.exists() for other in others)


@pytest.mark.skipif(os.name == "nt", reason="Windows removes nothing that is open, and needs no lock")
@pytest.mark.parametrize("seconds", [0, 10_000_000])
def test_what_a_living_writer_is_at_stays(seconds, disk):
    disk.put("a", ROW)
    path = Path(disk.folder) / ("0123456789abcdef" * 2 + ".zvl.tmp")
    with folder.being_written(str(path)) as file:
        file.write(bytes(50_000))
        age(path, seconds)
        disk.put("b", ROW)
        assert held(disk) == "ab"
        assert disk.clear() == 2
        assert path.exists()
    assert disk.clear() == 1
    assert not path.exists()


@pytest.mark.skipif(os.name == "nt", reason="there the file is open or it is not")
@pytest.mark.parametrize(("seconds", "stays"), [(0, True), (3500, True), (3700, False), (10_000_000, False)])
def test_where_files_can_not_be_locked_their_age_tells(seconds, stays, disk, monkeypatch):
    import fcntl

    def refuse(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    disk.put("a", ROW)
    left = half(disk)
    age(left, seconds)
    disk.put("b", ROW)
    assert held(disk) == "ab"
    assert left.exists() == stays
    assert disk.clear() == 2
    assert left.exists() == stays


def test_a_file_that_was_taken_for_abandoned_before_it_had_its_lock_is_made_again(tmp_path, monkeypatch):
    path, lock, calls = tmp_path / "x", folder._lock, []

    def late(handle):
        calls.append(handle)
        if len(calls) == 1:
            os.remove(path)
        return lock(handle)

    monkeypatch.setattr(folder, "_lock", late)
    with folder.being_written(str(path)) as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole"
    assert len(calls) == 2


@pytest.mark.parametrize("newest", ["d", "a"])
def test_the_limit_holds_while_a_file_is_being_written(newest, three, monkeypatch):
    seen = []
    replace = os.replace

    def watched(source, target):
        seen.append((Path(source).name, sum(file.stat().st_size for file in Path(three.folder).iterdir())))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    three.put(newest, ROW)
    ((name, bytes_used),) = seen
    assert re.fullmatch(r"[0-9a-f]{32}\.zvl\.tmp", name)
    assert bytes_used <= three.limit


def test_clear_tells_how_many_files_it_removed(three):
    assert three.clear() == 3
    assert (three.clear(), three.size, three.get("a"), names(three)) == (0, 0, None, set())

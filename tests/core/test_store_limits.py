"""What is on disk is bounded, least recently used first out, and nothing of anyone else's is touched."""

import os
import time
from pathlib import Path

import pytest
import torch
from stored import KEY, ROW, file_of, names, row, same

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


@pytest.mark.parametrize(("seconds", "stays"), [(0, True), (3500, True), (3700, False), (10_000_000, False)])
@pytest.mark.parametrize("by", ["put", "clear"])
def test_a_temporary_file_is_removed_when_it_is_older_than_an_hour(by, seconds, stays, disk):
    """A younger one may be another process's, at work."""
    disk.put("a", ROW)
    temporary = Path(disk.folder) / ("0123456789abcdef" * 2 + ".zvl.tmp")
    temporary.write_bytes(bytes(500_000))
    age(temporary, seconds)
    assert disk.size < 5000, "no entry"
    if by == "put":
        disk.put("b", ROW)
        assert held(disk) == "ab"
    else:
        assert disk.clear() == (1 if stays else 2)
    assert temporary.exists() == stays


def test_a_temporary_file_has_the_name_that_is_cleaned_up(disk, monkeypatch):
    import safetensors.torch

    made = []
    monkeypatch.setattr(
        safetensors.torch,
        "save_file",
        lambda tensors, path, metadata: made.append(Path(path)) or Path(path).write_bytes(b"half"),
    )
    monkeypatch.setattr(os, "replace", lambda source, target: made.append(Path(source).read_bytes()))
    disk.put(KEY, ROW)
    assert made[0].parent == Path(disk.folder)
    assert made[1] == b"half"
    made[0].write_bytes(b"half")
    age(made[0], 4000)
    assert disk.clear() == 1


def test_clear_tells_how_many_files_it_removed(three):
    assert three.clear() == 3
    assert (three.clear(), three.size, three.get("a"), names(three)) == (0, 0, None, set())

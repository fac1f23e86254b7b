"""What is kept between pictures, in memory and on disk: bounded, least recently used first out, and damage is a
miss."""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from zvl_ext.store import Disk, Store, data_folder

ROW = {"row": torch.zeros(1000)}  # 4000 bytes
KEY = ("blend", ("a" * 64, 3), ((1, 2, 3), "x"), -8)


def row(value: float, length: int = 1000) -> dict[str, torch.Tensor]:
    return {"row": torch.full((length,), float(value))}


def same(one: dict[str, torch.Tensor] | None, other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit: NaN equals NaN, 0 is not -0."""

    def bits(tensor: torch.Tensor) -> bytes:
        return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return one is not None and {n: (t.dtype, t.shape, bits(t)) for n, t in one.items()} == {
        n: (t.dtype, t.shape, bits(t)) for n, t in other.items()
    }


# --- memory


def test_what_was_put_comes_out_as_the_same_object():
    store = Store(10_000)
    store.put("a", ROW)
    assert store.get("a") is ROW
    assert store.get("b") is None


def test_a_gibibyte_is_kept_and_no_disk_unless_told_otherwise():
    store = Store()
    assert (store.limit, store.disk, store.size) == (2**30, None, 0)


def test_the_bytes_of_all_tensors_of_a_bundle_count():
    store = Store(10_000)
    store.put(
        "a", {"one": torch.zeros(100), "two": torch.zeros(2, 50, dtype=torch.bfloat16), "none": torch.zeros(0, 5)}
    )
    assert store.size == 400 + 200


def test_the_limit_holds_and_the_least_recently_used_goes_first():
    store = Store(10_000)
    store.put("a", ROW)
    store.put("b", ROW)
    store.get("a")
    store.put("c", ROW)
    assert store.size == 8000
    assert store.get("b") is None
    assert store.get("a") is not None
    assert store.get("c") is not None


def test_a_bundle_that_fills_the_limit_exactly_is_kept():
    store = Store(4000)
    store.put("a", ROW)
    assert store.get("a") is ROW


def test_a_bundle_over_the_limit_is_not_kept_and_drives_nothing_out():
    store = Store(4000)
    store.put("a", ROW)
    store.put("b", row(0, 1001))
    assert store.get("a") is ROW
    assert store.get("b") is None


def test_the_last_bundle_put_under_a_key_counts_once():
    store = Store(10_000)
    for _ in range(5):
        store.put("a", ROW)
    other = row(1, 500)
    store.put("a", other)
    assert store.get("a") is other
    assert store.size == 2000


def test_an_old_bundle_does_not_survive_a_new_one_that_is_too_large():
    store = Store(4000)
    store.put("a", ROW)
    store.put("a", row(0, 2000))
    assert store.get("a") is None
    assert store.size == 0


def test_a_lower_limit_drops_the_least_recently_used_and_a_higher_one_nothing():
    store = Store(12_000)
    for key in "abc":
        store.put(key, ROW)
    store.get("a")
    store.resize(8000)
    assert (store.limit, store.size) == (8000, 8000)
    assert [store.get(key) is not None for key in "abc"] == [True, False, True]
    store.resize(12_000)
    store.put("d", ROW)
    assert (store.limit, store.size) == (12_000, 12_000)
    store.resize(0)
    assert store.size == 0
    store.put("a", ROW)
    assert store.get("a") is None


def test_nothing_is_kept_after_clear():
    store = Store(10_000)
    store.put("a", ROW)
    store.clear()
    assert (store.get("a"), store.size) == (None, 0)
    store.put("a", ROW)
    assert store.size == 4000


@pytest.mark.parametrize("with_disk", [False, True])
def test_many_threads_never_exceed_the_limit(with_disk, tmp_path):
    store, over, wrong = Store(20_000, disk=Disk(str(tmp_path), 50_000) if with_disk else None), [], []
    rounds = 30 if with_disk else 300

    def work(seed: int) -> None:
        for i in range(rounds):
            store.put((seed, i % 7), row(10 * seed + i % 7))
            key = (i % 3, i % 7)
            found = store.get(key)
            with store._lock:
                over.append(store.size > store.limit)
                wrong.append(found is not None and not same(found, row(10 * key[0] + key[1])))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(over) == 4 * rounds
    assert not any(over)
    assert not any(wrong)
    assert store.size == sum(size for _, size in store._kept.values())
    if with_disk:
        assert 0 < store.disk.size <= 50_000
        assert all(name.endswith(".zvl.safetensors") for name in os.listdir(tmp_path))


def test_other_things_than_bundles_are_kept_by_a_size_of_their_own():
    pictures = Store(200, size=len)
    for name in ("a", "b", "a", "c"):
        pictures.put(name, name * 100)
    assert [pictures.get(name) for name in ("a", "b", "c")] == ["a" * 100, None, "c" * 100]


def test_the_module_loads_neither_torch_nor_safetensors(root):
    script = "import sys, zvl_ext.store; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "safetensors", "transformers", "numpy"} & set(loaded)


# --- memory, then disk


@pytest.fixture
def disk(tmp_path) -> Disk:
    return Disk(str(tmp_path / "data" / "cache"), 100_000)


def file_of(disk: Disk, key: object = KEY) -> Path:
    return Path(disk.folder) / f"{hashlib.sha256(repr(key).encode()).hexdigest()}.zvl.safetensors"


def names(disk: Disk) -> set[str]:
    return set(os.listdir(disk.folder))


def test_a_new_store_finds_on_disk_what_another_put(disk):
    Store(disk=disk).put(KEY, row(1))
    store = Store(disk=Disk(disk.folder, disk.limit))
    found = store.get(KEY)
    assert same(found, row(1))
    assert store.size == 4000


def test_what_came_from_disk_stays_in_memory(disk):
    disk.put(KEY, row(1))
    store = Store(disk=disk)
    found = store.get(KEY)
    file_of(disk).unlink()
    assert store.get(KEY) is found


def test_memory_is_asked_first(disk):
    store = Store(disk=disk)
    store.put(KEY, row(1))
    disk.put(KEY, row(2))
    assert same(store.get(KEY), row(1))
    assert same(disk.get(KEY), row(2))


def test_a_bundle_too_large_for_memory_is_read_from_disk(disk):
    store = Store(3000, disk=disk)
    store.put(KEY, row(1))
    assert store.size == 0
    assert same(store.get(KEY), row(1))
    assert store.size == 0


def test_what_memory_dropped_is_read_from_disk_and_drops_another(disk):
    store = Store(4000, disk=disk)
    store.put("a", row(1))
    store.put("b", row(2))
    assert same(store.get("a"), row(1))
    assert same(store.get("b"), row(2))
    assert store.size == 4000


def test_a_bundle_that_grew_replaces_the_old_one_in_both(disk):
    store = Store(disk=disk)
    store.put(KEY, row(1))
    grown = row(1) | {"deeper": torch.ones(3)}
    store.put(KEY, grown)
    assert store.get(KEY) is grown
    assert same(disk.get(KEY), grown)
    assert len(disk.files()) == 1


def test_the_disk_may_come_and_go(disk):
    store = Store(disk=None)
    store.put("a", row(1))
    store.disk = disk
    store.put("b", row(2))
    store.disk = None
    store.resize(0)
    assert store.get("b") is None
    assert disk.get("a") is None
    assert same(disk.get("b"), row(2))


def test_clear_empties_memory_and_disk(disk):
    store = Store(disk=disk)
    store.put(KEY, row(1))
    store.clear()
    assert (store.get(KEY), store.size, disk.size) == (None, 0, 0)


def test_a_slow_disk_holds_up_nobody_who_finds_it_in_memory(disk):
    entered, go_on = threading.Event(), threading.Event()

    class Slow(Disk):
        def get(self, key):
            entered.set()
            assert go_on.wait(30)
            return super().get(key)

        def put(self, key, bundle):
            self.get(key)

        def clear(self):
            self.get(KEY)

    store = Store(disk=Slow(disk.folder, disk.limit))
    for work in (lambda: store.get("b"), lambda: store.put("b", ROW), store.clear):
        entered.clear()
        go_on.clear()
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        assert entered.wait(30)
        free = store._lock.acquire(timeout=5)
        go_on.set()
        assert free, "the lock is held while the disk works"
        store._lock.release()
        thread.join()


def test_what_was_put_while_an_older_bundle_was_read_from_disk_stays(disk):
    newer = row(2)

    class Overtaken(Disk):
        def get(self, key):
            found = super().get(key)
            store.put(key, newer)
            return found

    disk.put(KEY, row(1))
    store = Store(disk=Overtaken(disk.folder, disk.limit))
    assert store.get(KEY) is newer
    assert store.get(KEY) is newer
    assert store.size == 4000


# --- disk: what is written


def test_the_folder_is_the_extensions_own_and_git_does_not_see_it(root):
    assert data_folder() == os.path.join(str(root), "data", "cache")
    assert "/data/" in (root / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_the_folder_is_made_by_the_first_put(disk):
    assert (disk.get(KEY), disk.size, disk.files(), disk.clear()) == (None, 0, [], 0)
    assert not os.path.exists(disk.folder)
    disk.put(KEY, ROW)
    assert names(disk) == {file_of(disk).name}


def test_an_entry_is_a_safetensors_file_named_by_its_key_with_the_key_and_version_in_its_header(disk):
    disk.put(KEY, row(3))
    assert same(load_file(file_of(disk)), row(3))
    with safe_open(file_of(disk), "pt") as file:
        told = file.metadata()
    assert told["zvl_store"] == "1"
    assert told["key"] == file_of(disk).name[:64]
    assert told["checksum"].isdecimal()
    assert disk.size == file_of(disk).stat().st_size > 4000


def test_the_same_key_is_found_by_another_process(disk, root):
    """Whatever the process's hash seed."""
    script = (
        "import sys, torch; from zvl_ext.store import Disk; "
        "Disk(sys.argv[1], 10**6).put(eval(sys.argv[2]), {'row': torch.full((1000,), 5.0)})"
    )
    disk.put(KEY, row(1))
    subprocess.run(
        [sys.executable, "-c", script, disk.folder, repr(KEY)],
        cwd=root,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "1"},
    )
    assert same(disk.get(KEY), row(5))
    assert len(disk.files()) == 1


SPECIAL = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-40, 65504.0, 1.0])
PAIR = torch.arange(20.0)
BUNDLES = {
    "float32": {"x": SPECIAL},
    "float16": {"x": SPECIAL.half()},
    "bfloat16": {
        "x": torch.arange(2**15, dtype=torch.int16).view(torch.bfloat16)
    },  # half of all there are, every NaN included
    "int64": {"x": torch.tensor([[2**63 - 1, -(2**63)], [0, -1]])},
    "uint8 and bool": {"x": torch.arange(256, dtype=torch.uint8), "y": torch.tensor([True, False])},
    "transposed": {"x": torch.arange(12.0).reshape(3, 4).T},
    "every second": {"x": torch.arange(12.0)[::2]},
    "expanded": {"x": torch.tensor([[1.0], [2.0]]).expand(2, 5)},
    "a part of another": {"x": torch.arange(12.0)[3:7]},
    "two in one memory": {"x": PAIR[:10], "y": PAIR[10:], "z": PAIR},
    "with a gradient": {"x": torch.ones(3, requires_grad=True)},
    "scalar": {"x": torch.tensor(3.5)},
    "empty dims": {
        "x": torch.zeros(0),
        "y": torch.zeros(3, 0, 2, dtype=torch.bfloat16),
        "z": torch.zeros(0, 4, dtype=torch.int64),
    },
    "nothing": {},
    "many names": {
        "-8": torch.ones(2),
        "vision/0": torch.zeros(1),
        "ein Bär": torch.ones(1),
        "a b": torch.ones(1),
        "": torch.ones(1),
    },
}


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_survives_bit_for_bit(name, disk):
    bundle = {key: tensor.detach().clone() for key, tensor in BUNDLES[name].items()}
    disk.put(KEY, BUNDLES[name])
    assert same(disk.get(KEY), bundle)


def test_what_is_read_is_in_memory_of_its_own(disk):
    """Nothing of the file stays open, each tensor owns its bytes, and writing into it changes no file."""
    disk.put(KEY, {"x": torch.arange(100_000 // 8, dtype=torch.float32), "y": torch.ones(1000)})
    before = file_of(disk).read_bytes()
    found = disk.get(KEY)
    assert {name: tensor.untyped_storage().nbytes() for name, tensor in found.items()} == {"x": 50_000, "y": 4000}
    if os.path.exists("/proc/self/maps"):
        assert disk.folder not in Path("/proc/self/maps").read_text()
        assert not [each for each in Path("/proc/self/fd").iterdir() if disk.folder in os.path.realpath(each)]
    found["x"].zero_()
    assert file_of(disk).read_bytes() == before
    file_of(disk).write_bytes(b"")
    assert found["y"].sum() == 1000


def test_what_is_put_is_not_changed(disk):
    before = {"x": torch.arange(6.0).reshape(2, 3).T}
    disk.put(KEY, before)
    assert same(before, {"x": torch.arange(6.0).reshape(2, 3).T})
    assert not before["x"].is_contiguous()


# --- disk: what is a miss


def test_every_truncation_is_a_miss(disk):
    disk.put(KEY, row(1, 10))
    whole = file_of(disk).read_bytes()
    for length in range(len(whole)):
        file_of(disk).write_bytes(whole[:length])
        assert disk.get(KEY) is None, length
    file_of(disk).write_bytes(whole + b"\0")
    assert disk.get(KEY) is None
    file_of(disk).write_bytes(whole)
    assert same(disk.get(KEY), row(1, 10))


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_every_flipped_byte_is_a_miss(mask, disk):
    """In the header's length, in the header and in the data."""
    disk.put(KEY, {"x": torch.arange(5.0), "y": torch.arange(6, dtype=torch.int64)})
    whole = file_of(disk).read_bytes()
    for at in range(len(whole)):
        file_of(disk).write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
        assert disk.get(KEY) is None, (at, whole[max(0, at - 10) : at + 10])


def rewritten(path: Path, change) -> None:
    """Write a file of the store again, with a change of its tensors and metadata."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    change(tensors, metadata)
    save_file(tensors, path, metadata)


CHANGES = {
    "another version": lambda tensors, metadata: metadata.update(zvl_store="2"),
    "no version": lambda tensors, metadata: metadata.pop("zvl_store"),
    "another key": lambda tensors, metadata: metadata.update(key="0" * 64),
    "no key": lambda tensors, metadata: metadata.pop("key"),
    "another checksum": lambda tensors, metadata: metadata.update(checksum="0"),
    "no checksum": lambda tensors, metadata: metadata.pop("checksum"),
    "another name": lambda tensors, metadata: tensors.update(z=tensors.pop("x")),
    "another shape": lambda tensors, metadata: tensors.update(x=tensors["x"].reshape(3, 2)),
    "another dtype": lambda tensors, metadata: tensors.update(x=tensors["x"].view(torch.int32)),
    "one more": lambda tensors, metadata: tensors.update(z=torch.zeros(0)),
    "one less": lambda tensors, metadata: tensors.pop("y"),
    "exchanged": lambda tensors, metadata: tensors.update(x=tensors["y"], y=tensors["x"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_well_formed_file_that_was_changed_is_a_miss(change, disk):
    bundle = {"x": torch.arange(6.0), "y": torch.arange(6.0, 12.0)}
    disk.put(KEY, bundle)
    rewritten(file_of(disk), lambda tensors, metadata: None)
    assert same(disk.get(KEY), bundle), "the change is what makes it a miss"
    rewritten(file_of(disk), CHANGES[change])
    assert disk.get(KEY) is None


def test_a_file_renamed_to_another_keys_name_is_a_miss(disk):
    disk.put(KEY, row(1))
    os.rename(file_of(disk), file_of(disk, "b"))
    assert disk.get("b") is None
    assert disk.get(KEY) is None


FOREIGN = {
    "empty": b"",
    "text": b"hello",
    "zeros": bytes(1000),
    "pickle": b"\x80\x04N.",
    "no metadata": b"\x02\0\0\0\0\0\0\0{}",
    "a list": b"\x02\0\0\0\0\0\0\0[]",
    "deep": (100_000).to_bytes(8, "little") + b"[" * 100_000,
    "a huge header": (2**64 - 1).to_bytes(8, "little") + b"{}",
    "not UTF-8": b"\x04\0\0\0\0\0\0\0{\xff\xff}",
}


@pytest.mark.parametrize("content", FOREIGN)
def test_what_is_no_file_of_the_store_is_a_miss_and_replaced_by_a_put(content, disk):
    disk = Disk(disk.folder, 200_000)
    os.makedirs(disk.folder)
    file_of(disk).write_bytes(FOREIGN[content])
    assert disk.get(KEY) is None
    disk.put(KEY, row(1))
    assert same(disk.get(KEY), row(1))


def header_only(tensor: object, metadata: object, data: bytes) -> bytes:
    header = json.dumps({"__metadata__": metadata, "x": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {},
        None,
        3,
    ],
)
def test_a_header_that_promises_what_is_not_there_is_a_miss(tensor, disk):
    os.makedirs(disk.folder)
    file_of(disk).write_bytes(
        header_only(tensor, {"zvl_store": "1", "key": file_of(disk).name[:64], "checksum": "0"}, bytes(4))
    )
    assert disk.get(KEY) is None


@pytest.mark.parametrize("metadata", [None, [], "x", {"zvl_store": 1}])
def test_metadata_of_another_form_is_a_miss(metadata, disk):
    os.makedirs(disk.folder)
    file_of(disk).write_bytes(header_only({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, metadata, bytes(4)))
    assert disk.get(KEY) is None


def test_a_folder_in_place_of_a_file_is_a_miss_and_is_left_alone(disk, caplog):
    os.makedirs(file_of(disk) / "inside")
    assert disk.get(KEY) is None
    disk.put(KEY, ROW)
    disk.put("b", ROW)
    assert disk.get(KEY) is None
    assert disk.get("b") is not None
    assert disk.clear() == 1
    assert names(disk) == {file_of(disk).name}
    assert (file_of(disk) / "inside").is_dir()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_place_of_a_file_is_a_miss_and_nobody_waits(disk):
    os.makedirs(disk.folder)
    os.mkfifo(file_of(disk))
    reader = threading.Thread(target=disk.get, args=(KEY,), daemon=True)
    reader.start()
    reader.join(10)
    assert not reader.is_alive()
    assert (disk.get(KEY), disk.files()) == (None, [])


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
def test_a_link_is_a_miss_and_what_it_points_to_is_left_alone(disk, tmp_path):
    disk.put(KEY, row(1))
    os.rename(file_of(disk), tmp_path / "mine")
    os.symlink(tmp_path / "mine", file_of(disk))
    assert (disk.get(KEY), disk.size, disk.clear()) == (None, 0, 0)
    disk.put(KEY, row(2))
    assert same(disk.get(KEY), row(2))
    assert same(load_file(tmp_path / "mine"), row(1))


def test_a_folder_that_vanished_is_a_miss_and_made_again(disk):
    disk.put(KEY, ROW)
    shutil.rmtree(disk.folder)
    assert (disk.get(KEY), disk.size, disk.clear()) == (None, 0, 0)
    disk.put(KEY, ROW)
    assert same(disk.get(KEY), ROW)


# --- disk: what can't be written


def test_a_folder_that_can_not_be_made_is_no_error_and_one_warning(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    disk = Disk(str(tmp_path / "file" / "cache"), 100_000)
    with caplog.at_level(logging.DEBUG):
        for key in "abc":
            disk.put(key, ROW)
    assert [disk.get(key) for key in "abc"] == [None] * 3
    assert (disk.size, disk.clear()) == (0, 0)
    assert [(record.levelname, record.name) for record in caplog.records] == [("WARNING", "zvl_ext.store")]
    assert disk.folder in caplog.text


@pytest.mark.skipif(os.name != "posix", reason="needs the rights of posix")
def test_a_read_only_folder_still_answers_and_puts_nothing(disk, caplog):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    disk.put(KEY, row(1))
    os.chmod(disk.folder, 0o500)
    try:
        disk.put("b", row(2))
        disk.put(KEY, row(3))
        assert disk.get("b") is None
        assert same(disk.get(KEY), row(1))
        assert disk.clear() == 0
        assert names(disk) == {file_of(disk).name}
        assert len(caplog.records) == 1
        os.chmod(disk.folder, 0)
        assert (disk.get(KEY), disk.size, disk.clear()) == (None, 0, 0)
    finally:
        os.chmod(disk.folder, 0o700)
    os.chmod(file_of(disk), 0)
    assert disk.get(KEY) is None
    disk.put(KEY, row(4))
    assert same(disk.get(KEY), row(4))


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_full_disk_puts_nothing_leaves_nothing_half_written_and_warns_once(disk, root):
    """A real failure in the middle of the write, in a process of its own for its limit."""
    script = """
import resource, sys, torch
from zvl_ext.store import Disk
disk = Disk(sys.argv[1], 10**7)
disk.put("small", {"x": torch.zeros(100)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for key in "abc":
    disk.put(key, {"x": torch.zeros(100_000)})
    assert disk.get(key) is None
assert disk.get("small") is not None
"""
    done = subprocess.run(
        [sys.executable, "-c", script, disk.folder], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stderr.splitlines() if "Z-Image VL" in line]) == 1, done.stderr
    assert names(disk) == {file_of(disk, "small").name}


def test_an_interrupted_put_leaves_nothing_half_written(disk, monkeypatch):
    import safetensors.torch

    def half(tensors, path, metadata=None):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    disk.put(KEY, row(1))
    monkeypatch.setattr(safetensors.torch, "save_file", half)
    with pytest.raises(KeyboardInterrupt):
        disk.put(KEY, row(2))
    assert same(disk.get(KEY), row(1))
    assert names(disk) == {file_of(disk).name}


# --- disk: what is bounded


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


# --- two processes


WORK = """
import sys, torch
from zvl_ext.store import Disk
torch.set_num_threads(1)
disk, hits = Disk(sys.argv[1], int(sys.argv[2])), 0
print("ready", flush=True)
sys.stdin.readline()
for i in range(200):
    key = ("k", i * 7 % 5)
    found = disk.get(key)
    if found is not None:
        hits += 1
        assert found["x"].dtype == torch.bfloat16 and (found["x"] == key[1]).all(), key
    disk.put(key, {"x": torch.full((2000,), key[1], dtype=torch.bfloat16)})
    if i % 50 == 49:
        disk.clear()
print(hits)
"""


def test_two_processes_on_one_folder_do_not_trip_each_other(disk, root):
    """Room for three of five keys, so that each removes what the other writes and reads."""
    command = [sys.executable, "-c", WORK, disk.folder, "14000"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    workers = [subprocess.Popen(command, cwd=root, text=True, **pipes) for _ in range(2)]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 2
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        out, err = worker.communicate(timeout=120)
        assert (worker.returncode, err) == (0, "")
        assert int(out) > 0
    disk.put(KEY, ROW)
    assert all(name.endswith(".zvl.safetensors") for name in names(disk))

"""What is written to disk comes back bit for bit, and what can't be written is no error."""

import errno
import io
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from stored import KEY, ROW, file_of, names, row, same

from zvl_ext import folder
from zvl_ext.store import Disk, data_folder

# --- what is written


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


# --- what can't be written


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
        assert disk.get(KEY) is None, "the newer value could not be kept, the older one must not come back"
        assert same(Disk(disk.folder, disk.limit).get(KEY), row(1))
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
    def stop(source, target):
        assert Path(source).stat().st_size > 4000
        raise KeyboardInterrupt

    disk.put(KEY, row(1))
    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        disk.put(KEY, row(2))
    assert same(disk.get(KEY), row(1))
    assert names(disk) == {file_of(disk).name}


def failing(monkeypatch, error: int, room: Callable[[], bool]) -> None:
    """Let files of the store be written only while there is room."""

    class Full(io.FileIO):
        def write(self, data):
            if not room():
                super().write(data[:100])
                raise OSError(error, os.strerror(error))
            return super().write(data)

    def opened(file, mode, **more):
        return Full(file, mode) if mode == "xb" else open(file, mode, **more)

    monkeypatch.setattr(folder, "open", opened, raising=False)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_on_a_full_disk_the_newest_is_kept_and_the_least_recently_used_make_room(error, disk, monkeypatch, caplog):
    for key in "abc":
        disk.put(key, row(ord(key)))
        time.sleep(0.002)
    disk.get("a")
    monkeypatch.setattr(disk, "limit", 10**9)
    failing(monkeypatch, error, lambda: len(disk.files()) < 3)
    for key in "defg":
        time.sleep(0.002)
        disk.put(key, row(ord(key)))
        assert same(disk.get(key), row(ord(key)))
    assert len(names(disk)) == 3
    assert len(caplog.records) == 1
    assert os.strerror(error) in caplog.text


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_value_that_can_not_be_written_does_not_leave_the_old_one(error, disk, monkeypatch, caplog):
    disk.put(KEY, row(1))
    failing(monkeypatch, error, lambda: False)
    disk.put(KEY, row(2))
    assert (disk.get(KEY), names(disk)) == (None, set())
    assert len(caplog.records) == 1


def test_where_nothing_can_be_removed_either_the_old_value_does_not_come_back(disk, monkeypatch):
    """A folder that has become read-only."""
    disk.put(KEY, row(1))
    disk.put("b", row(2))
    with monkeypatch.context() as readonly:
        failing(readonly, errno.EROFS, lambda: False)

        def refuse(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        readonly.setattr(os, "remove", refuse)
        disk.put(KEY, row(3))
        assert disk.get(KEY) is None
        assert same(disk.get("b"), row(2))
    disk.put(KEY, row(4))
    assert same(disk.get(KEY), row(4))


@pytest.mark.parametrize("bundle", [{"x": torch.zeros(2, 2).to_sparse()}, {"x": torch.zeros(2, device="meta")}])
def test_what_safetensors_can_not_hold_is_not_kept_and_no_error(bundle, disk, caplog):
    disk.put(KEY, row(1))
    disk.put(KEY, bundle)
    assert disk.get(KEY) is None
    assert len(caplog.records) == 1


@pytest.mark.skipif(os.name != "posix", reason="needs the rights of posix")
@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_has_the_rights_of_any_new_file(umask, rights, disk):
    before = os.umask(umask)
    try:
        disk.put(KEY, ROW)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file_of(disk).stat().st_mode) == rights


@pytest.mark.parametrize("library", ["torch", "transformers", "zvl_ext", "PIL"])
def test_what_another_version_made_is_a_miss_and_is_replaced(library, disk, monkeypatch):
    disk.put(KEY, row(1))
    assert same(disk.get(KEY), row(1))
    monkeypatch.setattr(f"{library}.__version__", "9.9")
    assert disk.get(KEY) is None
    disk.put(KEY, row(2))
    assert same(disk.get(KEY), row(2))
    assert len(disk.files()) == 1
    monkeypatch.undo()
    assert disk.get(KEY) is None


# --- two processes


WORK = """
import sys, torch
from zvl_ext.store import Disk
torch.set_num_threads(1)
disk, hits = Disk(sys.argv[1], int(sys.argv[2])), 0
print("ready", flush=True)
sys.stdin.readline()
for i in range(200):
    key = ("k", i * i % 7 % 5)
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

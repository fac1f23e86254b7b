"""Whatever is wrong with a file on disk, it is a miss."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stored import KEY, ROW, file_of, names, row, same

from zvl_ext.store import Disk


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

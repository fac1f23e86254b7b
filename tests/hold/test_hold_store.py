"""Generated entries of the store: whatever a file holds, the store answers with what was put or with nothing."""

from __future__ import annotations

import json
import os
import tempfile

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from bounds import bounded, generated
from stored import KEY, file_of, same

from zvl_ext import entry
from zvl_ext.engines.kept import sound_states
from zvl_ext.store import Disk, Store

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
tensors = st.builds(
    lambda shape, dtype, fill: torch.full(shape, fill).to(dtype),
    st.lists(st.integers(0, 5), max_size=4),
    st.sampled_from(DTYPES),
    st.floats(width=32),
)
bundles = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), tensors, max_size=4)
LIMIT = 10**5


@hypothesis.given(
    bundles, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4), st.integers(0, 3)
)
@generated(80)
def test_a_damaged_file_is_a_miss(bundle, flips, cut) -> None:
    with tempfile.TemporaryDirectory() as folder, bounded():
        disk = Disk(folder, LIMIT)
        disk.put(KEY, bundle)
        assert same(disk.get(KEY), bundle)
        whole = file_of(disk).read_bytes()
        data = bytearray(whole)
        for at, value in flips:
            data[at % len(data)] = value
        data = bytes(data[: len(data) * (4 - cut) // 4])
        file_of(disk).write_bytes(data)
        found = disk.get(KEY)
        assert found is None or data == whole, "crc32 does not miss four bytes this near each other"
        disk.put(KEY, bundle)
        assert same(disk.get(KEY), bundle)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
described = st.fixed_dictionaries(
    {}, optional={"dtype": st.sampled_from(["F32", "BF16", "F4", 3]) | json_values, "shape": json_values,
                  "data_offsets": st.lists(st.integers(-5, 2**64), max_size=3) | json_values}
)  # fmt: skip
headers = st.dictionaries(st.sampled_from(["x", "__metadata__", ""]) | st.text(max_size=5), described | json_values)


@hypothesis.given(headers | json_values, st.integers(-3, 3), st.binary(max_size=64))
@hypothesis.example({"__metadata__": {"zvl_store": "1"}}, 2**40, b"")
@hypothesis.example([], 0, b"[" * 10**6)
@generated(100)
def test_a_file_with_any_header_is_a_miss(header, more, data) -> None:
    with tempfile.TemporaryDirectory() as folder, bounded():
        disk = Disk(folder, 10**8)
        if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
            header["__metadata__"] |= {"zvl_store": entry.VERSION, "key": entry.digest(KEY), "made_by": entry.made_by()}
        text = json.dumps(header).encode()
        file_of(disk).write_bytes(max(len(text) + more, 0).to_bytes(8, "little") + text + data)
        assert disk.get(KEY) is None
        assert Store(disk=disk).get(KEY) is None


@hypothesis.given(bundles)
@generated(60)
def test_only_states_of_the_form_asked_for_are_gone_on_with(bundle) -> None:
    with tempfile.TemporaryDirectory() as folder, bounded():
        Disk(folder, LIMIT).put(KEY, bundle)
        found = Store(disk=Disk(folder, LIMIT)).get(KEY, lambda bundle: sound_states(bundle, (2, 3)))
        right = all(t.dtype == torch.float32 and t.shape == (2, 3) and t.isfinite().all() for t in bundle.values())
        assert (found is not None) == right


operations = st.lists(
    st.tuples(st.sampled_from(["put", "get", "clear", "limit", "kill"]), st.integers(0, 4), st.integers(0, 3000)),
    max_size=25,
)


@hypothesis.given(operations)
@generated(60)
def test_whatever_is_done_the_limit_holds_and_the_last_value_comes_back(steps) -> None:
    with tempfile.TemporaryDirectory() as folder, bounded():
        disk, last = Disk(folder, 8000), {}
        for what, key, number in steps:
            if what == "put":
                last[key] = {"x": torch.full((number,), key, dtype=torch.uint8), "n": torch.tensor(number)}
                disk.put(key, last[key])
            elif what == "get":
                found = disk.get(key)
                assert found is None or same(found, last[key])
            elif what == "clear":
                disk.clear()
                last.clear()
            elif what == "limit":
                disk.limit = 4 * number
            else:
                with open(os.path.join(folder, f"{number:032x}.zvl.tmp"), "wb") as file:
                    file.write(bytes(number))
            if what == "put":
                assert disk.size <= disk.limit
                assert disk.size == sum(each.stat().st_size for each in os.scandir(folder))


@pytest.mark.parametrize("kind", ["pipe", "zero", "folder", "loop"])
def test_what_is_no_file_is_a_miss_and_counts_nothing(kind, tmp_path) -> None:
    disk = Disk(str(tmp_path), LIMIT)
    path = file_of(disk)
    {
        "pipe": lambda: os.mkfifo(path),
        "zero": lambda: path.symlink_to("/dev/zero"),
        "folder": path.mkdir,
        "loop": lambda: path.symlink_to(path),
    }[kind]()
    with bounded():
        assert (disk.get(KEY), disk.size, disk.files()) == (None, 0, [])
        for folder in (str(path), "/dev/zero", str(tmp_path / "a\0b"), ""):
            other = Disk(folder, LIMIT)
            other.put("b", {"x": torch.zeros(3)})
            assert other.clear() in (0, 1)
            assert other.get("b") is None

"""Used references on disk: bounded, by digest, and nothing but the picture of that digest comes back."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
from PIL import Image

from zvl_ext.reference import open_reference
from zvl_ext.webui.infotext import DIGEST
from zvl_ext.webui.references import ReferenceFolder


def key_of(image: Image.Image) -> str:
    return open_reference(image).digest[:DIGEST]


class Kept:
    def __init__(self, folder: Path) -> None:
        self.limit = 2**20
        self.path = folder
        self.folder = ReferenceFolder(str(folder), lambda: self.limit)

    def put(self, seed: int) -> str:
        image = tiny.picture(40, 24, seed=seed)
        self.folder.put(key_of(image), image)
        return key_of(image)

    @property
    def files(self) -> list[str]:
        return sorted(os.listdir(self.path)) if self.path.exists() else []


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "data" / "references")


def test_what_was_put_comes_back_to_the_last_pixel(kept: Kept) -> None:
    key = kept.put(1)
    again = ReferenceFolder(str(kept.path), lambda: 0)  # another process
    assert again.get(key).tobytes() == tiny.picture(40, 24, seed=1).tobytes()
    assert kept.files == [f"{key}.zvl.png"]
    assert kept.folder.size == os.path.getsize(kept.path / kept.files[0])


@pytest.mark.skipif(os.name == "nt", reason="modes of files")
def test_nobody_else_can_look(kept: Kept) -> None:
    kept.put(1)
    assert stat.S_IMODE(os.stat(kept.path / kept.files[0]).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(kept.path).st_mode) == 0o700


def test_the_longest_unused_goes_first(kept: Kept) -> None:
    one = kept.put(1)
    kept.limit = kept.folder.size * 5 // 2
    for key, seed in ((one, 1), (None, 2)):
        key = kept.put(seed)
        os.utime(kept.path / f"{key}.zvl.png", (seed, seed))
    assert kept.folder.get(one) is not None  # used now
    three = kept.put(3)
    assert kept.files == sorted(f"{key}.zvl.png" for key in (one, three))


def test_nothing_is_kept_where_nothing_is_to_be(kept: Kept) -> None:
    kept.limit = 0
    kept.put(1)
    assert kept.files == []
    kept.limit = 100
    kept.put(1)
    assert kept.files == [], "larger than all there is"


def test_a_smaller_limit_counts_at_the_next_picture(kept: Kept) -> None:
    kept.put(1)
    kept.limit = 0
    kept.put(2)
    assert kept.files == []


@pytest.mark.parametrize(
    "key", ["", "0123", "../../secret", "0123456789aB", "a" * 13, "0123456789ag", "..", "0123456789a\n"]
)
def test_what_is_no_digest_is_never_a_file(kept: Kept, key: str) -> None:
    kept.put(1)
    before = kept.files
    kept.folder.put(key, tiny.picture(40, 24))
    assert kept.folder.get(key) is None
    assert kept.files == before


@pytest.mark.parametrize("content", [b"", b"text", None], ids=["empty", "text", "another picture"])
def test_what_is_not_the_picture_of_its_name_is_a_miss(kept: Kept, content: bytes | None) -> None:
    key = kept.put(1)
    other = tiny.encoded(tiny.picture(40, 24, seed=2), "PNG")
    (kept.path / f"{key}.zvl.png").write_bytes(other if content is None else content)
    assert kept.folder.get(key) is None


def test_clearing_removes_what_is_ours_alone(kept: Kept) -> None:
    kept.put(1)
    (kept.path / "holiday.png").write_bytes(b"x")
    (kept.path / ("0" * 32 + ".zvl.tmp")).write_bytes(b"x")
    kept.folder.clear()
    assert kept.files == ["holiday.png"]
    assert kept.folder.size == 0


def test_what_a_killed_process_left_goes_after_a_while(kept: Kept) -> None:
    kept.put(1)
    for name, age in (("0" * 32, 7200), ("1" * 32, 0)):
        (kept.path / f"{name}.zvl.tmp").write_bytes(b"x")
        os.utime(kept.path / f"{name}.zvl.tmp", (time.time() - age,) * 2)
    kept.put(2)
    assert [name for name in kept.files if name.endswith(".tmp")] == ["1" * 32 + ".zvl.tmp"]


def test_a_disk_that_takes_nothing_is_said_once(kept: Kept, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    kept.put(1)
    kept.put(2)
    assert [record.message for record in caplog.records] == [
        f"Z-Image VL: no references can be kept in {kept.path} (No space left on device)."
    ]
    assert kept.files == []
